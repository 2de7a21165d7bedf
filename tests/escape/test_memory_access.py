"""Packages with numpy give code every address of its own memory; it stays in the sandbox, and so do its deadlines.

These run on an image with numpy: `pytest tests/escape --image FOLDER`.
"""

from pathlib import Path

import pytest

from wasm_runtime import Limits, Runtime, Session
from wasm_runtime.compile_cache import load_image
from wasm_runtime.machine.memory import INTERRUPT_ADDRESS, KILL_ADDRESS

LIMITS = Limits(memory_bytes=128 << 20, cell_seconds=20.0)
AT = f"""
import numpy as np
KILL, INTERRUPT = {KILL_ADDRESS}, {INTERRUPT_ADDRESS}
def at(address, size):
    class Array:
        __array_interface__ = {{"data": (address, False), "shape": (size,), "typestr": "|u1", "version": 3}}
    return np.asarray(Array())
"""


@pytest.fixture(autouse=True)
def _needs_numpy(image: Path | None) -> None:
    if image is None or "numpy" not in load_image(image).imports:
        pytest.skip("the image has no numpy")


def test_code_reads_and_writes_its_own_memory(session: Session) -> None:
    session.exec(AT)
    assert session.exec("b = bytearray(b'abc'); at(id(b) + 20, 4).view('u4')[0] > 0").value == "np.True_"


@pytest.mark.parametrize(
    "code",
    [
        "words = at(INTERRUPT, 128)\nwhile True:\n    words[:] = 0",
        "many = np.lib.stride_tricks.as_strided(at(KILL, 4), (1 << 20, 4), (0, 1))\nwhile True: many[:] = 0",
        "at(16, 4096)[:] = 0\nwhile True: pass",
    ],
    ids=["from Python", "from C", "the first page"],
)
def test_code_that_clears_the_words_which_stop_it_is_stopped(session: Session, code: str) -> None:
    session.exec(AT)
    assert session.exec(code, seconds=0.5).stopped_by == "deadline"


@pytest.mark.parametrize(
    "code",
    [
        "at(16, 1 << 20)[:] = 255",
        "at(1 << 20, 40 << 20)[:] = 0",
        "at(id(None), 64)[:] = 255; None",
        "at(id(at.__code__), 128)[:] = 170; at(16, 1)",
        "np.random.seed(0); at(16, 60 << 20).view('u4')[:] = np.random.randint(0, 2**31, (60 << 18)); 1",
        "at((1 << 32) - 4096, 8192)[:] = 1",
        "at(16, (1 << 31) - 1)[:] = 1",
    ],
)
def test_a_guest_that_destroys_its_memory_harms_nothing_else(runtime: Runtime, code: str) -> None:
    with runtime.session(limits=LIMITS) as other:
        other.exec("mine = 41")
        with runtime.session(limits=LIMITS, calls={"echo": lambda value: value}) as session:
            session.exec(AT)
            session.exec(code, seconds=2.0)
            session.exec("echo(1)", seconds=2.0)
            session.reset()
            assert session.exec("6 * 7").value == "42"
        assert other.exec("mine + 1").value == "42"


def test_output_that_claims_to_be_longer_than_memory_is_cut(runtime: Runtime) -> None:
    pending = runtime.image.stdout_pending
    with runtime.session(limits=LIMITS) as session:
        session.exec(AT)
        result = session.exec(f"at({pending}, 4)[:] = 255\nwhile True: pass", seconds=0.5)
        assert (result.stopped_by, len(result.stdout) <= LIMITS.output_bytes) == ("deadline", True)
        assert session.exec("6 * 7").value == "42"


def test_memory_of_other_sessions_is_not_in_reach(runtime: Runtime) -> None:
    secret = "a8F3" * 4
    with runtime.session(limits=LIMITS) as other, runtime.session(limits=LIMITS) as session:
        other.exec(f"secret = 'b' + {secret!r}")
        session.exec(AT)
        searched = session.exec(f"bytes(at(16, 60 << 20)).count(b'b' + ({secret[:4]!r} * 4).encode())")
        assert searched.value == "0"

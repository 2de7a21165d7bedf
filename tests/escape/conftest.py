"""One runtime per test module, and sessions that are checked after the attack.

Whatever a test does to `session`, afterwards its variables still exist and the next cell ends within a second. Once it
is closed, the process has the same threads, children, descriptors and free memory as before.
`broken_session` is for attacks on the session's own internals, which only `reset` is promised to repair.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasm_runtime import Limits, Runtime, Session

BUDGET_BYTES = 1 << 30
LIMITS = Limits(memory_bytes=128 << 20, cell_seconds=20.0, output_bytes=1 << 16)
MAIN_THREAD_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")
# Threads that all sessions share; they are created on first use, and end with the runtime.
POOLS = ("wasm-call", "wasm-copy")
KEPT = "['kept', 41]"


def open_descriptors() -> int:
    """Return how many files this process has open, if the system reports it."""
    mine = Path("/proc/self/fd")
    return len(list(mine.iterdir())) if mine.exists() else 0


def host_state() -> dict[str, object]:
    """Return the state of this process that an attack must not change."""
    return {
        "threads": sorted(t.name for t in threading.enumerate() if not t.name.startswith(POOLS)),
        "children": MAIN_THREAD_CHILDREN.read_text() if MAIN_THREAD_CHILDREN.exists() else "",
        "working directory": Path.cwd(),
    }


@pytest.fixture(scope="module")
def runtime(image: Path | None) -> Iterator[Runtime]:
    with Runtime(image=image, memory_budget_bytes=BUDGET_BYTES) as runtime:
        with runtime.session(limits=LIMITS) as first:  # starts the deadline thread, opens the page map
            first.exec("kept = 1")
        yield runtime


@pytest.fixture
def session(runtime: Runtime) -> Iterator[Session]:
    before, descriptors, budget = host_state(), open_descriptors(), runtime.budget.available()
    with runtime.session(limits=LIMITS, calls={"echo": lambda value: value}) as session:
        assert session.exec("kept = ['kept']\nkept.append(41)").error is None
        yield session
        assert session.exec("kept", seconds=20).value == KEPT
        assert session.exec("kept[1] + 1", seconds=20).value == "42"
    assert host_state() == before
    assert open_descriptors() <= descriptors
    assert runtime.budget.available() == budget


@pytest.fixture
def broken_session(runtime: Runtime) -> Iterator[Session]:
    before, descriptors, budget = host_state(), open_descriptors(), runtime.budget.available()
    with runtime.session(limits=LIMITS, calls={"echo": lambda value: value}) as session:
        yield session
        session.reset()
        assert session.exec("6 * 7", seconds=20).value == "42"
        assert session.exec("print(echo('hello'))", seconds=20).stdout == "hello\n"
    assert host_state() == before
    assert open_descriptors() <= descriptors
    assert runtime.budget.available() == budget

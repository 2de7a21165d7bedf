"""Checkpoints as bytes: restored unchanged; bytes that are not a checkpoint are refused before unpacking."""

import json
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from wasm_runtime import Checkpoint, SnapshotMismatch

SAVED = Checkpoint(
    image="ab" * 32,
    runs=[(4096, b"x" * 4096), (1 << 20, b"y" * 8192)],
    memory_bytes=32 << 20,
    globals=(5_000_000, 0, -1, 0),
    files=b"the files",
    execs=7,
)


def packed(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return b"WRCP1\n" + struct.pack("<I", len(text)) + text + zstandard.compress(body)


def header(**changes: object) -> dict[str, object]:
    told: dict[str, object] = {
        "image": SAVED.image,
        "runs": [[start, len(data)] for start, data in SAVED.runs],
        "memory_bytes": SAVED.memory_bytes,
        "globals": list(SAVED.globals),
        "files": len(SAVED.files),
        "execs": 7,
    }
    return told | changes


BODY = b"".join([*(data for _, data in SAVED.runs), SAVED.files])


def test_a_checkpoint_comes_back_from_its_bytes() -> None:
    assert Checkpoint.from_bytes(SAVED.to_bytes()) == SAVED
    assert Checkpoint.from_bytes(packed(header(), BODY)) == SAVED


def test_its_bytes_are_compressed() -> None:
    assert len(SAVED.to_bytes()) < 1000


def test_its_repr_shows_no_memory() -> None:
    assert "xxxx" not in repr(SAVED)


@pytest.mark.parametrize("length", [0, 3, 6, 9, 10, 50, 200, -1])
def test_bytes_cut_short_are_refused(length: int) -> None:
    with pytest.raises(SnapshotMismatch, match="not a whole checkpoint"):
        Checkpoint.from_bytes(SAVED.to_bytes()[:length])


@pytest.mark.parametrize(
    "change",
    [
        {"runs": [[-4096, 4096], [0, 8192]]},
        {"runs": [[0, -1], [0, 12289]]},
        {"runs": [[32 << 20, 4096], [0, 8192]]},
        {"runs": [[(32 << 20) - 1, 4096], [0, 8192]]},
        {"runs": [[1 << 64, 4096], [0, 8192]]},
        {"runs": [[0, 1 << 62]]},
        {"runs": [[0]]},
        {"runs": [["a", "b"]]},
        {"runs": [[1e400, 1]]},
        {"runs": "ab"},
        {"runs": None},
        {"memory_bytes": 0},
        {"memory_bytes": -1},
        {"memory_bytes": 1 << 40},
        {"memory_bytes": "much"},
        {"globals": [1, 2, 3]},
        {"globals": [1, 2, 3, 1 << 40]},
        {"globals": [1, 2, 3, None]},
        {"globals": {}},
        {"files": -9},
        {"files": 1 << 60},
        {"files": None},
        {"execs": []},
    ],
)
def test_a_header_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SnapshotMismatch):
        Checkpoint.from_bytes(packed(header(**change), BODY))


@pytest.mark.parametrize("told", [[], 5, "text", None, {}, [[]]])
def test_a_header_of_another_kind_is_refused(told: object) -> None:
    with pytest.raises(SnapshotMismatch):
        Checkpoint.from_bytes(packed(told, BODY))


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.compress(bytes(1 << 26))
    text = json.dumps(header()).encode()
    with pytest.raises(SnapshotMismatch, match="67108864 of 12297 bytes"):
        Checkpoint.from_bytes(b"WRCP1\n" + struct.pack("<I", len(text)) + text + bomb)


def test_a_header_nested_deeply_is_refused() -> None:
    text = b"[" * 100_000
    with pytest.raises(SnapshotMismatch):
        Checkpoint.from_bytes(b"WRCP1\n" + struct.pack("<I", len(text)) + text)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for attempt in (data, b"WRCP1\n" + data, b"WRCP1\n" + struct.pack("<I", 2) + b"{}" + data):
        with pytest.raises(SnapshotMismatch):
            Checkpoint.from_bytes(attempt)


@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_gives_a_checkpoint_all_the_same(position: int, value: int) -> None:
    data = bytearray(SAVED.to_bytes())
    data[position % len(data)] = value
    try:
        changed = Checkpoint.from_bytes(bytes(data))
    except SnapshotMismatch:
        return
    assert all(start >= 0 and start + len(part) <= changed.memory_bytes for start, part in changed.runs)

"""Checkpoints as bytes: restored unchanged; bytes that are not a checkpoint are refused before unpacking."""

import json
import struct
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from wasm_runtime import Checkpoint, SnapshotMismatch, Template
from wasm_runtime.machine.template_memory import TemplateMemory

SAVED = Checkpoint(
    image="ab" * 32,
    runs=[(4096, b"x" * 4096), (1 << 20, b"y" * 8192)],
    memory_bytes=32 << 20,
    globals=(5_000_000, 0, -1, 0),
    files=b"the files",
    execs=7,
)
WHOLE = bytearray(32 << 20)
WHOLE[4096 : 4096 + len(b"of the template")] = b"of the template"
TEMPLATE = Template(
    state=SAVED,
    memory=TemplateMemory(
        runs=[(4096, bytes(WHOLE[4096:8192]))],
        image=[(4096, bytes(4096))],
        memory_bytes=len(WHOLE),
        whole=bytes(WHOLE),
        file=None,
    ),
    digest="cd" * 32,
)
IN_TEMPLATE = replace(
    SAVED,
    runs=[(4096, bytes(WHOLE[4096:4352]) + b"x" * 3840 + bytes(4096)), (32 << 20, b"y" * 4096)],
    memory_bytes=33 << 20,
    template=TEMPLATE,
)
WAYS = [(b"WRCP1\n", {}), (b"WRCP2\n", {"template": TEMPLATE.digest})]


def packed(header: object, body: bytes, magic: bytes = b"WRCP1\n") -> bytes:
    text = json.dumps(header).encode()
    return magic + struct.pack("<I", len(text)) + text + zstandard.compress(body)


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


def test_a_checkpoint_without_its_template_has_the_blocks_that_differ_from_it() -> None:
    data = IN_TEMPLATE.to_bytes(with_template=False)
    found = Checkpoint.from_bytes(data, TEMPLATE)
    assert found == replace(IN_TEMPLATE, runs=[(4352, b"x" * 3840), (32 << 20, b"y" * 4096)])
    assert Checkpoint.from_bytes(found.to_bytes(with_template=False), TEMPLATE) == found


def test_a_checkpoint_with_its_template_is_the_difference_from_the_image() -> None:
    written = [(8192, b"z" * 4096)]
    saved = replace(IN_TEMPLATE, runs=written)
    whole = replace(saved, runs=[*TEMPLATE.memory.runs, *written], template=None)
    assert Checkpoint.from_bytes(saved.to_bytes()) == Checkpoint.from_bytes(saved.to_bytes(), TEMPLATE) == whole
    assert IN_TEMPLATE.whole().runs == IN_TEMPLATE.runs, "where it was written, nothing is left of the template"


def test_part_of_a_page_does_not_stand_for_the_whole_in_the_difference_from_the_image() -> None:
    found = Checkpoint.from_bytes(replace(IN_TEMPLATE, runs=[(4096, b"z" * 256)]).to_bytes())
    assert found.runs == [*TEMPLATE.memory.runs, (4096, b"z" * 256)]


@pytest.mark.parametrize("template", [None, replace(TEMPLATE, digest="ef" * 32)])
def test_a_checkpoint_without_its_template_is_refused_where_there_is_another(template: Template | None) -> None:
    with pytest.raises(SnapshotMismatch, match="this checkpoint goes with the template 'cdcdcdcd"):
        Checkpoint.from_bytes(IN_TEMPLATE.to_bytes(with_template=False), template)


@pytest.mark.parametrize("told", [{}, {"template": None}, {"template": 5}, {"template": [TEMPLATE.digest]}])
def test_a_checkpoint_that_names_no_template_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(SnapshotMismatch):
        Checkpoint.from_bytes(packed(header(**told), BODY, b"WRCP2\n"), TEMPLATE)


def test_its_bytes_are_compressed() -> None:
    assert len(SAVED.to_bytes()) < 1000


def test_its_repr_shows_no_memory() -> None:
    assert "xxxx" not in repr(SAVED)


@pytest.mark.parametrize("length", [0, 3, 6, 9, 10, 50, 200, -1])
def test_bytes_cut_short_are_refused(length: int) -> None:
    for data in (SAVED.to_bytes(), IN_TEMPLATE.to_bytes(with_template=False)):
        with pytest.raises(SnapshotMismatch, match="not a whole checkpoint"):
            Checkpoint.from_bytes(data[:length], TEMPLATE)


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
    for magic, named in WAYS:
        with pytest.raises(SnapshotMismatch, match="not a whole checkpoint"):
            Checkpoint.from_bytes(packed(header(**named, **change), BODY, magic), TEMPLATE)


@pytest.mark.parametrize("told", [[], 5, "text", None, {}, [[]]])
def test_a_header_of_another_kind_is_refused(told: object) -> None:
    for magic, _ in WAYS:
        with pytest.raises(SnapshotMismatch):
            Checkpoint.from_bytes(packed(told, BODY, magic), TEMPLATE)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.compress(bytes(1 << 26))
    for magic, named in WAYS:
        text = json.dumps(header(**named)).encode()
        with pytest.raises(SnapshotMismatch, match="67108864 of 12297 bytes"):
            Checkpoint.from_bytes(magic + struct.pack("<I", len(text)) + text + bomb, TEMPLATE)


def test_a_header_nested_deeply_is_refused() -> None:
    text = b"[" * 100_000
    with pytest.raises(SnapshotMismatch):
        Checkpoint.from_bytes(b"WRCP1\n" + struct.pack("<I", len(text)) + text)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for magic, _ in WAYS:
        for attempt in (data, magic + data, magic + struct.pack("<I", 2) + b"{}" + data):
            with pytest.raises(SnapshotMismatch):
                Checkpoint.from_bytes(attempt, TEMPLATE)


@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_gives_a_checkpoint_all_the_same(position: int, value: int) -> None:
    for whole in (SAVED.to_bytes(), IN_TEMPLATE.to_bytes(with_template=False)):
        data = bytearray(whole)
        data[position % len(data)] = value
        try:
            changed = Checkpoint.from_bytes(bytes(data), TEMPLATE)
        except SnapshotMismatch:
            continue
        assert all(start >= 0 and start + len(part) <= changed.memory_bytes for start, part in changed.runs)

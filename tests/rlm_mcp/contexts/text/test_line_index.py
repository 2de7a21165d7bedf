from functools import partial
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_mcp.contexts.text import reading
from rlm_mcp.contexts.text.line_index import BLOCK_BYTES, Counts, IndexBuilder, build_index, map_index, write_index

UNITS = ("é", "x", "日本語\n", "\n", "\r\n", "line of text\n", "\U0001f600")
runs = st.tuples(st.sampled_from(UNITS), st.sampled_from([0, 1, 3, 9_000, 70_000]))
texts = st.lists(runs, max_size=4)


def built(runs: list[tuple[str, int]]) -> str:
    return "".join(unit * count for unit, count in runs)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lineindex") / "text"


def counted(text: str) -> Counts:
    """The expected counts, computed in the simplest way."""
    data = text.encode()
    lines = data.split(b"\n")
    return Counts(
        bytes=len(data),
        chars=len(text),
        lines=len(lines) - (not lines[-1]),
        longest_line=max(map(len, lines)),
    )


@settings(deadline=None)
@given(texts, st.sampled_from([999, 65_535, 65_536, 65_537, 200_000]))
def test_counts_do_not_depend_on_the_pieces_a_text_is_fed_in(runs: list[tuple[str, int]], size: int) -> None:
    builder = IndexBuilder()
    text = built(runs)
    data = text.encode()
    for start in range(0, len(data), size):
        builder.feed(data[start : start + size])
    assert builder.counts() == counted(text)
    assert list(builder.index().lines_before) == list(build_index(data).lines_before)
    assert list(builder.index().chars_before) == list(build_index(data).chars_before)


@settings(deadline=None)
@given(runs=texts)
def test_every_line_and_character_is_found_at_its_byte(path: Path, runs: list[tuple[str, int]]) -> None:
    text = built(runs)
    data = text.encode()
    index = build_index(data)
    path.write_bytes(data)
    read = partial(reading.read_bytes, path)
    starts = list(accumulate((len(line) for line in data.split(b"\n")[:-1]), lambda at, size: at + size + 1, initial=0))
    for line in {1, 2, len(starts) // 2 + 1, len(starts)} & set(range(1, index.counts.lines + 1)):
        assert reading.byte_of_line(read, index, line) == starts[line - 1]
        assert reading.char_of_byte(read, index, starts[line - 1]) == len(data[: starts[line - 1]].decode())
    for char in {0, 1, len(text) // 2, len(text) - 1} & set(range(len(text))):
        byte = reading.byte_of_char(read, index, char)
        assert byte == len(text[:char].encode())
        assert reading.char_of_byte(read, index, byte) == char


def test_an_index_file_reads_back_as_it_was(tmp_path: Path) -> None:
    index = build_index(("line é\n" * 40_000).encode())
    with (tmp_path / "a.index").open("wb") as file:
        write_index(index, file)
    mapped = map_index(tmp_path / "a.index")
    assert mapped.counts == index.counts
    assert list(mapped.lines_before) == list(index.lines_before)
    assert list(mapped.chars_before) == list(index.chars_before)
    assert len(mapped.lines_before) == -(-index.counts.bytes // BLOCK_BYTES)


@pytest.mark.parametrize("torn", [b"", b"rlmlines", b"x" * 500])
def test_a_torn_index_file_is_refused(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "a.index").write_bytes(torn)
    with pytest.raises(ValueError, match=r"too short|not a line index|empty file"):
        map_index(tmp_path / "a.index")

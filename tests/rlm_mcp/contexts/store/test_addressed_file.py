import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import LineAddress, LineRange
from rlm_mcp.errors import OutOfRange

TEXT = "one\r\ntwo é\n\nfour\n"


def test_lines_are_read_with_their_ends(store: Store) -> None:
    context = store.register_text(TEXT)
    assert store.read_lines(context, 2, 3) == LineRange(
        path="text.txt", start_line=2, end_line=3, text="two é\n\n", truncated=False, next_start_line=4
    )
    assert store.read_lines(context, 1).text == TEXT


def test_negative_lines_count_from_the_end(store: Store) -> None:
    context = store.register_text(TEXT)
    assert store.read_lines(context, -2).text == "\nfour\n"
    assert store.read_lines(context, 1, -2).text == "one\r\ntwo é\n\n"
    assert store.read_lines(context, -99, 1).text == "one\r\n"


def test_an_end_beyond_the_last_line_is_the_last_line(store: Store) -> None:
    lines = store.read_lines(store.register_text(TEXT), 4, 1_000_000)
    assert (lines.end_line, lines.text, lines.next_start_line) == (4, "four\n", None)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (5, 9), (3, 2), (2, -4)])
def test_lines_that_are_not_there_are_refused_with_those_that_are(store: Store, start: int, end: int) -> None:
    with pytest.raises(OutOfRange, match=rf"text.txt has lines 1 to 4, not {start} to {end}"):
        store.read_lines(store.register_text(TEXT), start, end)


def test_what_is_too_long_is_cut_after_a_line(store: Store) -> None:
    context = store.register_text("aaaa\nbbbb\ncccc\n")
    assert store.read_lines(context, 1, 3, max_chars=12) == LineRange(
        path="text.txt", start_line=1, end_line=2, text="aaaa\nbbbb\n", truncated=True, next_start_line=3
    )


def test_a_line_longer_than_the_cap_is_cut_and_the_next_can_be_read(store: Store) -> None:
    context = store.register_text("é" * 1_000_000 + "\nnext\n")
    lines = store.read_lines(context, 1, 2, max_chars=10)
    assert lines == LineRange(
        path="text.txt", start_line=1, end_line=1, text="é" * 10, truncated=True, next_start_line=2
    )
    assert store.read_lines(context, 2).text == "next\n"
    assert store.read_chars(context, 999_998, 1_000_003) == "éé\nne"


def test_a_line_has_every_address(store: Store) -> None:
    context = store.register_text("é\n" * 100_000 + "last")
    assert store.locate_line(context, 100_001) == LineAddress(
        path="text.txt", line=100_001, byte=300_000, char=200_000, page=None
    )
    with pytest.raises(OutOfRange):
        store.locate_line(context, 100_002)


@settings(deadline=None, max_examples=50)
@given(
    text=st.text(st.sampled_from("ab é日\r\n"), min_size=1, max_size=60),
    start=st.integers(1, 20),
    count=st.integers(1, 20),
    max_chars=st.integers(1, 50),
)
def test_reading_on_gives_the_whole_text_piece_by_piece(
    tmp_path_factory: pytest.TempPathFactory, text: str, start: int, count: int, max_chars: int
) -> None:
    with Store(tmp_path_factory.mktemp("data")) as store:
        context = store.register_text(text)
        lines = text.split("\n")
        whole = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
        if start > len(whole):
            return
        read = store.read_lines(context, start, start + count - 1, max_chars=max_chars)
        expected = "".join(whole[start - 1 : read.end_line])
        assert read.text == (expected if len(expected) <= max_chars else expected[:max_chars])
        assert read.truncated == (len("".join(whole[start - 1 : start + count - 1])) > max_chars)
        assert read.next_start_line == (read.end_line + 1 if read.end_line < len(whole) else None)
        for at in range(0, len(text), 7):
            assert store.read_chars(context, at, at + max_chars) == text[at : at + max_chars]

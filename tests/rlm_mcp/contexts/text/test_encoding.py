import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.contexts.text.encoding import UTF8, Encoding, Utf8Stream, detect, encode_text

FRENCH = "Le café est fermé à cause de la grève générale.\nIl a été décidé d'être prêt.\n"
RUSSIAN = "Съешь ещё этих мягких французских булок, да выпей чаю.\n" * 2
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 2


def converted(data: bytes, *, pieces: int = 7) -> tuple[str, int]:
    encoding = detect(data)
    assert encoding is not None
    stream = Utf8Stream(encoding)
    text = b"".join(stream.convert(data[at : at + pieces] for at in range(0, len(data), pieces)))
    return text.decode(), stream.invalid_bytes


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        (FRENCH, "latin-1"),
        (FRENCH, "utf-8-sig"),
        (FRENCH, "utf-16"),
        (FRENCH, "utf-32"),
        ("plain words\n" * 4, "utf-16-le"),
        ("plain words\n" * 4, "utf-16-be"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "utf-8"),
    ],
)
def test_text_in_any_encoding_becomes_utf8(text: str, codec: str) -> None:
    assert converted(text.encode(codec)) == (text, 0)


def test_a_byte_order_mark_is_noticed() -> None:
    assert detect("x\n".encode("utf-8-sig")) == Encoding(codec="utf-8", bom_bytes=3)
    assert detect("x\n".encode("utf-16")) == Encoding(codec="utf-16-le", bom_bytes=2)


def test_line_ends_and_nuls_are_kept() -> None:
    data = b"a\r\nb\rc\n" + b"text " * 40 + b"\0\n"
    assert converted(data) == (data.decode(), 0)


def test_invalid_bytes_are_replaced_and_counted() -> None:
    assert converted(b"ok\nbad \xff\xfe byte\n") == ("ok\nbad \ufffd\ufffd byte\n", 2)


def test_a_replacement_character_that_was_there_is_not_counted() -> None:
    assert converted("é\ufffdé".encode() + b"\xff") == ("é\ufffdé\ufffd", 1)


@pytest.mark.parametrize(
    "data", [bytes(range(256)) * 4, b"\x7fELF\x02\x01\x01" + b"\0" * 60, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0"]
)
def test_binary_is_told_from_text(data: bytes) -> None:
    assert detect(data) is None


@given(st.text(), st.integers(1, 9))
def test_utf8_passes_through_unchanged_whatever_the_pieces(text: str, pieces: int) -> None:
    data = text.encode()
    stream = Utf8Stream(UTF8)
    assert b"".join(stream.convert(data[at : at + pieces] for at in range(0, len(data), pieces))) == data
    assert stream.invalid_bytes == 0


@given(st.binary(max_size=60), st.integers(1, 9))
def test_any_bytes_become_what_python_makes_of_them(data: bytes, pieces: int) -> None:
    stream = Utf8Stream(UTF8)
    text = b"".join(stream.convert(data[at : at + pieces] for at in range(0, len(data), pieces))).decode()
    assert text == data.decode(stream.codec, errors="replace")


def test_a_file_that_shows_late_that_it_is_not_utf8_is_still_understood() -> None:
    data = b"plain line\n" * 20_000 + FRENCH.encode("latin-1")
    assert converted(data, pieces=65_536) == (data.decode("latin-1"), 0)


def test_late_bytes_that_make_no_words_are_replaced() -> None:
    data = b"plain line\n" * 20_000 + b"\xff\xfe\n" + "é\n".encode()
    assert converted(data, pieces=65_536) == (data.decode(errors="replace"), 2)


@given(st.text(st.characters()))
def test_lone_surrogates_are_mended_and_everything_else_is_kept(text: str) -> None:
    data, lone = encode_text(text)
    assert data.decode() == "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    assert lone == sum("\ud800" <= char <= "\udfff" for char in text)

from io import BytesIO

import pytest

from rlm_mcp.contexts.text.colours import PIECE_BYTES, plain_pieces, without_colours


@pytest.mark.parametrize(
    ("coloured", "plain"),
    [
        ("\x1b[31mERROR\x1b[0m disk", "ERROR disk"),
        ("\x1b[1;38;5;196mE\x1b[m\x1b[K", "E"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x1b]0;title\x07a", "link a"),
        ("\x1b(B\x1b[?25l50%\x1b[2K", "50%"),
        ("no colours, [31m", "no colours, [31m"),
        ("lone \x1b escape, \x1b]open\nnext", "lone \x1b escape, \x1b]open\nnext"),
    ],
)
def test_what_a_terminal_does_not_show_is_left_out(coloured: str, plain: str) -> None:
    assert without_colours(coloured) == plain
    assert b"".join(plain_pieces(BytesIO(coloured.encode()))) == plain.encode()


def test_a_sequence_across_two_pieces_is_left_out_too() -> None:
    data = b"x" * (PIECE_BYTES - 2) + b"\x1b[31mE\x1b[0m\n"
    assert b"".join(plain_pieces(BytesIO(data))) == b"x" * (PIECE_BYTES - 2) + b"E\n"

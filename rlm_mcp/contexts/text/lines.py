r"""The definition of a line: it ends with `\n`, and a `\r` before that belongs to the line end.

Nothing else ends a line: no lone `\r`, form feed, U+0085, U+2028 or U+2029, at which `str.splitlines` splits. So the
number of a line is the same in the index, in reads, searches and citations, and in code.
"""


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]

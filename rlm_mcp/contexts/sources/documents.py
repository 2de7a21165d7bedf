"""Documents: the text of a PDF, an Office file, a web page, a notebook or a mailbox, with where its pages begin."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rlm_mcp.contexts.sources.source import Opened

SUFFIXES: frozenset[str] = frozenset()
SOURCE_LIKE: frozenset[str] = frozenset()


def converter(path: Path, head: bytes) -> Callable[[Path], AbstractContextManager[Opened]] | None:
    """Give the function that opens this document as text, or None when it is no document."""
    return None

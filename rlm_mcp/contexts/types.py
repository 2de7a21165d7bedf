"""Values about contexts that are passed around; no behaviour beyond arithmetic on their own fields."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rlm_mcp.contexts.text.reading import ReadBytes

BYTES_PER_TOKEN = 3.5
"""Between English prose (about 4.3) and logs or code (about 2.7); one character in scripts of three bytes each."""

Kind = Literal["text", "files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A registered input. `context_id` always names this content; `name` names its newest version.

    While the index of a referenced file is being built, `exact` is False and `chars` and `lines` are estimates.
    """

    context_id: str
    name: str
    kind: Kind
    bytes: int
    chars: int
    lines: int
    files: int
    created_at: str
    source: str
    version: int = 1
    current: bool = True
    exact: bool = True
    notes: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def uri(self) -> str:
        """The address of this context as an MCP resource."""
        return f"rlm://contexts/{self.context_id}"

    @property
    def estimated_tokens(self) -> int:
        """A rough count for planning, made without a tokenizer."""
        return math.ceil(self.bytes / BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageMark:
    """The beginning of a page, sheet, slide, cell or message: its 1-based line and its label in the document."""

    line: int
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One text of a context. `key` is the same for the same text, whatever contexts and paths it has."""

    path: str
    key: str
    bytes: int
    chars: int
    lines: int
    longest_line: int = 0
    pages: tuple[PageMark, ...] = ()
    exact: bool = True
    """False while `chars`, `lines` and `longest_line` are estimates"""
    locate: Callable[[], Path] = field(compare=False, repr=False)
    read: ReadBytes = field(compare=False, repr=False)
    """gives the bytes `[start:end]`, without fetching all of a large text from elsewhere; raises as `blob` does"""

    @property
    def blob(self) -> Path:
        """The file that holds it as UTF-8 and must not be written to. It is looked for, and checked, at the first use.

        Raises SourceChanged, StoreDamaged.
        """
        return self.locate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file that was found and left out, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRange:
    """Lines `start_line` to `end_line` of one file, 1-based and inclusive; `truncated` when `max_chars` cut them."""

    path: str
    start_line: int
    end_line: int
    text: str
    truncated: bool
    next_start_line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineAddress:
    """The beginning of a line: its offsets in bytes and characters in the file, and the label of its page, if any."""

    path: str
    line: int
    byte: int
    char: int
    page: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some contexts, newest first, and the cursor that continues the list."""

    contexts: Sequence[Context]
    next_cursor: str | None
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """The result of a garbage collection."""

    blobs: int
    bytes: int
    versions: int = 0

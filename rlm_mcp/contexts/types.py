"""What is passed around about contexts: plain values, no behaviour beyond arithmetic on their own fields."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BYTES_PER_TOKEN = 3.5
"""Between English prose (about 4.3) and logs or code (about 2.7); scripts of three bytes come to one a character."""

Kind = Literal["text", "files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A registered input. `context_id` names one content for ever; `name` names the newest version of it.

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
        """A rough count for planning; no tokenizer is consulted."""
        return math.ceil(self.bytes / BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageMark:
    """Where a page, sheet, slide, cell or message begins: the 1-based line and what the document calls it."""

    line: int
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One text of a context. `blob` holds it as UTF-8 and must not be written to."""

    path: str
    blob: Path
    bytes: int
    chars: int
    lines: int
    longest_line: int = 0
    pages: tuple[PageMark, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Something that was seen and left out, and why."""

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
    """Every address of the beginning of a line: offsets from the beginning of its file, and its page if it has any."""

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
    """What a collection gave back."""

    blobs: int
    bytes: int
    versions: int = 0

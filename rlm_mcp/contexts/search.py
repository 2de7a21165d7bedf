"""Search at native speed: ripgrep over the stored blobs, in linear time and under a time limit."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.text import reading
from rlm_mcp.contexts.text.globs import glob_regex, is_glob
from rlm_mcp.contexts.text.ripgrep import MAPPED_ABOVE_LINE_BYTES, Hit, Pattern, check_pattern, count_lines, find_lines
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import Context, FileEntry
from rlm_mcp.errors import OutOfRange, UnknownPath
from rlm_mcp.redact import ellipsize

MAX_LINE_CHARS = 1_000
"""A longer line is cut to this many characters around its first match."""

MAX_MATCHES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedLine:
    """A matching line, or a line of context around one (`is_match` False); without its line end, cut when long."""

    path: str
    line: int
    text: str
    is_match: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Matching lines by path and line, and how many there are in all.

    `truncated` says that `matches` is not all of them, or that the time limit cut the count short. `unfetched` files
    were not there in time: the next search finds more of them.
    """

    matches: Sequence[MatchedLine]
    total: int
    truncated: bool
    unfetched: int = 0


def search(
    store: Store,
    context: Context,
    pattern: str,
    *,
    path: str | None = None,
    max_matches: int = 20,
    context_lines: int = 0,
    ignore_case: bool = False,
    literal: bool = False,
    seconds: float = 10.0,
    total_seconds: float = math.inf,
) -> SearchResult:
    """Finds lines that match a regular expression (or a literal); `path` is one path or a glob.

    Terminal colours are left out of what is searched and returned.

    Counting the lines, and then finding the first of them, may each take `seconds`; both together `total_seconds`.
    Raises SearchRefused, UnknownPath, OutOfRange, SourceChanged.
    """
    for name, number in (("max_matches", max_matches), ("context_lines", context_lines)):
        if not 0 <= number <= MAX_MATCHES:
            raise OutOfRange(f"{name} is {number}: give a number from 0 to {MAX_MATCHES:,}")
    wanted = Pattern(text=pattern, literal=literal, ignore_case=ignore_case)
    check_pattern(wanted)
    whole = Timeout(total_seconds)
    timeout = Timeout(min(seconds, total_seconds))
    chosen = [entry for entry in _chosen(store, context, path) if entry.bytes]
    files = store.plain_files(chosen, timeout)
    counts = count_lines(wanted, {entry.blob: entry.longest_line > MAPPED_ABOVE_LINE_BYTES for entry in files}, timeout)
    unfetched = len(chosen) - len(files)
    was_cut = timeout.expired or unfetched > 0
    found = _first_matches(
        files,
        counts,
        wanted,
        most=max_matches,
        context_lines=context_lines,
        timeout=Timeout(min(seconds, whole.seconds_left)),
    )
    total = sum(counts.get(entry.blob, 0) for entry in files)
    shown = sum(match.is_match for match in found)
    return SearchResult(
        matches=tuple(found), total=max(total, shown), truncated=shown < total or was_cut, unfetched=unfetched
    )


def _chosen(store: Store, context: Context, path: str | None) -> Sequence[FileEntry]:
    """The files that a path or a glob names; a glob without a slash matches names in any directory."""
    if path is None or path in {"", context.name}:
        return store.files(context)
    if not is_glob(path):
        return [store.file(context, path)]
    files = store.files(context)
    if named := [entry for entry in files if entry.path == path]:
        return named
    glob = path.removeprefix(f"/context/{context.name}/")
    try:
        matches = glob_regex(glob if "/" in glob else f"**/{glob}").fullmatch
    except re.error as error:
        raise UnknownPath(f"{path[:200]!r} is not a glob ({error}): a `[` begins a set such as `[0-9]`") from error
    chosen = [entry for entry in files if matches(entry.path)]
    if not chosen:
        example = f"it has {files[0].path} and {len(files) - 1:,} more"
        raise UnknownPath(f"no file of {context.name} matches {path[:200]!r}: {example}")
    return chosen


def _first_matches(
    files: Sequence[FileEntry],
    counts: dict[Path, int],
    pattern: Pattern,
    *,
    most: int,
    context_lines: int,
    timeout: Timeout,
) -> list[MatchedLine]:
    wanted: list[FileEntry] = []
    missing = most
    for entry in files:
        if missing > 0 and entry.blob in counts:
            wanted.append(entry)
            missing -= counts[entry.blob]
    if not wanted:
        return []
    huge = {entry.blob: entry.longest_line > MAPPED_ABOVE_LINE_BYTES for entry in wanted}
    hits = find_lines(pattern, huge, most=most, timeout=timeout)
    found: list[MatchedLine] = []
    missing = most
    for entry in wanted:
        here = hits.get(entry.blob, [])[:missing]
        missing -= len(here)
        found.extend(_excerpts(entry, here, context_lines))
    return found


def _excerpts(entry: FileEntry, hits: Sequence[Hit], context_lines: int) -> list[MatchedLine]:
    """The matching lines of one file and the lines around them, each line once."""
    shown: dict[int, MatchedLine] = {}
    for hit in hits:
        before, begins = _before(entry.blob, hit.byte)
        after = reading.read_bytes(entry.blob, hit.byte, hit.byte + 4 * MAX_LINE_CHARS)
        shown[hit.line] = MatchedLine(path=entry.path, line=hit.line, text=_cut(before, after, begins=begins))
        if context_lines:
            for line, text in _around(entry, hit, context_lines):
                shown.setdefault(line, MatchedLine(path=entry.path, line=line, text=text, is_match=False))
    return [shown[line] for line in sorted(shown)]


def _before(blob: Path, byte: int) -> tuple[bytes, bool]:
    """The text before a byte on its line, and whether that reaches back to the beginning of the line."""
    start = max(byte - 4 * MAX_LINE_CHARS, 0)
    data = reading.read_bytes(blob, start, byte)
    line_end = data.rfind(b"\n")
    return data[line_end + 1 :], line_end >= 0 or start == 0


def _cut(before: bytes, after: bytes, *, begins: bool) -> str:
    """Cuts a line around the beginning of a match. `begins`: `before` starts at the beginning of the line."""
    line_end = after.find(b"\n")
    ends = line_end >= 0 or len(after) < 4 * MAX_LINE_CHARS
    left = before.decode(errors="ignore")
    right = (
        (after[:line_end] if line_end >= 0 else after).decode(errors="replace" if ends else "ignore").removesuffix("\r")
    )
    if len(left) + len(right) <= MAX_LINE_CHARS and ends and begins:
        return left + right
    kept_left = left[-(MAX_LINE_CHARS // 4) :]
    kept_right = right[: MAX_LINE_CHARS - len(kept_left)]
    begins = begins and len(kept_left) == len(left)
    return ("" if begins else "…") + kept_left + kept_right + ("" if ends and len(kept_right) == len(right) else "…")


def _around(entry: FileEntry, hit: Hit, context_lines: int) -> list[tuple[int, str]]:
    """Numbers and texts of the lines before and after a hit, as far as they lie within its reach."""
    reach = 4 * MAX_LINE_CHARS * (context_lines + 1)
    start = max(hit.byte - reach, 0)
    before = reading.read_bytes(entry.blob, start, hit.byte).split(b"\n")[:-1]
    if start:
        before = before[1:]
    after = reading.read_bytes(entry.blob, hit.byte, hit.byte + reach).split(b"\n")[1:]
    if after and not after[-1]:
        after = after[:-1]
    numbered = [(hit.line - back, line) for back, line in enumerate(reversed(before[-context_lines:]), 1)]
    numbered += [(hit.line + ahead, line) for ahead, line in enumerate(after[:context_lines], 1)]
    return [(line, _short(text)) for line, text in numbered]


def _short(line: bytes) -> str:
    return ellipsize(line.decode(errors="replace").removesuffix("\r"), MAX_LINE_CHARS + 1)

"""The coverage of each context: strips that fit on a page, and a table of files."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from rlm_mcp.viewer.story import as_count

MOST_BINS = 1_000  # about one for each pixel
MOST_FILES = 400  # in the table: those that were read most

READERS = ("code", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSize:
    """One file of a context, in the order of its strip."""

    path: str
    chars: int


def coverage_data(
    coverage: Mapping[str, Any],
    contexts: Sequence[Mapping[str, Any]],
    files: Mapping[str, Sequence[FileSize]],
    places: Mapping[int, tuple[str, str, int]],
) -> dict[str, Any]:
    """The coverage as the page shows it.

    `files` has the files of each context that is still stored; the files of others are those that the ranges name.
    `places` maps a citation's number to its context, path and character.
    """
    ranges = {reader: _ranges(coverage, reader) for reader in READERS}
    shown = []
    rows: list[dict[str, Any]] = []
    for context in contexts:
        identity = str(context["context_id"])
        sizes = files.get(identity) or _sizes_told(context, ranges)
        strip = _Strip(sizes, MOST_BINS if len(contexts) <= 10 else MOST_BINS // 5)
        read: dict[str, dict[str, int]] = {}
        for reader in READERS:
            for size in sizes:
                spans = ranges[reader].get(f"{identity}/{size.path}", ())
                strip.add(reader, size.path, spans)
                read.setdefault(size.path, {})[reader] = sum(end - start for start, end in spans)
        rows += [{"context": context["name"], "path": s.path, "chars": s.chars, **read[s.path]} for s in sizes]
        marks = [
            {"citation": number, "at": strip.share(path, char)}
            for number, (there, path, char) in places.items()
            if there == identity
        ]
        shown.append(
            {"context_id": identity, "name": context["name"], "chars": strip.chars, "marks": marks, **strip.shown()}
        )
    rows.sort(key=lambda row: (-row["model"], -row["code"], row["path"]))
    return {
        "total": as_count(coverage.get("total_chars")),
        "code": as_count(coverage.get("read_by_code")),
        "model": as_count(coverage.get("read_by_model")),
        "strips": shown,
        "files": rows[:MOST_FILES],
        "files_in_all": len(rows),
        "files_read": sum(1 for row in rows if row["code"] or row["model"]),
    }


class _Strip:
    """The files of one context end to end, divided into bins, and how much of each bin was read."""

    def __init__(self, sizes: Sequence[FileSize], most_bins: int) -> None:
        self._sizes = {size.path: size.chars for size in sizes}
        self._starts = dict(zip(self._sizes, accumulate(self._sizes.values(), initial=0), strict=False))
        self.chars = sum(self._sizes.values())
        self._bins = max(1, min(most_bins, self.chars))
        self._read = {reader: [0] * self._bins for reader in READERS}

    def add(self, reader: str, path: str, spans: Iterable[tuple[int, int]]) -> None:
        """Counts ranges of one file as read."""
        read = self._read[reader]
        for start, end in spans:
            at = self._starts[path] + min(start, self._sizes[path])
            last = self._starts[path] + min(end, self._sizes[path])
            number = at * self._bins // max(self.chars, 1)
            while at < last:
                number += 1
                until = min(last, self._bin_start(number))
                read[number - 1] += until - at
                at = until

    def share(self, path: str, char: int) -> float:
        """The place of a character on the strip, from 0 to 1."""
        return round((self._starts.get(path, 0) + char) / max(self.chars, 1), 5)

    def _bin_start(self, number: int) -> int:
        """The first character of a bin."""
        return -(-number * self.chars // self._bins)

    def _chars_of(self, number: int) -> int:
        return self._bin_start(number + 1) - self._bin_start(number)

    def shown(self) -> dict[str, Any]:
        """The percentage read of each bin, and the file in which it begins."""
        names, starts = list(self._starts), list(self._starts.values())
        bins = range(self._bins)
        owners = [bisect_right(starts, self._bin_start(number)) - 1 for number in bins] if names else []
        used = sorted(set(owners))
        place = {owner: index for index, owner in enumerate(used)}
        return {
            "paths": [names[owner] for owner in used],
            "owners": [place[owner] for owner in owners],
            **{reader: [_percent(self._read[reader][n], self._chars_of(n)) for n in bins] for reader in READERS},
        }


def _percent(read: int, chars: int) -> int:
    """The percentage, at least 1 if anything was read."""
    return 0 if read <= 0 else max(1, min(100, round(100 * read / chars)))


def _ranges(coverage: Mapping[str, Any], reader: str) -> dict[str, list[tuple[int, int]]]:
    """The ranges of one reader by "context_id/path". Whatever is not a pair of counts is left out."""
    known = coverage.get("ranges")
    told = known.get(reader) if isinstance(known, Mapping) else None
    if not isinstance(told, Mapping):
        return {}
    return {
        str(key): [
            (as_count(pair[0]), as_count(pair[1]))
            for pair in pairs
            if isinstance(pair, list | tuple) and len(pair) == 2 and 0 <= as_count(pair[0]) < as_count(pair[1])
        ]
        for key, pairs in told.items()
        if isinstance(pairs, list | tuple)
    }


def _sizes_told(
    context: Mapping[str, Any], ranges: Mapping[str, Mapping[str, Sequence[tuple[int, int]]]]
) -> list[FileSize]:
    """The files that the ranges name; each is as long as its ranges reach."""
    prefix = f"{context['context_id']}/"
    ends: dict[str, int] = {}
    for by_file in ranges.values():
        for key, spans in by_file.items():
            if key.startswith(prefix):
                path = key.removeprefix(prefix)
                ends[path] = max([ends.get(path, 0), *(end for _, end in spans)])
    if len(ends) <= 1 and as_count(context.get("files")) <= 1:
        return [FileSize(path=next(iter(ends), str(context["name"])), chars=as_count(context.get("chars")))]
    return [FileSize(path=path, chars=ends[path]) for path in sorted(ends)]

"""ripgrep as a subprocess: finds matching lines of files in time linear in their size.

Two passes. The first counts the matching lines in every file; the second asks for as many as are wanted, only in files
where the first found any. Neither prints text, only line numbers and byte offsets, so a matching line of 2 GB costs no
more than any other. The text is then read from the blob by its offset.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which

from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.errors import SearchRefused

ARGUMENT_BYTES = 24_000 if sys.platform == "win32" else 100_000
"""Bytes of file names on one command line; Windows allows 32,767 characters."""

MAPPED_ABOVE_LINE_BYTES = 1 << 20
"""ripgrep is faster and needs less memory when it reads, but then it holds whole lines; files with longer lines are
mapped."""

MAX_PATTERN = 10_000
_PLAIN = (
    "--no-config",
    "--no-ignore",
    "--hidden",
    "--text",
    "--color=never",
    "--no-heading",
    "--encoding=none",
    "--with-filename",
    "--null",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A pattern that is searched for line by line."""

    text: str
    literal: bool = False
    ignore_case: bool = False

    def arguments(self) -> list[str]:
        """The command line arguments for ripgrep."""
        return [
            *(["--fixed-strings"] if self.literal else []),
            *(["--ignore-case"] if self.ignore_case else []),
            "--regexp",
            self.text,
        ]

    def to_line_end(self) -> "Pattern":
        """A pattern that matches from the first match in a line to its end, so that a line is reported once."""
        text = re.escape(self.text) if self.literal else self.text
        return Pattern(text=f"(?:{text}).*", ignore_case=self.ignore_case)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A matching line: its 1-based number, and the byte offset in the file of the first match in it."""

    line: int
    byte: int


@cache
def ripgrep() -> str:
    """The binary that the `ripgrep` wheel installed among the scripts of this Python, or one on the path."""
    name = "rg.exe" if os.name == "nt" else "rg"
    directories = [
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", f"{os.name}_user"),
        str(Path(sys.executable).parent),
    ]
    for directory in directories:
        if directory and os.access(found := Path(directory) / name, os.X_OK):
            return str(found)
    if found_on_path := which("rg"):
        return found_on_path
    raise SearchRefused(
        "ripgrep is not installed, so nothing can be searched: `pip install ripgrep` into this environment"
    )


def check_pattern(pattern: Pattern) -> None:
    """Raises SearchRefused, which says what to write instead, for a pattern that ripgrep cannot search for."""
    if not pattern.text:
        raise SearchRefused("the pattern is empty: give a regular expression, or read lines instead")
    if len(pattern.text) > MAX_PATTERN:
        raise SearchRefused(
            f"the pattern has {len(pattern.text):,} characters, at most {MAX_PATTERN:,} are allowed: split it"
        )
    if "\0" in pattern.text or "\n" in pattern.text or "\r" in pattern.text:
        raise SearchRefused(
            "the pattern holds a line end or a NUL: search works line by line, so look for one line of it"
        )
    if any("\ud800" <= char <= "\udfff" for char in pattern.text):
        raise SearchRefused("the pattern holds a lone surrogate, which no stored text has: leave it out")


def count_lines(pattern: Pattern, files: Mapping[Path, bool], timeout: Timeout) -> dict[Path, int]:
    """Counts the matching lines of each file that has any. `files` maps paths to whether they have huge lines.

    After a time-out, files that were not searched are missing from the result. Raises SearchRefused.
    """
    counts: dict[Path, int] = {}
    for way, paths in _batches(files):
        command = [ripgrep(), *_PLAIN, way, "--count", *pattern.arguments(), "--", *map(str, paths)]
        with _lines_of(command, pattern, timeout) as lines:
            for line in lines:
                name, _, number = line.rpartition(b"\0")
                counts[Path(os.fsdecode(name))] = int(number)
        if timeout.expired:
            break
    return counts


def find_lines(pattern: Pattern, files: Mapping[Path, bool], *, most: int, timeout: Timeout) -> dict[Path, list[Hit]]:
    """Finds the first `most` matching lines of each file; fewer after a time-out. `files` is that of `count_lines`."""
    hits: dict[Path, dict[int, Hit]] = {}
    limits = ["--max-count", str(most), "--line-number", "--byte-offset", "--only-matching", "--replace", ""]
    for way, paths in _batches(files):
        command = [ripgrep(), *_PLAIN, way, *limits, *pattern.to_line_end().arguments(), "--", *map(str, paths)]
        with _lines_of(command, pattern, timeout) as lines:
            for line in lines:
                name, _, place = line.rpartition(b"\0")
                number, byte, _ = place.split(b":", 2)
                found = hits.setdefault(Path(os.fsdecode(name)), {})
                found.setdefault(int(number), Hit(line=int(number), byte=int(byte)))
        if timeout.expired:
            break
    return {path: list(found.values()) for path, found in hits.items()}


@contextmanager
def _lines_of(command: Sequence[str], pattern: Pattern, timeout: Timeout) -> Iterator[Iterator[bytes]]:
    """Runs ripgrep and iterates over the lines that it prints; on a time-out it is killed, which ends them."""
    with (  # pattern and paths cannot become options
        PROCESSES.running(command, env={}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process,
        timeout.on_expiry(process.kill),
    ):
        if process.stdout is None or process.stderr is None:
            raise SearchRefused("ripgrep was started without pipes")
        yield (line.rstrip(b"\n") for line in process.stdout if line.endswith(b"\n"))
        complaint = process.stderr.read().decode(errors="replace")
    if process.wait() == 2 and not timeout.expired:
        raise SearchRefused(explain(pattern, complaint))


def _batches(files: Mapping[Path, bool]) -> Iterator[tuple[str, list[Path]]]:
    """Groups of files for one command line each, with the option for how ripgrep reads them."""
    for way, huge_lines in (("--no-mmap", False), ("--mmap", True)):
        batch: list[Path] = []
        size = 0
        for path in (path for path, huge in files.items() if huge == huge_lines):
            batch.append(path)
            size += len(str(path)) + 1
            if size > ARGUMENT_BYTES:
                yield way, batch
                batch, size = [], 0
        if batch:
            yield way, batch


_INSTEAD = (
    (r"\(\?<[=!]", "look-behind", r"match the text before it too, and cut it off in code: `(?<=id=)\d+` as `id=\d+`"),
    (
        r"\(\?[=!]",
        "look-ahead",
        "match what follows too, or search for the positive part and filter the matches in code",
    ),
    (r"\\[1-9]|\(\?P=", "back-reference", "search for the general shape and compare the parts in code"),
    (r"\(\?>", "atomic group", "write a plain group `(?:…)`: nothing backtracks here"),
    (r"\\Z", r"\Z", r"write `$`, or `\z` for the very end"),
    (r"\(\?\(", "conditional group", "search for each case by itself"),
)


def explain(pattern: Pattern, complaint: str) -> str:
    """Turns an error message of ripgrep into one sentence that says what to write instead."""
    if "regex" not in complaint and "literal" not in complaint:
        return (
            f"the search failed ({' '.join(complaint.split())[:300]}): register the context again if its files are gone"
        )
    for construct, name, instead in _INSTEAD:
        if re.search(construct, pattern.text):
            return f"the pattern {pattern.text!r} uses a {name}, which cannot be searched in linear time: {instead}"
    if "\\n" in complaint or "line terminator" in complaint:
        return (
            f"the pattern {pattern.text!r} asks for a line end: search works line by line, so look for one line of it"
        )
    if "size limit" in complaint or "too big" in complaint:
        return f"the pattern {pattern.text!r} becomes too large: make its repetition counts smaller"
    reason = complaint.strip().splitlines()[-1].removeprefix("error: ").strip()
    return (
        f"the pattern {pattern.text!r} is not a regular expression ({reason}): "
        "escape what is meant literally, or search for it as a literal"
    )

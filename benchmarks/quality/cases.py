"""A case: a context on disk, a question about it, the only right answer and its score. What a family consists of.

An answer is a number, or a list of items with one a line. A number scores 0.75 for each percent that it is off, as a
list scores the F1 of its items. So a part of a context that is dropped or mixed up on the way costs score.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

ROT_CHARS = 32_000
"""Beyond 8,000 tokens a prompt is read with more errors."""
ROT = 100
"""Those errors, of a thousand items."""

Combine = Literal["sum", "sum of each", "union"]
_HEADER = re.compile(r"^==> (\S+) <==$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of question: how it is recognized, read, combined over parts of a context, and computed by a root model.

    `asks` matches the question; its groups are what the other functions get. `read` is given lines and the errors of
    the reader per thousand items; over all lines and without errors it gives the truth. `program` is the work of a root
    model in Python, over `lines` or `files` and the functions of `root.PRELUDES`, and leaves the answer in `result`.
    """

    asks: re.Pattern[str]
    read: Callable[[re.Match[str], Iterable[str], int], str]
    program: Callable[[re.Match[str]], str]
    combine: Combine = "union"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A way to generate contexts of a size: `make` gives the question and the lines, which are generated one by one."""

    name: str
    kind: Kind
    make: Callable[[Random, int], tuple[str, Iterator[str]]]
    has_files: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A question and its answer. `text` holds the whole context; `sources` the same as files, for readers of files."""

    family: str
    size: int
    seed: int
    question: str
    truth: str
    text: Path
    sources: Path


def write_case(family: Family, size: int, seed: int, folder: Path) -> Case:
    """Writes the context, in one pass and with the memory of a line, and returns the case. The arguments decide it."""
    question, lines = family.make(Random(f"{family.name} {size} {seed}"), size)
    asked = family.kind.asks.search(question)
    assert asked is not None, question
    text = folder / "context.txt"
    sources = folder / "files" if family.has_files else text
    with text.open("w", encoding="utf-8", newline="\n") as file:
        written = _written(lines, file.write)
        truth = family.kind.read(asked, _split(written, sources) if family.has_files else written, 0)
    return Case(family=family.name, size=size, seed=seed, question=question, truth=truth, text=text, sources=sources)


def header(path: str) -> str:
    """The line before the content of a file, where several are joined."""
    return f"==> {path} <=="


def file_of(line: str) -> str | None:
    """The path in a header, None for any other line."""
    found = _HEADER.match(line) if line.startswith("==>") else None
    return found[1] if found else None


def _written(lines: Iterable[str], write: Callable[[str], object]) -> Iterator[str]:
    for line in lines:
        write(f"{line}\n")
        yield line


def _split(lines: Iterable[str], folder: Path) -> Iterator[str]:
    """Passes the lines on and writes those of each file into it."""
    path, kept = None, list[str]()
    for line in lines:
        if (begun := file_of(line)) is not None:
            _write_file(path, kept)
            path, kept = folder / begun, []
        else:
            kept.append(line)
        yield line
    _write_file(path, kept)


def _write_file(path: Path | None, lines: list[str]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def until(size: int, planted: Iterable[str], rng: Random, filler: Iterator[str]) -> Iterator[str]:
    """Lines of filler with the planted ones, in their order, at random places, until `size` characters are reached."""
    waiting = list(planted)
    places = sorted(rng.sample(range(size), len(waiting)))
    waiting.reverse()
    places.reverse()
    chars = 0
    while chars < size:
        if places and places[-1] <= chars:
            places.pop()
            line = waiting.pop()
        else:
            line = next(filler)
        chars += len(line) + 1
        yield line
    yield from reversed(waiting)


def is_misread(item: str, errors: int) -> bool:
    """Whether a reader with so many errors per thousand items misreads this one; it always does, or never."""
    return bool(errors) and zlib.crc32(item.encode()) % 1000 < errors


def score(truth: str, answer: str) -> float:
    """From 0 to 1: 0.75 for each percent that a number is off, else the F1 of the items."""
    if truth.isdigit():
        said = answer.strip()
        if not re.fullmatch(r"\d{1,15}", said):
            return 0.0
        return float(0.75 ** (100 * abs(int(said) - int(truth)) / max(1, int(truth))))
    given, true = items_of(answer), items_of(truth)
    return 2 * len(given & true) / (len(given) + len(true)) if given else 0.0


def items_of(answer: str) -> set[str]:
    """The lines of an answer."""
    return {line.strip() for line in answer.split("\n") if line.strip()}


def combine(kind: Kind, replies: Iterable[str]) -> str:
    """The reduce step over replies to parts of a context. Items without a value give way to those that have one."""
    said = [reply for reply in replies if reply not in {"", "NONE"}]
    if kind.combine == "sum":
        return str(sum(int(reply) for reply in said if reply.isdigit()))
    pairs = [(item, item.partition(": ")) for reply in said for item in reply.split("\n")]
    if kind.combine == "union":
        known = {key for _, (key, colon, value) in pairs if colon and value != "NONE"}
        kept = (item for item, (key, _, value) in pairs if value != "NONE" or key not in known)
        return "\n".join(dict.fromkeys(kept)) or "NONE"
    counts: dict[str, int] = {}
    for _, (key, _, value) in pairs:
        counts[key] = counts.get(key, 0) + (int(value) if value.isdigit() else 0)
    return "\n".join(f"{key}: {count}" for key, count in counts.items()) or "NONE"

"""The processes of a soak test: which there are, and what they use. Reads /proc."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

MARK = "SOAK_MARK"
"""The variable by which the servers of a soak test are found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Measurements of the server's processes, all together, at one moment."""

    at: float
    rss_mb: float
    pss_mb: float
    anonymous_mb: float
    files: int
    threads: int
    processes: int


def sample(pid: int) -> Sample:
    measured = [_sample_one(each) for each in tree_of(pid)]
    sums = {each.name: sum(getattr(one, each.name) for one in measured) for each in fields(Sample)}
    return Sample(**{**sums, "at": time.monotonic()})


def _sample_one(pid: int) -> Sample:
    process = Path(f"/proc/{pid}")
    try:
        rollup = dict(re.findall(r"^(\w+): +(\d+) kB$", (process / "smaps_rollup").read_text(), re.MULTILINE))
        status = (process / "status").read_text()
        return Sample(
            at=0.0,
            rss_mb=int(rollup["Rss"]) / 1024,
            pss_mb=int(rollup["Pss"]) / 1024,
            anonymous_mb=int(rollup["Anonymous"]) / 1024,
            files=len(list((process / "fd").iterdir())),
            threads=int(re.findall(r"^Threads:\s+(\d+)$", status, re.MULTILINE)[0]),
            processes=1,
        )
    except (OSError, LookupError):  # it has just ended
        return Sample(at=0.0, rss_mb=0, pss_mb=0, anonymous_mb=0, files=0, threads=0, processes=0)


def tree_of(pid: int) -> list[int]:
    """A process and all that descend from it, except programs such as git that it runs."""
    parents = dict(processes())
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each and is_python(child)]
    return found


def is_python(pid: int) -> bool:
    try:
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return False


def workers_of(pid: int) -> list[int]:
    """The workers of a server: children of its fork server."""
    parents = dict(processes())
    return [each for each in tree_of(pid) if parents.get(parents.get(each, 0)) == pid]


def machine_load() -> Callable[[], float]:
    """Returns a function that gives the share of busy time of all cores since now."""

    def ticks() -> tuple[int, int]:
        numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return sum(numbers), numbers[3] + numbers[4]

    began = ticks()

    def busy() -> float:
        all_now, idle_now = ticks()
        return 1 - (idle_now - began[1]) / max(1, all_now - began[0])

    return busy


def processes() -> Iterator[tuple[int, int]]:
    """(pid, parent) of every process."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue


def marked(mark: str) -> dict[int, int]:
    """Servers that were started with this mark, as pid -> parent."""
    found = {}
    for pid, parent in processes():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environ:
            found[pid] = parent
    return found

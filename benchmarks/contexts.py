"""Benchmark of the context store: `python -m benchmarks.contexts [--scale 0.1] [--directory DIR] [FIGURE …]`.

Each figure is measured in a separate process, so that its memory can be measured. The large files consist of log lines
repeated with changing dates and numbers; `--scale 1` makes one of 1 GB and one of 10 GB.
"""

import argparse
import json
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rlm_mcp.contexts.describe.overview import describe
from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.text.ripgrep import ripgrep

LINES = """\
2015-10-18 18:01:47,978 INFO [main] org.apache.hadoop.app.MRAppMaster: Created MRAppMaster for appattempt_0020_000001
2015-10-18 18:01:51,525 WARN [LeaseRenewer:user@host-41:9000] org.apache.hadoop.ipc.Client: Address change detected
2015-10-18 18:02:03,181 ERROR [RMCommunicator Allocator] org.apache.hadoop.RMContainerAllocator: ERROR IN CONTACTING RM.
2015-10-18 18:02:08,322 INFO [IPC Server handler 4 on 62270] org.apache.TaskAttemptListenerImpl: Progress of \
TaskAttempt attempt_1445144423722_0020_m_000001_0 is : 0.13
""".splitlines()
PATTERNS = [r"ERROR.*RMContainer", r"attempt_\d+_[0-9]{4}_m_\d+", r"\w+Exception\b", "Address change"]


def make_log(path: Path, size: int) -> Path:
    """Writes a log of about `size` bytes in which every megabyte is different."""
    if path.exists() and path.stat().st_size >= size:
        return path
    chance = random.Random(1)
    with path.open("wb") as file:
        written = 0
        while written < size:
            lines = chance.choices(LINES, k=2_000)
            stamp = f"2015-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
            block = "\n".join(lines).replace("2015-10-18", stamp).replace("0020", f"{chance.randint(0, 9999):04}")
            data = (block + "\n").encode() * 4
            written += file.write(data)
    return path


def make_checkout(directory: Path, files: int) -> Path:
    """Writes a tree of source files of 1 to 20 kB each."""
    if not directory.exists():
        chance = random.Random(2)
        for n in range(files):
            path = directory / f"package{n % 50}" / f"module{n}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            body = "".join(
                f"def function_{n}_{line}(argument):\n    return argument + {line}\n"
                for line in range(chance.randint(20, 400))
            )
            path.write_text(body)
    return directory


def timed(action: Callable[[], object], *, repeats: int = 1) -> float:
    """Median duration of an action in seconds."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def run(command: list[str]) -> str:
    """Runs a program and returns its output, followed by the end of stderr."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - commands made here
    return done.stdout + done.stderr[-300:]


def count_matches(pattern: re.Pattern[bytes], data: bytes) -> int:
    return sum(1 for _ in pattern.finditer(data))


def head_of(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


class Bench:
    """Directory and size of the files of a benchmark run."""

    def __init__(self, directory: Path, scale: float) -> None:
        self.directory = directory
        self.scale = scale

    def log(self) -> Path:
        return make_log(self.directory / "1g.log", int(1_000_000_000 * self.scale))

    def large(self) -> Path:
        return make_log(self.directory / "10g.log", int(10_000_000_000 * self.scale))

    def store(self) -> Store:
        """A store in a new directory, because ext4 is slow for seconds after many files were deleted."""
        return Store(Path(tempfile.mkdtemp(prefix="store-", dir=self.directory)))


def register(bench: Bench) -> dict[str, object]:
    path = bench.log()
    speeds = []
    for _ in range(3):
        with bench.store() as store:
            seconds = timed(partial(store.register_source, str(path), reference=False))
            speeds.append(path.stat().st_size / 1e6 / seconds)
    return {"MB/s": round(statistics.median(speeds)), "of three": [round(speed) for speed in speeds]}


def reference(bench: Bench) -> dict[str, object]:
    path = bench.large()
    with bench.store() as store:
        start = time.perf_counter()
        context = store.register_source(str(path), reference=True)
        handle = time.perf_counter() - start
        early = timed(lambda: store.read_lines(context, 1_000_000, 1_000_050))
        store.wait_for_indexes(600)
        indexed = time.perf_counter() - start
    return {
        "handle s": round(handle, 4),
        "line 1,000,000 meanwhile s": round(early, 3),
        "indexed after s": round(indexed, 1),
    }


def lines(bench: Bench) -> dict[str, object]:
    with bench.store() as store:
        context = store.register_source(str(bench.large()), reference=True)
        store.wait_for_indexes(600)
        context = store.get(context.name)
        chance = random.Random(3)
        taken = []
        for _ in range(200):
            first = chance.randint(1, context.lines - 50)
            taken.append(timed(partial(store.read_lines, context, first, first + 49)))
        taken.sort()
    return {"lines": context.lines, "median ms": round(taken[100] * 1e3, 2), "p99 ms": round(taken[197] * 1e3, 2)}


def overview(bench: Bench) -> dict[str, object]:
    with bench.store() as store:
        context = store.register_source(str(bench.large()), reference=True)
        return {"s": round(timed(lambda: describe(store, context), repeats=5), 3)}


def checkout(bench: Bench) -> dict[str, object]:
    tree = make_checkout(bench.directory / "checkout", 5_000)
    first = []
    for _ in range(3):
        with bench.store() as store:
            first.append(timed(partial(store.register_source, str(tree))))
            again = timed(partial(store.register_source, str(tree)))
            described = timed(partial(describe, store, store.get("checkout")))
    return {
        "files": 5_000,
        "s": round(statistics.median(first), 2),
        "again s": round(again, 2),
        "overview s": round(described, 2),
    }


def searching(bench: Bench) -> dict[str, object]:
    path = bench.log()
    found: dict[str, object] = {}
    with bench.store() as store:
        context = store.register_source(str(path), reference=True)
        store.wait_for_indexes(600)
        context = store.get(context.name)
        for pattern in PATTERNS:
            search(store, context, pattern)  # warm
            ours = timed(partial(search, store, context, pattern, seconds=60), repeats=5)
            command = [ripgrep(), "--no-config", "-c", "-e", pattern, str(path)]
            theirs = timed(partial(run, command), repeats=5)
            piece = head_of(path, 100_000_000)
            compiled = re.compile(pattern.encode())
            python = timed(partial(count_matches, compiled, piece))
            python *= path.stat().st_size / len(piece)
            found[pattern] = {
                "search s": round(ours, 3),
                "rg -c s": round(theirs, 3),
                "re s (from 100 MB)": round(python, 2),
            }
    return found


def listing(bench: Bench) -> dict[str, object]:
    with bench.store() as store:
        for n in range(10_000):
            store.register_text(f"text {n}", name=f"name {n}")
        cursors: list[str | None] = [None]
        while (cursor := store.list(limit=1_000, cursor=cursors[-1]).next_cursor) is not None:
            cursors.append(cursor)
        pages = [timed(partial(store.list, cursor=cursor)) for cursor in cursors]
        queried = timed(lambda: store.list("name 99"), repeats=5)
    return {
        "a page ms": round(statistics.median(pages) * 1e3, 1),
        "slowest ms": round(max(pages) * 1e3, 1),
        "with query ms": round(queried * 1e3, 1),
    }


def starting(bench: Bench) -> dict[str, object]:
    code = "import time; t = time.perf_counter(); import rlm_mcp.contexts.store.store; print(time.perf_counter() - t)"
    imports = [float(run([sys.executable, "-c", code])) for _ in range(5)]
    opened = timed(lambda: bench.store().close(), repeats=5)
    return {"import ms": round(statistics.median(imports) * 1e3, 1), "open ms": round(opened * 1e3, 1)}


FIGURES = {
    "start": starting,
    "register": register,
    "reference": reference,
    "lines": lines,
    "overview": overview,
    "checkout": checkout,
    "search": searching,
    "list": listing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", choices=[[], *FIGURES])
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "rlm-mcp-benchmarks")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.directory, options.scale)
    if options.inside:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        figure = FIGURES[options.figures[0]](bench)
        figure["peak MB beyond start"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        print(json.dumps(figure))
        return
    for name in options.figures or FIGURES:
        command = [
            sys.executable,
            "-m",
            "benchmarks.contexts",
            name,
            "--inside",
            "--scale",
            str(options.scale),
            "--directory",
            str(options.directory),
        ]
        shown = run(command)
        print(f"{name:10} {shown.strip()}", flush=True)
    for leftover in options.directory.glob("store-*"):
        shutil.rmtree(leftover)


if __name__ == "__main__":
    main()

"""Benchmark of the context store, beside ripgrep, Python's re and programs that pack a directory into one text.

    python -m benchmarks.contexts [FIGURE …] [--scale 0.1] [--directory DIR] [--rivals PYTHON] [--node FOLDER] [--json]

Each figure is measured in a separate process, so that its memory can be measured. The large files consist of log lines
repeated with changing dates and numbers; `--scale 1` makes one of 1 GB and one of 10 GB. `--rivals` may have gitingest,
and the folder of `--node` repomix: both pack the same 5,000 files.
"""

import argparse
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.figures import figure, machine, node_versions, tell, versions
from benchmarks.sandbox import node_folder
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


def timed(action: Callable[[], object], *, repeats: int = 1) -> list[float]:
    """Durations of an action in seconds."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return taken


def run_checked(command: list[str], *, most: int = 0) -> str:
    """Runs a program and returns its output. Up to `most`, its exit status means success: 1 of ripgrep is no match."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - commands made here
    assert done.returncode <= most, done.stderr[-2_000:]
    return done.stdout


def count_matches(pattern: re.Pattern[bytes], data: bytes) -> int:
    return sum(1 for _ in pattern.finditer(data))


def head_of(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Directory and size of the files of a benchmark run, and where competitors are."""

    directory: Path
    scale: float
    rivals: str
    node: Path

    def log(self) -> Path:
        return make_log(self.directory / f"log-{self.scale:g}.log", int(1_000_000_000 * self.scale))

    def large(self) -> Path:
        return make_log(self.directory / f"large-{self.scale:g}.log", int(10_000_000_000 * self.scale))

    def store(self) -> Store:
        """A store in a new directory, because ext4 is slow for seconds after many files were deleted."""
        return Store(Path(tempfile.mkdtemp(prefix="store-", dir=self.directory)))


def size_of(path: Path) -> str:
    return f"{path.stat().st_size / 1e9:.3g} GB"


def register(bench: Bench) -> Rows:
    path = bench.log()
    taken, copied = [], []
    for _ in range(3):
        with bench.store() as store:
            taken += timed(partial(store.register_source, str(path), reference=False))
        copied += timed(partial(shutil.copyfile, path, bench.directory / "store-copy"))
    yield figure(f"a log of {size_of(path)}, copied and indexed", "s", taken)
    yield figure(f"a log of {size_of(path)}, copied and indexed", "s", copied, contender="copy alone")


def reference(bench: Bench) -> Rows:
    path = bench.large()
    with bench.store() as store:
        start = time.perf_counter()
        context = store.register_source(str(path), reference=True)
        handle = time.perf_counter() - start
        early = timed(lambda: store.read_lines(context, 1_000_000, 1_000_050))
        store.wait_for_indexes(600)
        indexed = time.perf_counter() - start
    what = f"a log of {size_of(path)} by reference"
    yield figure(f"{what}: the handle", "s", [handle])
    yield figure(f"{what}: lines from 1,000,000, meanwhile", "s", early)
    yield figure(f"{what}: indexed", "s", [indexed])


def lines(bench: Bench) -> Rows:
    path = bench.large()
    with bench.store() as store:
        context = store.register_source(str(path), reference=True)
        store.wait_for_indexes(600)
        context = store.get(context.name)
        chance = random.Random(3)
        taken = []
        for _ in range(200):
            first = chance.randint(1, context.lines - 50)
            taken += timed(partial(store.read_lines, context, first, first + 49))
    yield figure(f"50 lines of {size_of(path)}", "s", taken)


def overview(bench: Bench) -> Rows:
    path = bench.large()
    with bench.store() as store:
        context = store.register_source(str(path), reference=True)
        yield figure(f"overview of {size_of(path)}", "s", timed(lambda: describe(store, context), repeats=5))


def checkout(bench: Bench) -> Rows:
    tree = make_checkout(bench.directory / "checkout", 5_000)
    first, again, described = [], [], []
    for _ in range(3):
        with bench.store() as store:
            first += timed(partial(store.register_source, str(tree)))
            again += timed(partial(store.register_source, str(tree)))
            described += timed(partial(describe, store, store.get("checkout")))
    what = "a directory of 5,000 files"
    yield figure(what, "s", first)
    for name, command in packers(bench).items():
        packed = bench.directory / f"packed-{name}"
        taken = timed(partial(run_checked, [*command, str(packed), str(tree)]), repeats=2)
        yield figure(what, "s", taken, contender=name)
        yield figure(f"{what}: tokens to put into a prompt", "", [packed.stat().st_size / 4], contender=name)
    yield figure(f"{what}, again without changes", "s", again)
    yield figure(f"{what}: overview", "s", described)
    with bench.store() as store:
        about = describe(store, store.register_source(str(tree)))
    yield figure(f"{what}: tokens to put into a prompt", "", [len(str(about)) / 4])


def packers(bench: Bench) -> dict[str, list[str]]:
    """Programs that pack a directory into one text; the paths of the text and of the directory follow."""
    found = {}
    if "gitingest" in versions(bench.rivals, "gitingest"):
        found["gitingest"] = [bench.rivals, "-m", "gitingest", "--max-size", "100000000", "-o"]
    if (script := bench.node / "node_modules/repomix/bin/repomix.cjs").exists():
        found["repomix"] = [shutil.which("node") or "node", str(script), "--quiet", "--no-security-check", "-o"]
    return found


def searching(bench: Bench) -> Rows:
    path = bench.log()
    with bench.store() as store:
        context = store.register_source(str(path), reference=True)
        store.wait_for_indexes(600)
        context = store.get(context.name)
        for pattern in PATTERNS:
            search(store, context, pattern)  # warm
            what = f"search of {size_of(path)} for `{pattern}`"
            yield figure(what, "s", timed(partial(search, store, context, pattern, seconds=60), repeats=5))
            command = [ripgrep(), "--no-config", "-c", "-e", pattern, str(path)]
            yield figure(what, "s", timed(partial(run_checked, command, most=1), repeats=5), contender="rg -c")
            piece = head_of(path, 100_000_000)
            (python,) = timed(partial(count_matches, re.compile(pattern.encode()), piece))
            yield figure(what, "s", [python * path.stat().st_size / len(piece)], contender="re")


def listing(bench: Bench) -> Rows:
    with bench.store() as store:
        for n in range(10_000):
            store.register_text(f"text {n}", name=f"name {n}")
        cursors: list[str | None] = [None]
        while (cursor := store.list(limit=1_000, cursor=cursors[-1]).next_cursor) is not None:
            cursors.append(cursor)
        pages = [seconds for cursor in cursors for seconds in timed(partial(store.list, cursor=cursor))]
        queried = timed(lambda: store.list("name 99"), repeats=5)
    yield figure("a page of 10,000 contexts", "s", pages)
    yield figure("a page of 10,000 contexts, of those with a name", "s", queried)


def starting(bench: Bench) -> Rows:
    code = "import time; t = time.perf_counter(); import rlm_mcp.contexts.store.store; print(time.perf_counter() - t)"
    yield figure("import of the store", "s", [float(run_checked([sys.executable, "-c", code])) for _ in range(5)])
    yield figure("opening of an empty store", "s", timed(lambda: bench.store().close(), repeats=5))


FIGURES: Mapping[str, Callable[[Bench], Rows]] = {
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
    parser.add_argument("--rivals", default=sys.executable, metavar="PYTHON", help="has gitingest")
    parser.add_argument("--node", type=Path, default=node_folder(), metavar="FOLDER", help="has node_modules/repomix")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    if options.inside:
        bench = Bench(
            directory=options.directory, scale=options.scale, rivals=options.rivals, node=options.node.resolve()
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (name,) = options.figures
        rows = [*FIGURES[name](bench)]
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        print(json.dumps([*rows, figure(f"{name}: peak memory beyond the start", "B", [grown])]))
        return
    found: list[dict[str, Any]] = []
    begun = machine()
    for name in options.figures or FIGURES:
        command = [sys.executable, "-m", "benchmarks.contexts", name, "--inside", "--scale", str(options.scale)]
        command += ["--directory", str(options.directory), "--rivals", options.rivals, "--node", str(options.node)]
        print(name, file=sys.stderr, flush=True)
        found += json.loads(run_checked(command))
        for leftover in options.directory.glob("store-*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    known = versions(sys.executable, "ripgrep") | versions(options.rivals, "gitingest")
    known |= node_versions(options.node, "repomix")
    named = ", ".join(f"{name} {version}" for name, version in known.items())
    tell(found, [begun, f"{named}; a token: four bytes; `re` is measured on 100 MB"], as_json=options.json)


if __name__ == "__main__":
    main()

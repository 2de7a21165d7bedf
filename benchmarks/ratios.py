"""Ratios of two processor times of one run, which a slower machine or other load changes little.

`python -m benchmarks.ratios` prints each with its limit; tests/benchmarks/test_ratios.py fails where a limit is
exceeded. A ratio is that of the least times of both sides, which take turns. The limits are about four times what is
measured.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import workloads
from benchmarks.contexts import make_log
from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.text.ripgrep import ripgrep
from wasm_runtime import Runtime

TIMES = 5
LOG_BYTES = 10_000_000
PATTERN = r"attempt_\d+_[0-9]{4}_m_\d+"

Action = Callable[[], object]


def ratio(one: Action, other: Action, times: int = TIMES) -> float:
    """How many times longer `one` takes than `other`."""
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(times):
        for action, seconds in zip((one, other), taken, strict=True):
            began = processor_seconds()
            action()
            seconds.append(processor_seconds() - began)
    return min(taken[0]) / min(taken[1])


def processor_seconds() -> float:
    """Those of this process and of the children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def start_of_python() -> None:
    """Starts a Python that does nothing."""
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)


def session(cache: Path) -> float:
    """A new session and the start of a Python process."""
    with Runtime(cache) as runtime:
        return ratio(lambda: runtime.session().close(), start_of_python)


def first_cell(cache: Path) -> float:
    """A new session with its first cell, and the start of a Python process."""
    with Runtime(cache) as runtime:

        def run() -> None:
            with runtime.session() as session:
                session.exec("1 + 1")

        return ratio(run, start_of_python)


def computing(cache: Path) -> float:
    """A loop and a recursion in the sandbox and in this Python."""
    code = "fib(20)\nadd_up(100_000)"
    source = Path(workloads.__file__).read_text()
    compiled = compile(code, "workload", "exec")
    with Runtime(cache) as runtime, runtime.session() as session:
        session.exec(f"__name__ = 'workloads'\n{source}")
        return ratio(lambda: session.exec(code), lambda: exec(compiled, vars(workloads)))  # noqa: S102 - our own text


def searching(_: Path) -> float:
    """A regular expression over a log, by the store and by ripgrep alone."""
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "store") as store:
        path = make_log(Path(scratch) / "a.log", LOG_BYTES)
        context = store.register_source(str(path), reference=True)
        store.wait_for_indexes(60)
        context = store.get(context.name)
        command = [ripgrep(), "--no-config", "-c", "-e", PATTERN, str(path)]
        return ratio(
            partial(search, store, context, PATTERN, seconds=60),
            partial(subprocess.run, command, stdout=subprocess.DEVNULL, check=True),
        )


def registering(_: Path) -> float:
    """A log, registered and indexed, and the same lines counted by Python."""
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "store") as store:
        path = make_log(Path(scratch) / "a.log", LOG_BYTES)

        def count() -> None:
            with path.open("rb") as file:
                sum(1 for _ in file)

        return ratio(lambda: store.register_source(str(path), reference=False), count)


@dataclass(frozen=True, slots=True)
class Limited:
    """A ratio of a cache directory for the compiled sandbox, and the most that it may be."""

    measure: Callable[[Path], float]
    most: float


RATIOS: Mapping[str, Limited] = {
    "a new session to the start of a Python process": Limited(session, 0.2),
    "a session with its first cell to the start of a Python process": Limited(first_cell, 0.8),
    "a computation in the sandbox to the same in Python": Limited(computing, 8.0),
    "a search to one of ripgrep": Limited(searching, 6.0),
    "registering a log to counting its lines": Limited(registering, 20.0),
}


def main() -> None:
    """Print each ratio."""
    with tempfile.TemporaryDirectory() as cache:
        for name, limited in RATIOS.items():
            print(f"{name:65} {limited.measure(Path(cache)):8.3f} of {limited.most:g}", flush=True)


if __name__ == "__main__":
    main()

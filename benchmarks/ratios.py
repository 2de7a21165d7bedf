"""Ratios of two processor times of one run, which a slower machine or other load changes little.

`python -m benchmarks.ratios` prints each with its limit; tests/benchmarks/test_ratios.py fails where a limit is
exceeded. A ratio is that of the least times of both sides, which take turns. The limits are about four times what is
measured. The ratio of loops is one of elapsed times, because they wait.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from benchmarks import workloads
from benchmarks.contexts import make_log
from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.text.ripgrep import ripgrep
from rlm_mcp.records.events import Cell
from rlm_mcp.settings import load_settings
from rlm_mcp.workspace.launch import SolveRequest
from rlm_mcp.workspace.workspace import Workspace, open_workspace
from tests.peers.openai_server import OpenAIServer, Request
from wasm_runtime import Runtime

TIMES = 5
LOG_BYTES = 10_000_000
PATTERN = r"attempt_\d+_[0-9]{4}_m_\d+"
CALLS, CALL_SECONDS = 16, 0.1
LOOPS = {
    "plain": f"notes = []\nfor i in range({CALLS}):\n    notes.append(llm_query(f'item {{i}}: what is it?'))",
    "chain": f"notes = []\nfor i in range({CALLS}):\n    notes.append(llm_query(f'item {{i}} {{notes[-1:]}}'))",
}

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


def plain_loop(cache: Path) -> float:
    """A plain loop of sub-calls, and one in which each needs the reply before it."""

    def behave(request: Request) -> str:
        if "FINAL" not in request.text:
            return "ok"
        if all(message["role"] != "assistant" for message in request.messages):
            return f"```repl\n{LOOPS['plain' if 'plain' in request.text else 'chain']}\n```"
        return "```repl\nFINAL(len(notes))\n```"

    async def measured() -> float:
        async with OpenAIServer(behave, latency=CALL_SECONDS) as server:
            with tempfile.TemporaryDirectory() as scratch:
                places = {"data_dir": Path(scratch), "cache_dir": cache, "sub_call_cache": False}
                settings = load_settings(
                    {"base_url": server.base_url, "model": "scripted", **places},
                    environ={},
                    config_file=Path(os.devnull),
                )
                async with open_workspace(settings) as workspace:
                    await workspace.contexts.register(text="a line\n", name="text")
                    taken = [await seconds_of_block(workspace, f"a {kind} loop") for kind in LOOPS]
                    return taken[0] / taken[1]

    return anyio.run(measured)


async def seconds_of_block(workspace: Workspace, query: str) -> float:
    """How long the first block of a run takes."""
    run_id = await workspace.runs.start(SolveRequest(query=query, contexts=("text",), mode="rlm"))
    async for _ in workspace.runs.follow(run_id):
        pass
    assert (await workspace.runs.state(run_id)).answer == str(CALLS)
    events = await anyio.to_thread.run_sync(lambda: list(workspace.runs.records.get(run_id).events()))
    return next(event.seconds for event in events if isinstance(event, Cell))


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
    "a plain loop of sub-calls to calls in turn": Limited(plain_loop, 0.8),
}


def main() -> None:
    """Print each ratio."""
    with tempfile.TemporaryDirectory() as cache:
        for name, limited in RATIOS.items():
            print(f"{name:65} {limited.measure(Path(cache)):8.3f} of {limited.most:g}", flush=True)


if __name__ == "__main__":
    main()

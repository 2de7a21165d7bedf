"""Benchmark of the engine: its overhead over model latency, token counting and cancellation.

    python -m benchmarks.engine [figure …] [--repeat 5]

kill.py measures killed processes. Elapsed times are printed with the CPU time of this process (all threads, including
the sandbox) and of the server, which shares the two cores.

Everything is real except the model, which is a scripted OpenAI-compatible server in a separate process, on loopback,
with latency. Figures are medians of `--repeat` runs. Targets assume two cores without other load; the load is printed.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import anyio

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.engine.judge import Judge
from rlm_mcp.engine.prompts import Remaining
from rlm_mcp.engine.steps import Question, Rules, RunBlock
from rlm_mcp.engine.trajectory import Trajectory
from rlm_mcp.models.base import estimate_prompt
from rlm_mcp.models.limiter import START
from rlm_mcp.records.events import Cell
from rlm_mcp.records.group_commit import GroupCommit
from rlm_mcp.records.types import RunState
from rlm_mcp.repl.sandbox import open_sandbox
from rlm_mcp.repl.types import CellResult
from rlm_mcp.settings import load_settings
from rlm_mcp.workspace.inspect_repls import NoCalls
from rlm_mcp.workspace.launch import SolveRequest
from rlm_mcp.workspace.process_tuning import freeze_gc, limit_malloc_arenas
from rlm_mcp.workspace.workspace import Workspace, open_workspace
from tests.peers.openai_server import Fault, OpenAIServer, Request

CACHE_DIR = Path(tempfile.gettempdir()) / "rlm-mcp-benchmark"  # the sandbox is compiled once; this is not measured here
TEXT = "".join(f"line {number}: nothing happened at all\n" for number in range(20_000))

# --- the server: a root model that follows the question ------------------------------------------------------------


LOOPS = {
    "statement": "notes = []\nfor i in range(64):\n    notes.append(llm_query(f'item {i}: what is it?'))",
    "comprehension": "notes = [llm_query(f'item {i}: what is it?') for i in range(64)]",
    "helper": "def ask(i):\n    return llm_query(f'item {i}: what is it?')\nnotes = []\nfor i in range(64):\n"
    "    notes.append(ask(i))",
    "summary": "notes = ['']\nfor i in range(16):\n    notes.append(llm_query(f'item {i}, {notes[-1][-20:]}'))",
    "exit": "notes = []\nfor i in range(64):\n    notes.append(llm_query(f'item {i}: what is it?'))\n"
    "    if notes[-1].startswith('ok item 9:'):\n        break",
    "silent": "notes = []\nfor i in range(300_000):\n    notes.append(i)",
}
"""Blocks with a plain loop of sub-calls."""


def behave(request: Request) -> str:
    """Replies for `turns N` (the last with FINAL), `batch N` (one batch of N sub-calls, then FINAL), `plain loop X`."""
    if "FINAL" not in request.text:
        return "ok " + request.last[:40]
    if (loop := re.search(r"plain loop (\w+)", request.text)) is not None:
        is_first = all(message["role"] != "assistant" for message in request.messages)
        return f"```repl\n{LOOPS[loop.group(1)] if is_first else 'FINAL(len(notes))'}\n```"
    asked = re.search(r"(turns|batch) (\d+)", request.text)
    kind, number = (asked.group(1), int(asked.group(2))) if asked else ("turns", 1)
    turn = sum(message["role"] == "assistant" for message in request.messages) + 1
    if kind == "batch" and turn == 1:
        return (
            f"```repl\nreplies = llm_query_batched([f'question {{i}}: ' + 'x' * 500 for i in range({number})])\n"
            "done = sum(1 for reply in replies if reply)\nprint(done)\n```"
        )
    if kind == "batch":
        return "```repl\nFINAL(done)\n```"
    if turn < number:
        return f"```repl\nseen_{turn} = context[{turn * 100}:{turn * 100 + 40}]\nprint({turn}, seen_{turn})\n```"
    return f"```repl\nFINAL(seen_{max(1, turn - 1)})\n```"


def fault_for(request: Request) -> Fault | None:
    """All kinds of failure, spread over the requests."""
    ways = {
        5: Fault(status=429, retry_after=0.01, latency=0.0),
        11: Fault(status=500, latency=0.0),
        17: Fault(drop="before"),
        23: Fault(drop="during"),
    }
    return ways.get(request.number % 29)


def serve(latency: float, sub_latency: float, *, faults: bool) -> None:
    """Runs the server until killed; prints its base URL."""

    def slowly(request: Request) -> Fault | None:
        fault = fault_for(request) if faults else None
        if fault is not None:
            return fault
        return Fault(latency=latency if "FINAL" in request.text else sub_latency)

    async def main() -> None:
        async with OpenAIServer(behave, faults=slowly, keep_requests=False) as server:
            print(server.base_url, flush=True)
            await anyio.sleep_forever()

    anyio.run(main)


@asynccontextmanager
async def serving(*, latency: float = 0.0, sub_latency: float = 0.0, faults: bool = False) -> AsyncIterator[str]:
    """Runs a server in a separate process; yields its base URL."""
    command = [sys.executable, "-m", "benchmarks.engine", "--serve", str(latency), str(sub_latency), str(int(faults))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220, S603 # our own server, made once
        assert process.stdout is not None
        url = await anyio.to_thread.run_sync(process.stdout.readline)
        try:
            yield url.strip()
        finally:
            process.kill()


def counts(url: str) -> dict[str, Any]:
    with urlopen(url.removesuffix("/v1") + "/counts") as response:  # noqa: S310 # our own server
        found: dict[str, Any] = json.loads(response.read())
    return found


# --- the engine ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def engine(url: str, data_dir: Path | None = None) -> AsyncIterator[Workspace]:
    """A workspace with one context and a warm sandbox."""
    with tempfile.TemporaryDirectory() as directory:
        settings = load_settings(
            {
                "base_url": url,
                "model": "scripted",
                "data_dir": data_dir or Path(directory),
                "cache_dir": CACHE_DIR,
                "sub_call_cache": False,
                "max_sub_calls": 100_000,
            },
            environ={},
            config_file=Path(os.devnull),  # a sub-model of whoever measures would cost money
        )
        async with open_workspace(settings) as workspace:
            context = await workspace.contexts.register(text=TEXT, name="text")
            await workspace.repls.run_code(context, "1 + 1", seconds=300)
            freeze_gc()  # as the server does
            yield workspace


async def solve(workspace: Workspace, query: str) -> RunState:
    run_id = await workspace.runs.start(SolveRequest(query=query, contexts=("text",), mode="rlm"))
    async for _ in workspace.runs.follow(run_id):
        pass
    state = await workspace.runs.state(run_id)
    assert state.stopped_by == "final", f"{state.stopped_by}: {state.message}"
    return state


async def seconds_of_first_block(workspace: Workspace, run_id: str) -> float:
    events = await anyio.to_thread.run_sync(lambda: list(workspace.runs.records.get(run_id).events()))
    return next(event.seconds for event in events if isinstance(event, Cell))


@dataclass(frozen=True, slots=True)
class Timing:
    """Elapsed seconds and CPU seconds of this process and of the server."""

    seconds: float
    own: float
    server: float


async def measure(url: str, function: Callable[[], Awaitable[object]]) -> Timing:
    served, own, began = counts(url)["cpu_seconds"], time.process_time(), time.perf_counter()
    await function()
    seconds, own = time.perf_counter() - began, time.process_time() - own
    return Timing(seconds, own, counts(url)["cpu_seconds"] - served)


async def measure_median(url: str, repeat: int, function: Callable[[int], Awaitable[object]]) -> Timing:
    """Medians of repeated measurements."""
    timings = [await measure(url, partial(function, number)) for number in range(repeat)]
    return Timing(*(statistics.median(values) for values in zip(*map(astuple, timings), strict=True)))


# --- the figures --------------------------------------------------------------------------------------------------


async def turns(repeat: int) -> None:
    async with serving() as url, engine(url) as workspace:
        await solve(workspace, "warm: turns 3")
        run = await measure_median(url, repeat, lambda n: solve(workspace, f"number {n}: turns 20"))
        short = await measure_median(url, repeat, lambda n: solve(workspace, f"number {n}: turns 2"))
    turn = Timing(*((long - brief) / 18 * 1000 for long, brief in zip(astuple(run), astuple(short), strict=True)))
    report("a run of 20 turns, instant model", run.seconds, "s", 0.25)
    report("  CPU time here, in the server", run.own, "s", None, run.server)
    report("overhead of a turn, HTTP included: the run / 20", run.seconds / 20 * 1000, "ms", 5)
    report("  (20 turns - 2 turns) / 18: without start and end", turn.seconds, "ms", 5)
    report("  CPU time here, in the server", turn.own, "ms", None, turn.server)


async def batch(repeat: int) -> None:
    ideal = 1000 / 64 * 0.1
    blocks: list[float] = []
    async with serving(sub_latency=0.1) as url, engine(url) as workspace:

        async def one(number: int) -> None:
            state = await solve(workspace, f"number {number}: batch 1000")
            blocks.append(await seconds_of_first_block(workspace, state.run_id))

        cold = await measure(url, lambda: solve(workspace, "first: batch 1000"))
        warm = await measure_median(url, repeat, one)
        most = counts(url)["most_in_flight"]
    report("1,000 sub-calls of 100 ms, the block, limiter warm", statistics.median(blocks) / ideal, "x ideal", 1.1)
    report("  the whole run", warm.seconds / ideal, "x ideal", None)
    report("  CPU time of a call here, in the server", warm.own, "ms", None, warm.server)
    report(f"  the whole run, limiter starting at {START}", cold.seconds / ideal, "x ideal", None)
    report("maximum in flight", most, "", None)


async def loops(repeat: int) -> None:
    async with serving(sub_latency=0.05) as url, engine(url) as workspace:
        await solve(workspace, "warm: batch 64")
        for kind in LOOPS:
            blocks: list[float] = []
            sent, in_vain = 0, 0
            for number in range(repeat):
                state = await solve(workspace, f"number {number}: plain loop {kind}")
                blocks.append(await seconds_of_first_block(workspace, state.run_id))
                sent, in_vain = state.usage.sub_calls, max(in_vain, state.usage.calls_in_vain)
            target = 0.25 if kind in ("statement", "comprehension", "helper") else None
            report(f"sub-calls of 50 ms in a loop: {kind}", statistics.median(blocks), "s", target)
            report("  sub-calls paid, in vain", sent, "", None, in_vain)


async def concurrent_runs(_: int) -> None:
    async with serving(latency=0.05) as url, engine(url) as workspace:
        finished: list[float] = []

        async def one(number: int) -> None:
            began = time.perf_counter()
            await solve(workspace, f"number {number}: turns 10")
            finished.append(time.perf_counter() - began)

        peaks: Counter[str] = Counter()
        began = time.process_time()
        async with anyio.create_task_group() as watching:
            watching.start_soon(watch_memory, peaks)
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(one, number)
            watching.cancel_scope.cancel()
        own = time.process_time() - began
    report("50 runs of 10 turns at once: the first ends", min(finished), "s", None)
    report("50 runs of 10 turns at once: the last ends", max(finished), "s", None)
    report("  CPU time of a turn here", own / 500 * 1000, "ms", None)
    report("peak memory, shared pages counted once (PSS)", peaks["Pss"] / 1024, "MiB", 1024)
    report("  of which anonymous", peaks["Anonymous"] / 1024, "MiB", None)
    report("  shared pages counted for each session (RSS)", peaks["Rss"] / 1024, "MiB", None)


async def record(repeat: int) -> None:
    """64 replies at once on a record whose commits take as long as an fsync of 4.5 ms."""
    commits: list[int] = []
    late: list[float] = []
    for _ in range(4 * repeat):
        written: list[int] = []

        def commit(lines: list[bytes], written: list[int] = written) -> None:
            time.sleep(0.0045)
            written.append(len(lines))
            lines.clear()

        queue = GroupCommit(commit)

        async def reply(queue: GroupCommit = queue) -> None:
            queue.add(b"x" * 1_000)
            queue.begin()
            await queue.settled()

        async with anyio.create_task_group() as watching:
            lateness: list[float] = []
            watching.start_soon(watch_loop, lateness)
            await anyio.sleep(0.005)
            async with anyio.create_task_group() as replies:
                for _ in range(64):
                    replies.start_soon(reply)
            await anyio.sleep(0.005)
            watching.cancel_scope.cancel()
        queue.close()
        commits.append(len(written))
        late.append(max(lateness))
    report("commits of 64 replies, at most", max(commits), "", 2)
    report("the loop is late by at most, least and median", min(late) * 1000, "ms", 5, statistics.median(late) * 1000)


async def watch_loop(lateness: list[float]) -> None:
    """Records how much later than asked for the loop wakes a task."""
    while True:
        asked = time.perf_counter() + 0.001
        await anyio.sleep(0.001)
        lateness.append(time.perf_counter() - asked)


class SlowCalls(NoCalls):
    """Answers sub-calls after 2 s."""

    async def llm_query(self, *_: object, **__: object) -> object:
        await anyio.sleep(2)
        return "ok"


async def waiting_cells(_: int) -> None:
    peaks: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Store(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        context = store.register_text(TEXT, name="text")
        sandbox = await stack.enter_async_context(open_sandbox(CACHE_DIR))
        opening = partial(sandbox.open_repl, store, [context], SlowCalls())
        repls = [await stack.enter_async_context(opening()) for _ in range(160)]
        watching = await stack.enter_async_context(anyio.create_task_group())
        watching.start_soon(watch_memory, peaks)
        began, own = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as cells:
            for repl in repls:
                cells.start_soon(repl.run, "reply = llm_query('q')")
        report("160 cells that wait 2 s for a sub-call", time.perf_counter() - began, "s", 2.6)
        report("  CPU time of a cell here", (time.process_time() - own) / 160 * 1000, "ms", None)
        report("  peak memory, of which anonymous", peaks["Pss"] / 1024, "MiB", None, peaks["Anonymous"] / 1024)
        watching.cancel_scope.cancel()


async def watch_memory(peaks: Counter[str]) -> None:
    """Records peak figures in KiB. RSS counts a page of the sandbox image once for each session that maps it."""
    while True:
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:  # noqa: ASYNC240 # not on a disk
            name, size = line.split()[:2]
            peaks[name.rstrip(":")] = max(peaks[name.rstrip(":")], int(size))
        await anyio.sleep(0.5)


async def tokens(_: int) -> None:
    async with serving(sub_latency=0.01, faults=True) as url, engine(url) as workspace:
        before = counts(url)
        state = await solve(workspace, "number 1: batch 500")
        after = counts(url)
    served = sum(after[name] - before[name] for name in ("prompt_tokens", "completion_tokens"))
    counted = state.usage.prompt_tokens + state.usage.completion_tokens
    report("tokens reported minus tokens served, under faults", counted - served, "", 0)
    failed = after["requests"] - before["requests"] - (after["replies"] - before["replies"])
    report("failed requests reported minus those at the server", state.usage.failed_calls - failed, "", 0)


async def cancel(repeat: int) -> None:
    after: list[float] = []
    off: list[int] = []
    estimated: list[int] = []
    for number in range(repeat):
        async with serving(sub_latency=0.02) as url, engine(url) as workspace:
            run_id = await workspace.runs.start(
                SolveRequest(query=f"number {number}: batch 20000", contexts=("text",), mode="rlm")
            )
            while counts(url)["requests"] < 200:  # noqa: ASYNC110 # the counts are in another process
                await anyio.sleep(0.01)
            began = time.monotonic()
            await workspace.runs.cancel(run_id)
            await anyio.sleep(0.3)
            then = counts(url)
            after.append(max(0.0, then["last_byte_in"] - began))
            usage = (await workspace.runs.state(run_id)).usage
            served = then["prompt_tokens"] + then["completion_tokens"]
            off.append(usage.prompt_tokens + usage.completion_tokens - served)
            estimated.append(usage.unanswered_prompt_tokens)
    report("from cancel to the last byte sent to the provider", max(after), "s", 0.2)
    report("tokens reported minus tokens served, cancelled runs", min(off), "", 0)
    report("  prompts without a reply, estimated", max(estimated), "tokens", None)


async def summaries(_: int) -> None:
    """A dialogue of 60 turns in a window of 24,000 tokens: what of its 59 facts the last prompt still tells.

    Each turn prints a fact, in the first line of 3,000 characters or far below it. The scripted model sums up by
    copying the facts that its prompt holds.
    """
    for place, below in (("first line", 0), ("below", 100)):
        for sums_up in (False, True):
            told, asked, tokens = sixty_turns(lines_before=below, sums_up=sums_up)
            how = "own summaries" if sums_up else "a line a turn"
            report(f"facts of 59 told after 60 turns, {place}, {how}", told, "", None)
            report("  requests, and tokens in", asked, "", None, tokens)


def sixty_turns(*, lines_before: int, sums_up: bool) -> tuple[int, int, int]:
    """Facts in the last prompt, requests, and tokens of all prompts."""
    rules = Rules(window_tokens=24_000, reply_tokens=2_000, summarises=sums_up)
    trajectory = Trajectory(Judge(Question(query="What are the facts?"), rules), ())
    asked = tokens = number = 0
    while True:
        ask = trajectory.ask(Remaining(turn=asked + 1, turns=200))
        asked += 1
        tokens += estimate_prompt(ask.messages)
        facts = set(re.findall(r"fact \d+ is \d+", " ".join(message.content for message in ask.messages)))
        if "Sum up for yourself" in ask.messages[-1].content:
            trajectory.receive_reply("; ".join(sorted(facts)))
            continue
        number += 1
        if number == 60:
            return len(facts), asked, tokens
        step = trajectory.receive_reply(f"```repl\nlook({number})\n```")
        assert isinstance(step, RunBlock)
        lines = [f"line {n} of part {number}" for n in range(150)]
        lines.insert(lines_before, f"fact {number} is {number * 7919}")
        printed = "\n".join(lines)
        trajectory.receive_cell(CellResult(code=step.code, stdout=printed, stdout_chars=len(printed)))


class Report:
    """Prints each figure as it is measured, and keeps it for `python -m benchmarks`."""

    def __init__(self) -> None:
        self.stream = sys.stdout
        self.figures: list[dict[str, object]] = []
        self._above = ""

    def __call__(self, what: str, value: float, unit: str, target: float | None, second: float | None = None) -> None:
        """An indented figure is a part of the last one that is not."""
        shown = f"{value:,.0f}" if math.isclose(value, round(value)) else f"{value:,.3f}"
        met = "" if target is None else f"   target {target:g}" + ("" if value <= target else "   MISSED")
        more = "" if second is None else f", {second:,.3f} {unit}"
        print(f"{what:55s} {shown:>10s} {unit}{more}{met}", file=self.stream, flush=True)
        if not what.startswith(" "):
            self._above = what
        name = f"{self._above}: {what.strip()}" if what.startswith(" ") else what
        figure: dict[str, object] = {"name": name, "unit": unit, "value": value, "low": value, "high": value, "n": 1}
        self.figures.append({**figure, "better": "lower", "contender": "rlm-mcp"})


report = Report()


FIGURES: dict[str, Callable[[int], Awaitable[None]]] = {
    "turns": turns,
    "record": record,
    "batch": batch,
    "loops": loops,
    "many": concurrent_runs,
    "waiting": waiting_cells,
    "tokens": tokens,
    "cancel": cancel,
    "summaries": summaries,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of the engine.")
    parser.add_argument("figures", nargs="*", help=f"one or more of {', '.join(FIGURES)}; default: all")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on stdout")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(float(options.serve[0]), float(options.serve[1]), faults=options.serve[2] == "1")
    else:
        limit_malloc_arenas()  # as the server does
        machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}, Python {sys.version.split()[0]}"
        if options.json:
            report.stream = sys.stderr
        print(machine, file=report.stream)
        for name in options.figures or FIGURES:
            anyio.run(FIGURES[name], options.repeat)
        if options.json:
            print(json.dumps({"figures": report.figures, "notes": [machine]}))


if __name__ == "__main__":
    main()

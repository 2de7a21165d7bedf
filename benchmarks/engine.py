"""Benchmark of the engine: its overhead over model latency, token counting, cancellation and what failures lose.

    python -m benchmarks.engine [figure …] [--repeat 5] [--rivals PYTHON] [--json]

The figures `turns`, `loops`, `tokens` and `losses` are also taken of `rlms` and dspy.RLM if the Python of `--rivals`
has them; they get the same programs from the same server. Elapsed times are printed with the CPU time of this process
(all threads, including the sandbox) and of the server, which shares the two cores.

Everything is real except the model, which is a scripted OpenAI-compatible server in a separate process, on loopback,
with latency. Figures are medians of `--repeat` runs. Targets assume two cores without other load; the load is printed.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio

from benchmarks import CACHE_DIR, kill
from benchmarks.engine_server import LIMIT_SECONDS, LOOPS, NEEDED, serving
from benchmarks.figures import cell, figure, machine, tell, versions
from benchmarks.rivals import Rival, rivals
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
from rlm_mcp.spending import RunLimits
from rlm_mcp.workspace.inspect_repls import NoCalls
from rlm_mcp.workspace.launch import SolveRequest
from rlm_mcp.workspace.process_tuning import freeze_gc, limit_malloc_arenas, switch_threads_often
from rlm_mcp.workspace.workspace import Workspace, open_workspace
from tests.peers.openai_server import counts_at

TEXT = "".join(f"line {number}: nothing happened at all\n" for number in range(20_000))

# --- the engine ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def engine(url: str, *, sub_call_cache: bool = False) -> AsyncIterator[Workspace]:
    """A workspace with one context and a warm sandbox."""
    with tempfile.TemporaryDirectory() as directory:
        settings = load_settings(
            {
                "base_url": url,
                "model": "scripted",
                "data_dir": Path(directory),
                "cache_dir": CACHE_DIR,
                "sub_call_cache": sub_call_cache,
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
    state = await ended(workspace, query)
    assert state.stopped_by == "final", f"{state.stopped_by}: {state.message}"
    return state


async def ended(workspace: Workspace, query: str, max_seconds: float | None = None) -> RunState:
    """A run that has ended, however it did."""
    limits = RunLimits(max_seconds=max_seconds)
    run_id = await workspace.runs.start(SolveRequest(query=query, contexts=("text",), mode="rlm", limits=limits))
    async for _ in workspace.runs.follow(run_id):
        pass
    return await workspace.runs.state(run_id)


async def resumed(workspace: Workspace, run_id: str) -> None:
    """Continues a run whose time was over, until it has its answer."""
    while (state := await workspace.runs.state(run_id)).stopped_by == "seconds":
        await workspace.runs.resume(run_id)
        async for _ in workspace.runs.follow(run_id):
            pass
    assert state.stopped_by == "final", f"{state.stopped_by}: {state.message}"


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
    served, own, began = counts_at(url)["cpu_seconds"], time.process_time(), time.perf_counter()
    await function()
    seconds, own = time.perf_counter() - began, time.process_time() - own
    return Timing(seconds, own, counts_at(url)["cpu_seconds"] - served)


async def measure_median(url: str, repeat: int, function: Callable[[int], Awaitable[object]]) -> Timing:
    """Medians of repeated measurements."""
    timings = [await measure(url, partial(function, number)) for number in range(repeat)]
    return Timing(*(statistics.median(values) for values in zip(*map(astuple, timings), strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How often a figure is measured, and beside which rivals."""

    repeat: int
    rivals: Sequence[Rival]


# --- the figures --------------------------------------------------------------------------------------------------


async def turns(options: Options) -> None:
    async with serving() as url, engine(url) as workspace:
        await solve(workspace, "number warm: turns 3")
        run = await measure_median(url, options.repeat, lambda n: solve(workspace, f"number {n}: turns 20"))
        short = await measure_median(url, options.repeat, lambda n: solve(workspace, f"number {n}: turns 2"))
    turn = Timing(*((long - brief) / 18 for long, brief in zip(astuple(run), astuple(short), strict=True)))
    report("a run of 20 turns, instant model", run.seconds, "s", 0.25)
    report("  CPU time here", run.own, "s")
    report("  CPU time in the server", run.server, "s")
    report("a turn, HTTP included: the run / 20", run.seconds / 20, "s", 0.005)
    report("  without start and end: (20 turns - 2 turns) / 18", turn.seconds, "s", 0.005)
    report("  CPU time here", turn.own, "s")
    report("  CPU time in the server", turn.server, "s")
    for rival in options.rivals:
        async with serving() as url:
            rival.answered(url, "number warm: turns 3")
            runs = [rival.answered(url, f"number {n}: turns 20")["seconds"] for n in range(options.repeat)]
            shorts = [rival.answered(url, f"number {n}: turns 2")["seconds"] for n in range(options.repeat)]
        report("a run of 20 turns, instant model", runs, "s", contender=rival.title)
        report("a turn, HTTP included: the run / 20", [each / 20 for each in runs], "s", contender=rival.title)
        turn_alone = (statistics.median(runs) - statistics.median(shorts)) / 18
        report("  without start and end: (20 turns - 2 turns) / 18", turn_alone, "s", contender=rival.title)


async def batch(options: Options) -> None:
    ideal = 1000 / 64 * 0.1
    blocks: list[float] = []
    async with serving(sub_latency=0.1) as url, engine(url) as workspace:

        async def one(number: int) -> None:
            state = await solve(workspace, f"number {number}: batch 1000")
            blocks.append(await seconds_of_first_block(workspace, state.run_id))

        cold = await measure(url, lambda: solve(workspace, "number first: batch 1000"))
        warm = await measure_median(url, options.repeat, one)
        most = counts_at(url)["most_in_flight"]
    report("1,000 sub-calls of 100 ms, the block, limiter warm", [each / ideal for each in blocks], "x ideal", 1.1)
    report("  the whole run", warm.seconds / ideal, "x ideal")
    report("  CPU time of a call here", warm.own / 1000, "s")
    report("  CPU time of a call in the server", warm.server / 1000, "s")
    report(f"  the whole run, limiter starting at {START}", cold.seconds / ideal, "x ideal")
    report("maximum in flight", most, "")


async def loops(options: Options) -> None:
    async with serving(sub_latency=0.05) as url, engine(url) as workspace:
        await solve(workspace, "number warm: batch 64")
        for kind in LOOPS:
            blocks: list[float] = []
            sent, in_vain = 0, 0
            for number in range(options.repeat):
                state = await solve(workspace, f"number {number}: plain loop {kind}")
                blocks.append(await seconds_of_first_block(workspace, state.run_id))
                sent, in_vain = state.usage.sub_calls, max(in_vain, state.usage.calls_in_vain)
            target = 0.25 if kind in ("statement", "comprehension", "helper") else None
            report(f"sub-calls of 50 ms in a loop: {kind}", blocks, "s", target)
            report("  paid", sent, "")
            report("  of them in vain", in_vain, "")
    for rival in options.rivals:
        async with serving(sub_latency=0.05) as url:
            rival.answered(url, "number warm: batch 8")
            empty = rival.answered(url, "number 0: turns 2")["seconds"]  # it tells no time of a block
            for kind in LOOPS:
                before = counts_at(url)["requests"]
                seconds = rival.answered(url, f"number 0: plain loop {kind}")["seconds"] - empty
                report(f"sub-calls of 50 ms in a loop: {kind}", seconds, "s", contender=rival.title)
                report("  paid", counts_at(url)["requests"] - before - 2, "", contender=rival.title)


async def concurrent_runs(_: Options) -> None:
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
    report("50 runs of 10 turns at once: the first ends", min(finished), "s")
    report("50 runs of 10 turns at once: the last ends", max(finished), "s")
    report("  CPU time of a turn here", own / 500, "s")
    report("peak memory, shared pages counted once (PSS)", peaks["Pss"] / 1024, "MiB", 1024)
    report("  of which anonymous", peaks["Anonymous"] / 1024, "MiB")
    report("  shared pages counted for each session (RSS)", peaks["Rss"] / 1024, "MiB")


async def record(options: Options) -> None:
    """64 replies at once on a record whose commits take as long as an fsync of 4.5 ms."""
    commits: list[int] = []
    late: list[float] = []
    for _ in range(4 * options.repeat):
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
    report("the loop is late by at most", min(late), "s", 0.005)
    report("  median", statistics.median(late), "s")


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


async def waiting_cells(_: Options) -> None:
    peaks: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Store(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        context = store.register_text(TEXT, name="text")
        sandbox = await stack.enter_async_context(open_sandbox(CACHE_DIR))
        opening = partial(sandbox.open_repl, store, [context], SlowCalls())
        repls = [await stack.enter_async_context(opening()) for _ in range(160)]
        freeze_gc()  # as the server does
        began, own = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as cells:
            for repl in repls:
                cells.start_soon(repl.run, "reply = llm_query('q')")
            await anyio.sleep(1.5)  # until all wait: reading the figures keeps cells from mapping memory for 50 ms
            note_memory(peaks)
        report("160 cells that wait 2 s for a sub-call", time.perf_counter() - began, "s", 2.6)
        report("  CPU time of a cell here", (time.process_time() - own) / 160, "s")
        report("  memory while all wait", peaks["Pss"] / 1024, "MiB")
        report("  of which anonymous", peaks["Anonymous"] / 1024, "MiB")


async def watch_memory(peaks: Counter[str]) -> None:
    """Notes the memory of this process again and again."""
    while True:
        note_memory(peaks)
        await anyio.sleep(0.5)


def note_memory(peaks: Counter[str]) -> None:
    """Records peak figures in KiB. RSS counts a page of the sandbox image once for each session that maps it."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, size = line.split()[:2]
        peaks[name.rstrip(":")] = max(peaks[name.rstrip(":")], int(size))


async def tokens(options: Options) -> None:
    what = "tokens reported minus tokens served, under faults"
    replies = "  replies that code received, of 500 sub-calls"
    async with serving(sub_latency=0.01, faults=True) as url, engine(url) as workspace:
        before = counts_at(url)
        state = await solve(workspace, "number 1: batch 500")
        after = counts_at(url)
    served = sum(after[name] - before[name] for name in ("prompt_tokens", "completion_tokens"))
    counted = state.usage.prompt_tokens + state.usage.completion_tokens
    report(what, counted - served, "", 0)
    report(replies, int(state.answer or 0), "", better="higher")
    failed = after["requests"] - before["requests"] - (after["replies"] - before["replies"])
    report("  failed requests reported minus those at the server", state.usage.failed_calls - failed, "", 0)
    for rival in options.rivals:
        async with serving(sub_latency=0.01, faults=True) as url:
            said = rival.ask(url, "number 1: batch 500")
            served = sum(counts_at(url)[name] for name in ("prompt_tokens", "completion_tokens"))
        ended = said["ended"] if said["ended"] != "answered" else ""
        counted = said.get("prompt_tokens", 0) + said.get("completion_tokens", 0)
        report(what, counted - served, "", contender=rival.title, text=ended)
        received = int(said["answer"]) if str(said["answer"]).isdigit() else 0
        report(replies, received, "", contender=rival.title, better="higher")


async def losses(options: Options) -> None:
    """Calls that are paid more often than the work needs them, when something goes wrong in the middle."""
    names = {
        "exception": f"calls paid twice, of {NEEDED}: a block raises after its sub-calls",
        "time-out": f"calls paid twice, of {NEEDED}: the limit of time ends the run, which is resumed",
        "again": f"calls paid twice, of {NEEDED}: the limit of time ends the run, and the question is asked again",
        "kill": f"calls paid twice, of {NEEDED}: the process is killed in the middle",
    }
    async with serving(latency=0.1, sub_latency=0.01) as url:
        async with engine(url) as workspace:
            await solve(workspace, "number 1: work and raise")
        report(names["exception"], counts_at(url)["replies"] - NEEDED - 1, "", 0)
    for name in ("time-out", "again"):
        async with serving(sub_latency=0.01) as url:
            async with engine(url, sub_call_cache=True) as workspace:  # as shipped
                state = await ended(workspace, "number 1: work and hang", LIMIT_SECONDS)
                assert state.stopped_by == "seconds"
                if name == "time-out":
                    await resumed(workspace, state.run_id)
                else:
                    await solve(workspace, "number 1: work and hang")
            report(names[name], counts_at(url)["replies"] - NEEDED, "", 0 if name == "time-out" else None)
    with tempfile.TemporaryDirectory() as directory:
        killed = await kill.killed_and_resumed(Path(directory), kill.EVENTS // 2, 0.0)
    assert killed is not None
    report(names["kill"], killed.repeated + killed.lost, "", 0)
    for rival in options.rivals:
        async with serving(latency=0.1, sub_latency=0.01) as url:
            rival.answered(url, "number 1: work and raise")
            report(names["exception"], counts_at(url)["replies"] - NEEDED - 1, "", contender=rival.title)
        if rival.model == "rlms":  # dspy.RLM has no limit of time
            async with serving(sub_latency=0.01) as url:
                assert rival.ask(url, "number 1: work and hang", seconds=LIMIT_SECONDS)["ended"] == "seconds"
                rival.answered(url, "number 1: work and hang")
                report(names["again"], counts_at(url)["replies"] - NEEDED, "", contender=rival.title)
        async with serving(latency=0.1, sub_latency=0.01) as url:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(anyio.to_thread.run_sync, partial(rival.ask, url, "number 1: work")))
                while counts_at(url)["replies"] < NEEDED // 2:  # noqa: ASYNC110 # the counts are in another process
                    await anyio.sleep(0.01)
                rival.kill()
            rival.answered(url, "number 1: work")
            report(names["kill"], counts_at(url)["replies"] - NEEDED, "", contender=rival.title)


async def cancel(options: Options) -> None:
    after: list[float] = []
    off: list[int] = []
    estimated: list[int] = []
    for number in range(options.repeat):
        async with serving(sub_latency=0.02) as url, engine(url) as workspace:
            run_id = await workspace.runs.start(
                SolveRequest(query=f"number {number}: batch 20000", contexts=("text",), mode="rlm")
            )
            while counts_at(url)["requests"] < 200:  # noqa: ASYNC110 # the counts are in another process
                await anyio.sleep(0.01)
            began = time.monotonic()
            await workspace.runs.cancel(run_id)
            await anyio.sleep(0.3)
            then = counts_at(url)
            after.append(max(0.0, then["last_byte_in"] - began))
            usage = (await workspace.runs.state(run_id)).usage
            served = then["prompt_tokens"] + then["completion_tokens"]
            off.append(usage.prompt_tokens + usage.completion_tokens - served)
            estimated.append(usage.unanswered_prompt_tokens)
    report("from cancel to the last byte sent to the provider", max(after), "s", 0.2)
    report("tokens reported minus tokens served, cancelled runs", min(off), "", 0)
    report("  prompts without a reply, estimated", max(estimated), "tokens")


async def summaries(_: Options) -> None:
    """A dialogue of 60 turns in a window of 24,000 tokens: what of its 59 facts the last prompt still tells.

    Each turn prints a fact, in the first line of 3,000 characters or far below it. The scripted model sums up by
    copying the facts that its prompt holds.
    """
    for place, below in (("first line", 0), ("below", 100)):
        for sums_up in (False, True):
            told, asked, tokens = sixty_turns(lines_before=below, sums_up=sums_up)
            how = "own summaries" if sums_up else "a line a turn"
            report(f"facts of 59 told after 60 turns, {place}, {how}", told, "", better="higher")
            report("  requests", asked, "")
            report("  tokens in", tokens, "")


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
        self.figures: list[dict[str, Any]] = []
        self._above = ""

    def __call__(
        self,
        what: str,
        values: float | Sequence[float],
        unit: str,
        target: float | None = None,
        *,
        contender: str = "rlm-mcp",
        better: Literal["lower", "higher"] = "lower",
        text: str = "",
    ) -> None:
        """An indented figure is a part of the last one that is not."""
        if not what.startswith(" "):
            self._above = what
        name = f"{self._above}: {what.strip()}" if what.startswith(" ") else what
        taken = values if isinstance(values, Sequence) else [values]
        row = figure(name, unit, taken, contender=contender, better=better, text=text)
        missed = "" if target is None else f"   target {target:g}" + ("" if row["value"] <= target else "   MISSED")
        print(f"{contender:10s} {what:60s} {cell(row)}{missed}", file=self.stream, flush=True)
        self.figures.append(row)


report = Report()


FIGURES: dict[str, Callable[[Options], Awaitable[None]]] = {
    "turns": turns,
    "record": record,
    "batch": batch,
    "loops": loops,
    "many": concurrent_runs,
    "waiting": waiting_cells,
    "tokens": tokens,
    "losses": losses,
    "cancel": cancel,
    "summaries": summaries,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", help=f"one or more of {', '.join(FIGURES)}; default: all")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rivals", default=sys.executable, metavar="PYTHON", help="has rlms and dspy")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on stdout")
    options = parser.parse_args()
    limit_malloc_arenas()  # as the server does
    switch_threads_often()
    begun = machine()
    known = versions(options.rivals, "rlms", "dspy", "deno")
    if options.json:
        report.stream = sys.stderr
    print(begun, file=report.stream)
    with rivals(options.rivals, TEXT) as found:
        for name in options.figures or FIGURES:
            anyio.run(FIGURES[name], Options(repeat=options.repeat, rivals=found))
    if options.json:
        named = ", ".join(f"{name} {version}" for name, version in known.items())
        tell(report.figures, [begun, *([named] if named else [])], as_json=True)


if __name__ == "__main__":
    main()

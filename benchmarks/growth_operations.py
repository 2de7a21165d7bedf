"""Growth of the time of public operations with the number of files, contexts, runs or events they are about.

Part of `python -m benchmarks.growth`, which prints the CPU time for 4n divided by that for n.
"""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from rlm_mcp.contexts.describe.overview import describe
from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.citations import collect_citations
from rlm_mcp.engine.coverage import Reading
from rlm_mcp.records.events import RunStarted, event_from_json
from rlm_mcp.records.reading import read_events
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from rlm_mcp.records.tape import Tape
from rlm_mcp.repl.types import RawCitation
from rlm_mcp.server.resources import Resources
from rlm_mcp.settings import load_settings
from rlm_mcp.viewer.comparing import compare_runs
from rlm_mcp.viewer.following import FollowedRun
from rlm_mcp.viewer.page import run_facts
from rlm_mcp.workspace.workspace import Workspace, open_workspace

Operation = Callable[[Path, int], float]
"""(an empty directory, n) -> CPU seconds of the operation, without its preparation"""


def seconds_of(name: str, n: int) -> float:
    """The CPU seconds of an operation about n things."""
    with TemporaryDirectory() as directory:
        return OPERATIONS[name](Path(directory), n)


def ratio(name: str, n: int) -> float:
    """The time for 4n divided by that for n."""
    return seconds_of(name, 4 * n) / max(seconds_of(name, n), 1e-9)


def _cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _write_files(directory: Path, n: int) -> Path:
    source = directory / "src"
    for at in range(n):
        (source / f"{at // 1000:03}").mkdir(parents=True, exist_ok=True)
        (source / _path(at)).write_text(f"file {at}\nvalue {at * 7}\n")
    return source


def _path(at: int) -> str:
    return f"{at // 1000:03}/{at:06}.txt"


def _over_files(work: Callable[[Store, Context, int], object], *, prepared: bool = False) -> Operation:
    """An operation on a context of n files; with `prepared`, for the second time."""

    def measure(directory: Path, n: int) -> float:
        with Store(directory / "data") as store:
            context = store.register_source(str(_write_files(directory, n)), name="files")
            if prepared:
                work(store, context, n)
            return _cpu(lambda: work(store, context, n))

    return measure


def _registers(directory: Path, n: int) -> float:
    source = _write_files(directory, n)
    with Store(directory / "data") as store:
        return _cpu(lambda: store.register_source(str(source)))


def _covers(store: Store, context: Context, n: int) -> object:
    reading = Reading()
    reading.add_model_text("\n".join(f"file {at}" for at in range(n)))
    return reading.coverage(store, [context])


def _cites(store: Store, context: Context, n: int) -> object:
    raw = [
        RawCitation(context="files", path=_path(at)[4:], start_line=1, end_line=1, quote=f"file {at}")
        for at in range(n)
    ]
    return collect_citations(store, [context], raw, None)


def _in_workspace(
    prepare: Callable[[Workspace, Path, int], Awaitable[object]], work: Callable[[Workspace, Any], Awaitable[object]]
) -> Operation:
    def measure(directory: Path, n: int) -> float:
        async def run() -> float:
            settings = load_settings(
                {"data_dir": str(directory / "data"), "roots": str(directory)},
                environ={},
                config_file=directory / "none.toml",
            )
            async with open_workspace(settings) as workspace:
                prepared = await prepare(workspace, directory, n)
                started = time.process_time()
                await work(workspace, prepared)
                return time.process_time() - started

        return anyio.run(run)

    return measure


def _in_repl(code: str) -> Operation:
    async def prepare(workspace: Workspace, directory: Path, n: int) -> Context:
        source = await anyio.to_thread.run_sync(_write_files, directory, n)
        context = await workspace.contexts.register(source=str(source), name="files")
        await workspace.repls.run_code(context, "paths = list(context)", seconds=100)
        return context

    async def work(workspace: Workspace, context: Context) -> None:
        cell = await workspace.repls.run_code(context, code, seconds=500)
        if cell.error is not None:
            raise RuntimeError(cell.error.message)

    return _in_workspace(prepare, work)


async def _register_texts(workspace: Workspace, _: Path, n: int) -> None:
    for at in range(n):
        await workspace.contexts.register(text=f"text {at}", name=f"name-{at}")


async def _list_resources(workspace: Workspace, _: object) -> None:
    await Resources(lambda: workspace).listing()


async def _list_contexts(workspace: Workspace, _: object) -> None:
    await workspace.contexts.list_all()


def _events(n: int) -> list[dict[str, Any]]:
    """A run of n / 4 turns, each with a reply, a block and two sub-calls."""
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "cost_usd": 0.0, "cached_prompt_tokens": 0}
    events: list[dict[str, Any]] = []
    for turn in range(1, n // 4 + 1):
        reply = {"text": "```repl\nx = 1\n```", "finish_reason": "stop", "model": "m", "last": ["", ""], "usage": usage}
        cell = {
            "block": 1, "code": "x = 1", "stdout": "1\n", "stderr": "", "value": None, "error": None,
            "truncated": False, "stdout_chars": 2, "stopped_by": None, "undone": False, "variables": [],
            "changed": [], "final": None, "citations": [], "reads": [["c", "", turn, turn + 1]], "notes": [],
        }  # fmt: skip
        calls = [
            {"key": f"{turn:08x}{k:08x}", "kind": "llm", "prompt_chars": 9, "prompt_head": "x", "value": "y"}
            for k in range(2)
        ]
        parts: list[tuple[str, dict[str, Any]]] = [
            ("root_reply", reply),
            *(("sub_reply", call) for call in calls),
            ("cell", cell),
        ]
        events += [
            {"event": name, "path": "", "turn": turn, "seconds": 0.1, "at": float(turn)} | p for name, p in parts
        ]
    return events


def _over_record(work: Callable[[Path, Store], object]) -> Operation:
    def measure(directory: Path, n: int) -> float:
        run = Runs(directory).create(_started())
        run.close()
        with run.events_path.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(event)}\n" for event in _events(n))
        with Store(directory / "data") as store:
            return _cpu(lambda: work(run.events_path, store))

    return measure


def _reads_pieces(path: Path, store: Store) -> None:
    followed = FollowedRun(Run(path.parent), store)
    piece = followed.piece(0)
    while piece.is_behind:
        piece = followed.piece(piece.next_rows, piece.offset + len(piece.text))


def _started() -> RunStarted:
    models = {"root": {"name": "m"}, "sub": {"name": "m"}}
    data = {"format": 1, "run_id": "run-0123456789ab", "query": "q", "contexts": [], "models": models, "limits": {}}
    created = {"created_at": "2026-11-22T09:30:00.000+00:00", "at": 0.0}
    started = event_from_json({"event": "run_started"} | data | created)
    if not isinstance(started, RunStarted):
        raise TypeError(started)
    return started


def _lists_runs(directory: Path, n: int) -> float:
    runs = Runs(directory)
    for _ in range(n):
        runs.create(_started()).close()
    return _cpu(lambda: runs.list(limit=20))


def _compares(path: Path, store: Store) -> object:
    facts = run_facts(read_events(path), store)[1]
    return compare_runs(facts, facts)


OPERATIONS: Mapping[str, Operation] = {
    "register a directory": _registers,
    "register it again": _over_files(lambda store, context, _: store.register_source(context.source, name="files")),
    "overview of a directory": _over_files(lambda store, context, _: describe(store, context)),
    "search with few matches": _over_files(lambda store, context, _: search(store, context, "file 77$")),
    "search with many matches": _over_files(
        lambda store, context, _: search(store, context, "value", max_matches=10_000, seconds=100), prepared=True
    ),
    "read a line of every file": _over_files(
        lambda store, context, n: [store.read_lines(context, 1, path=_path(at)) for at in range(n)]
    ),
    "coverage of every file": _over_files(_covers),
    "citations of every file": _over_files(_cites),
    "REPL: values()": _in_repl("sum(len(text) for text in context.values())"),
    "REPL: items() and splitlines()": _in_repl("sum(len(text.splitlines()) for _, text in context.items())"),
    "REPL: names without directories": _in_repl("sum(len(context[path[4:]]) for path in paths)"),
    "REPL: names that do not exist": _in_repl("sum('no/' + path[4:] + 'x' in context for path in paths)"),
    "REPL: open()": _in_repl("sum(len(open('/context/files/' + path).read()) for path in paths)"),
    "REPL: search()": _in_repl("search('value').total"),
    "resources/list": _in_workspace(_register_texts, _list_resources),
    "list of contexts": _in_workspace(_register_texts, _list_contexts),
    "list of runs": _lists_runs,
    "reading of a record": _over_record(lambda path, _: list(read_events(path))),
    "replay: the tape": _over_record(lambda path, _: Tape(read_events(path))),
    "page of a run": _over_record(lambda path, store: run_facts(read_events(path), store)),
    "pieces of the page of a run": _over_record(_reads_pieces),
    "comparison of two runs": _over_record(_compares),
}

"""`runs`: what is on record, read, continued or executed again."""

import argparse
import sys
import webbrowser
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from rlm_mcp.cli.commands.output import print_json, print_run, run_facts
from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, Commands, in_workspace
from rlm_mcp.cli.commands.solving import watch
from rlm_mcp.errors import UnknownRun
from rlm_mcp.redact import escape_controls

if TYPE_CHECKING:
    from rlm_mcp.workspace.workspace import Workspace

SHOWN_RUNS = 20


def add_commands(commands: Commands) -> None:
    """Registers `runs` and its commands."""
    runs = commands.group("runs", in_workspace(list_runs), "runs on record")
    runs.add("list", in_workspace(list_runs), "list them").add_argument("--limit", type=int, default=SHOWN_RUNS)
    runs.add("show", in_workspace(show_run), "its answer, citations and usage").add_argument("id")
    runs.add("resume", in_workspace(resume), "go on with a run that was cut off").add_argument("id")
    view_parser = runs.add("view", in_workspace(view), "write its page: answer, evidence, timeline, turns")
    view_parser.add_argument("id", nargs="?", help="default: the newest run")
    view_parser.add_argument("--out", help="the file to write (default: next to the record)")
    view_parser.add_argument("--serve", action="store_true", help="serve it on 127.0.0.1 instead, following the run")
    view_parser.add_argument("--open", action="store_true", help="open it in the browser")
    compare_parser = runs.add("compare", in_workspace(compare), "write a page that shows two runs side by side")
    compare_parser.add_argument("id")
    compare_parser.add_argument("other")
    compare_parser.add_argument("--out", help="the file to write (default: next to the record of the first)")
    compare_parser.add_argument("--open", action="store_true", help="open it in the browser")
    text = "execute its code again with the recorded model replies"
    runs.add("replay", in_workspace(replay), text).add_argument("id")
    runs.add("export", in_workspace(export), "its record, one JSON object a line").add_argument("id")


async def list_runs(options: argparse.Namespace, workspace: "Workspace") -> int:
    """One line a run, newest first."""
    runs = (await workspace.runs.list_page(limit=getattr(options, "limit", SHOWN_RUNS))).runs
    if options.json:
        print_json([run_facts(run) for run in runs])
        return ANSWERED
    for run in runs:
        print(
            escape_controls(
                f"{run.run_id}  {run.created_at[:19]:<19}  {run.status:<9}  {(run.query or run.message)[:90]}"
            )
        )
    return ANSWERED


async def show_run(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Prints a run as `solve` printed it."""
    return print_run(options, await workspace.runs.state(options.id))


async def view(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Writes the page of a run and prints where it is, or serves it until Ctrl-C."""
    from rlm_mcp.viewer.page import write_page

    run_id = options.id or await _newest(workspace)
    run = await anyio.to_thread.run_sync(workspace.runs.records.get, run_id)
    if options.serve:
        from rlm_mcp.viewer.live import serve_page

        await serve_page(run, workspace.contexts.store, tell=partial(_print_page, options, note="serving until Ctrl-C"))
        return ANSWERED
    out = None if options.out is None else Path(options.out)
    path = await anyio.to_thread.run_sync(write_page, run, workspace.contexts.store, out)
    _print_page(options, str(path.resolve()), uri=path.resolve().as_uri())
    return ANSWERED


async def _newest(workspace: "Workspace") -> str:
    found = (await workspace.runs.list_page(limit=1)).runs
    if not found:
        raise UnknownRun('there is no run yet: start one with `rlm-mcp solve "…" FILE`')
    return found[0].run_id


async def compare(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Writes the page of two runs and prints where it is; with `--json` prints how they differ instead."""
    from rlm_mcp.viewer.page import compare_page, write_text

    run_in_thread = anyio.to_thread.run_sync
    first = await run_in_thread(workspace.runs.records.get, options.id)
    second = await run_in_thread(workspace.runs.records.get, options.other)
    page, facts = await run_in_thread(compare_page, first, second, workspace.contexts.store)
    if options.json and options.out is None:
        print_json(facts)
        return ANSWERED
    out = first.directory / f"compare-{second.run_id}.html" if options.out is None else Path(options.out)
    path = await run_in_thread(write_text, out, page)
    if options.json:
        print_json(facts | {"page": str(path.resolve())})
    else:
        _print_page(options, str(path.resolve()), uri=path.resolve().as_uri())
    return ANSWERED


def _print_page(options: argparse.Namespace, place: str, *, uri: str = "", note: str = "") -> None:
    """Prints where a page is, and opens it if that is wanted."""
    if options.json:
        print_json({"page": place})
    else:
        print(escape_controls(place))
    sys.stdout.flush()  # a server that goes on has told its address
    if note and not options.quiet:
        print(note, file=sys.stderr)
    if options.open and not webbrowser.open(uri or place):
        print("rlm-mcp: no browser was found: open the page by hand", file=sys.stderr)


async def resume(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Goes on after the last finished turn and follows the run."""
    return await watch(options, workspace, await workspace.runs.resume(options.id))


async def replay(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Executes a run's code again and tells the first difference to its record."""
    from rlm_mcp.cli.console.drawing import RunPrinter, console_on

    run = await anyio.to_thread.run_sync(workspace.runs.records.get, options.id)
    printer = RunPrinter(console_on(sys.stderr if options.json else sys.stdout))
    for first in islice(run.events(), 1):
        printer.event(first)
    outcome, difference = await workspace.runs.replay(run.run_id, printer.event)
    if options.json:
        print_json({"answer": outcome.answer, "status": outcome.status, "difference": difference})
    print(f"replayed; {'the same as the record' if difference is None else difference}", file=sys.stderr)
    return ANSWERED if difference is None else FAILED


async def export(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Prints the record."""
    sys.stdout.write(await workspace.runs.trace(options.id))
    return ANSWERED

"""`runs`: lists, shows, resumes, replays and compares recorded runs."""

import argparse
import sys
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_mcp.cli.commands.exporting import add_arguments, export
from rlm_mcp.cli.commands.output import print_json, print_run, run_facts
from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, Commands, in_workspace, settings_from
from rlm_mcp.cli.commands.solving import watch
from rlm_mcp.errors import RunRecordDamaged, RunRecordTooNew
from rlm_mcp.redact import escape_controls

if TYPE_CHECKING:
    from rlm_mcp.workspace.workspace import Workspace

SHOWN_RUNS = 20
INDEX_NAME = "index.html"
ID_HELP = "the id of the run, or the beginning of it"


def add_commands(commands: Commands) -> None:
    """Registers `runs` and its commands."""
    runs = commands.group("runs", in_workspace(list_runs), "list, show, resume and replay recorded runs")
    list_parser = runs.add("list", in_workspace(list_runs), "list the newest runs")
    list_parser.add_argument("--limit", type=int, default=SHOWN_RUNS, help=f"how many (default: {SHOWN_RUNS})")
    of_one_run = {
        "show": (show_run, "print the answer, citations and usage of a run"),
        "resume": (resume, "continue an interrupted run"),
        "replay": (replay, "execute the code of a run again with the recorded model replies"),
    }
    for name, (handler, text) in of_one_run.items():
        runs.add(name, in_workspace(handler), text).add_argument("id", help=ID_HELP)
    text = "write the records of runs, or the chats with their models, one JSON object per line"
    add_arguments(runs.add("export", in_workspace(export), text), id_help=ID_HELP)
    text = "write the HTML page of a run, with its answer, evidence, timeline and turns, or the index of all"
    view_parser = runs.add("view", in_workspace(view), text)
    view_parser.add_argument("id", nargs="?", help=f"{ID_HELP} (default: the index of all runs and contexts)")
    view_parser.add_argument("--out", help="the file to write (default: beside the record)")
    view_parser.add_argument("--serve", action="store_true", help="serve the page on 127.0.0.1 and follow it")
    view_parser.add_argument("--open", action="store_true", help="open the page in the browser")
    compare_parser = runs.add("compare", in_workspace(compare), "write an HTML page that compares two runs")
    compare_parser.add_argument("id", help=ID_HELP)
    compare_parser.add_argument("other", help="the id of the other run")
    compare_parser.add_argument("--out", help="the file to write (default: beside the record of the first run)")
    compare_parser.add_argument("--open", action="store_true", help="open the page in the browser")


async def list_runs(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Prints one line for each run, newest first."""
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
    """Prints a run in the same way as `solve`."""
    return print_run(options, await workspace.runs.state(options.id))


async def view(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Writes the page of a run, or the index, and prints its path, or serves it until Ctrl-C."""
    from rlm_mcp.concurrency import run_in_thread
    from rlm_mcp.viewer.index import write_index
    from rlm_mcp.viewer.page import write_page

    records, store = workspace.runs.records, workspace.contexts.store
    run = await run_in_thread(records.get, options.id) if options.id else None
    if options.serve:
        from rlm_mcp.viewer.live import serve_index, serve_run

        tell = partial(_print_page, options, note="serving until Ctrl-C")
        await (serve_index(records, store, tell=tell) if run is None else serve_run(run, store, tell=tell))
        return ANSWERED
    if run is None:
        await _write_newest_page(workspace)
        out = Path(options.out) if options.out else settings_from(options).data_dir / INDEX_NAME
        path = await run_in_thread(write_index, records, store, out)
    else:
        path = await run_in_thread(write_page, run, store, None if options.out is None else Path(options.out))
    _print_page(options, str(path.resolve()), uri=path.resolve().as_uri())
    return ANSWERED


async def _write_newest_page(workspace: "Workspace") -> None:
    """Writes the page of the newest run, to which the index then leads. One that cannot be shown is in the index."""
    from rlm_mcp.concurrency import run_in_thread
    from rlm_mcp.viewer.page import write_page

    found = (await workspace.runs.list_page(limit=1)).runs
    if not found:
        return
    run = await run_in_thread(workspace.runs.records.get, found[0].run_id)
    with suppress(RunRecordDamaged, RunRecordTooNew):
        await run_in_thread(write_page, run, workspace.contexts.store)


async def compare(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Writes the page of two runs and prints its path; with `--json` prints the differences instead."""
    from rlm_mcp.concurrency import run_in_thread
    from rlm_mcp.viewer.page import compare_page, write_text

    first = await run_in_thread(workspace.runs.records.get, options.id)
    second = await run_in_thread(workspace.runs.records.get, options.other)
    page, facts = await run_in_thread(compare_page, first, second, workspace.contexts.store)
    if options.json and options.out is None:
        print_json(facts)
        return ANSWERED
    out = first.path_of(f"compare-{second.run_id}.html") if options.out is None else Path(options.out)
    path = await run_in_thread(write_text, out, page)
    if options.json:
        print_json(facts | {"page": str(path.resolve())})
    else:
        _print_page(options, str(path.resolve()), uri=path.resolve().as_uri())
    return ANSWERED


def _print_page(options: argparse.Namespace, place: str, *, uri: str = "", note: str = "") -> None:
    """Prints the path or address of a page, and opens it with `--open`."""
    if options.json:
        print_json({"page": place})
    else:
        print(escape_controls(place))
    sys.stdout.flush()  # a page that is being served is announced at once
    if note and not options.quiet:
        print(note, file=sys.stderr)
    if not options.open:
        return
    import webbrowser

    if not webbrowser.open(uri or place):
        print("rlm-mcp: no browser was found: open the page yourself", file=sys.stderr)


async def resume(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Continues a run after its last finished turn and follows it."""
    return await watch(options, workspace, await workspace.runs.resume(options.id))


async def replay(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Executes the code of a run again and prints the first difference from its record."""
    from rlm_mcp.cli.console.drawing import RunPrinter, console_on
    from rlm_mcp.concurrency import run_in_thread

    run = await run_in_thread(workspace.runs.records.get, options.id)
    printer = RunPrinter(console_on(sys.stderr if options.json else sys.stdout))
    for first in islice(run.events(), 1):
        printer.print_event(first)
    events = await run_in_thread(lambda: list(run.events()))
    outcome, difference = await workspace.replay(events, None, printer.print_event)
    if options.json:
        print_json({"answer": outcome.answer, "status": outcome.status, "difference": difference})
    verdict = "the result is the same as in the record" if difference is None else difference
    print(f"replayed: {verdict}", file=sys.stderr)
    return ANSWERED if difference is None else FAILED

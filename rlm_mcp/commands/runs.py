"""`runs`: what is on record, read, continued or executed again."""

import argparse
import sys
from typing import TYPE_CHECKING

from rlm_mcp.commands.output import print_json, run_facts, show_run
from rlm_mcp.commands.registry import ANSWERED, FAILED, Commands, in_workspace
from rlm_mcp.commands.solving import watch
from rlm_mcp.terminal import harmless

if TYPE_CHECKING:
    from rlm_mcp.workspace import Workspace

SHOWN_RUNS = 20


def add(commands: Commands) -> None:
    """Registers `runs` and its commands."""
    runs = commands.group("runs", in_workspace(list_runs), "runs on record")
    runs.add("list", in_workspace(list_runs), "list them").add_argument("--limit", type=int, default=SHOWN_RUNS)
    runs.add("show", in_workspace(show), "its answer, citations and usage").add_argument("id")
    runs.add("resume", in_workspace(resume), "go on with a run that was cut off").add_argument("id")
    text = "execute its code again with the recorded model replies"
    runs.add("replay", in_workspace(replay), text).add_argument("id")
    runs.add("export", in_workspace(export), "its record, one JSON object a line").add_argument("id")


async def list_runs(options: argparse.Namespace, workspace: "Workspace") -> int:
    """One line a run, newest first."""
    runs = (await workspace.list_runs(limit=getattr(options, "limit", SHOWN_RUNS))).runs
    if options.json:
        print_json([run_facts(workspace, run) for run in runs])
        return ANSWERED
    for run in runs:
        print(harmless(f"{run.run_id}  {run.created_at[:19]}  {run.status:<9}  {run.query[:90]}"))
    return ANSWERED


async def show(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Prints a run as `solve` printed it."""
    return show_run(options, workspace, await workspace.state(options.id))


async def resume(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Goes on after the last finished turn and follows the run."""
    return await watch(options, workspace, await workspace.resume(options.id))


async def replay(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Executes a run's code again and tells the first difference to its record."""
    from rlm_mcp.demo import Teller

    tell = Teller(sys.stdout if not options.json else sys.stderr)
    outcome, difference = await workspace.replay(options.id, tell.event)
    if options.json:
        print_json({"answer": outcome.answer, "status": outcome.status, "difference": difference})
    print(f"replayed; {'the same as the record' if difference is None else difference}", file=sys.stderr)
    return ANSWERED if difference is None else FAILED


async def export(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Prints the record."""
    sys.stdout.write(await workspace.trace(options.id))
    return ANSWERED

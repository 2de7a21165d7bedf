"""`solve`: starts a run, follows it and prints its answer."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from rlm_mcp.cli.commands.output import print_json, print_run
from rlm_mcp.cli.commands.registry import (
    ANSWERED,
    ENCODING_HELP,
    FAILED,
    LIMIT_FLAGS,
    SOURCE_HELP,
    Commands,
    in_workspace,
)
from rlm_mcp.errors import SettingsError
from rlm_mcp.settings import SETTINGS, flag_of
from rlm_mcp.spending import RunLimits

if TYPE_CHECKING:
    from rlm_mcp.workspace.launch import SolveRequest
    from rlm_mcp.workspace.workspace import Workspace


def add_commands(commands: Commands) -> None:
    """Registers `solve`."""
    text = "answer a question over files, directories or registered contexts"
    parser = commands.add("solve", in_workspace(solve), text)
    parser.add_argument("query", help="the question")
    parser.add_argument("source", nargs="+", help=SOURCE_HELP)
    parser.add_argument("--encoding", help=ENCODING_HELP)
    parser.add_argument(
        "--mode",
        choices=["auto", "direct", "rlm"],
        default="auto",
        help="answer with one model call (direct), with a recursive run (rlm), or as the router decides (auto)",
    )
    parser.add_argument("--schema", help="a JSON Schema that the answer must follow")
    parser.add_argument("--estimate", action="store_true", help="estimate calls, tokens and dollars without a run")
    for name in LIMIT_FLAGS:
        number = float if name in {"max_usd", "max_seconds"} else int
        parser.add_argument(flag_of(name), type=number, help=SETTINGS[name].meaning)


async def solve(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Registers the sources that are not registered yet, starts a run and follows it."""
    from rlm_mcp.cli.console.ingest_progress import register_source
    from rlm_mcp.workspace.launch import SolveRequest

    contexts = [
        await register_source(workspace, source, sys.stderr, quiet=options.quiet, encoding=options.encoding)
        for source in options.source
    ]
    request = SolveRequest(
        query=options.query,
        contexts=tuple(context.context_id for context in contexts),
        mode=options.mode,
        output_schema=None if options.schema is None else _schema(options.schema),
        limits=RunLimits(**{name: getattr(options, name) for name in LIMIT_FLAGS}),
    )
    if options.estimate:
        return await estimate(options, workspace, request)
    return await watch(options, workspace, await workspace.runs.start(request))


async def estimate(options: argparse.Namespace, workspace: "Workspace", request: "SolveRequest") -> int:
    """Prints the expected calls, tokens and dollars of a run. No model is called."""
    from rlm_mcp.server.presenters import estimate_facts, estimate_text

    guess = await workspace.runs.estimate(request)
    if options.json:
        print_json({"mode": guess.route.mode, "depth": guess.route.depth, **estimate_facts(guess).model_dump()})
    else:
        print(f"{estimate_text(guess)} ({guess.route.reason})")
    return ANSWERED


async def watch(options: argparse.Namespace, workspace: "Workspace", run_id: str) -> int:
    """Follows a run to its end and prints it."""
    from rlm_mcp.cli.console.live_view import watch_run

    await watch_run(workspace, run_id, sys.stderr, quiet=options.quiet, exit_status=FAILED)
    return print_run(options, await workspace.runs.state(run_id))


def _schema(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"--schema is not JSON ({error}): pass a JSON Schema") from error
    if not isinstance(value, dict):
        raise SettingsError("--schema is not a JSON object: pass a JSON Schema")
    return value

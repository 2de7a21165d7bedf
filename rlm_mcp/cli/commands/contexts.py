"""`contexts`: lists, adds, refreshes and removes registered contexts."""

import argparse
import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

from rlm_mcp.cli.commands.output import context_facts, print_error, print_json, print_result
from rlm_mcp.cli.commands.registry import ANSWERED, ENCODING_HELP, Commands, in_workspace
from rlm_mcp.errors import RlmError
from rlm_mcp.redact import escape_controls

if TYPE_CHECKING:
    from rlm_mcp.contexts.types import Context
    from rlm_mcp.workspace.workspace import Workspace


def add_commands(commands: Commands) -> None:
    """Registers `contexts` and its commands."""
    contexts = commands.group("contexts", in_workspace(list_contexts), "list, add and remove registered contexts")
    contexts.add("list", in_workspace(list_contexts), "list the registered contexts")
    parser = contexts.add("add", in_workspace(register), "register a source as a context")
    parser.add_argument(
        "source", help="a file, directory or glob, the address of a git repository or file, or -: standard input"
    )
    parser.add_argument("--name", help="the name of the context (default: derived from the source)")
    parser.add_argument("--encoding", help=ENCODING_HELP)
    parser.add_argument(
        "--watch", action="store_true", help="register a new version whenever the source changes, until Ctrl-C"
    )
    parser.add_argument(
        "--include-secrets", action="store_true", help="register files whose names say that they hold credentials too"
    )
    named = {
        "refresh": (refresh, "register the source of a context as it is now"),
        "rm": (remove, "remove a context"),
    }
    for name, (handler, text) in named.items():
        contexts.add(name, in_workspace(handler), text).add_argument("name", help="the name or id of the context")
    contexts.add("gc", in_workspace(collect), "remove old versions that no run used, and everything unreferenced")


async def list_contexts(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Prints one line for each context."""
    contexts = await workspace.contexts.list_all()
    if options.json:
        print_json([context_facts(context) for context in contexts])
        return ANSWERED
    for context in contexts:
        size = f"{context.chars:>12,} chars {context.lines:>9,} lines"
        print(escape_controls(f"{context.context_id}  {size}  {context.name}  ({context.source})"))
    return ANSWERED


async def register(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Registers a source, and with `--watch` every new version of it."""
    context = await workspace.contexts.register(
        source=options.source,
        name=options.name,
        include_secrets=options.include_secrets,
        encoding=options.encoding,
        stdin=sys.stdin.buffer,
    )
    print_result(options, context_facts(context))
    return await _watch(options, workspace, context) if options.watch else ANSWERED


async def _watch(options: argparse.Namespace, workspace: "Workspace", context: "Context") -> int:
    """Prints every new version of a source until SIGINT or SIGTERM."""
    from rlm_mcp.concurrency import on_stop_signal

    stop = threading.Event()

    def print_version(latest: "Context") -> None:
        print_result(options, context_facts(latest))
        sys.stdout.flush()

    def print_trouble(error: RlmError) -> None:
        print_error(error)

    sys.stdout.flush()
    print(f"watching {escape_controls(context.source)} until Ctrl-C", file=sys.stderr)
    with on_stop_signal(stop.set):
        await workspace.contexts.watch(context, stop=stop, on_version=print_version, on_error=print_trouble)
    return ANSWERED


async def refresh(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Registers the source of a context again."""
    print_result(options, context_facts(await workspace.contexts.refresh(options.name)))
    return ANSWERED


async def collect(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Removes old versions and unreferenced files."""
    print_result(options, asdict(await workspace.collect_garbage()))
    return ANSWERED


async def remove(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Removes a context."""
    print_result(options, context_facts(await workspace.remove_context(options.name)))
    return ANSWERED

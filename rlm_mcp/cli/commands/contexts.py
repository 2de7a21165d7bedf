"""`contexts`: what is registered, and how it comes and goes."""

import argparse
import signal
import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

import anyio

from rlm_mcp.cli.commands.output import context_facts, print_error, print_json, print_result
from rlm_mcp.cli.commands.registry import ANSWERED, Commands, in_workspace
from rlm_mcp.concurrency import background_task
from rlm_mcp.errors import RlmError
from rlm_mcp.redact import escape_controls

if TYPE_CHECKING:
    from rlm_mcp.contexts.types import Context
    from rlm_mcp.workspace.workspace import Workspace


def add_commands(commands: Commands) -> None:
    """Registers `contexts` and its commands."""
    contexts = commands.group("contexts", in_workspace(list_contexts), "registered contexts")
    contexts.add("list", in_workspace(list_contexts), "list them")
    parser = contexts.add("add", in_workspace(register), "register a source")
    parser.add_argument("source")
    parser.add_argument("--name")
    parser.add_argument("--watch", action="store_true", help="register new versions as the source changes, to Ctrl-C")
    contexts.add("refresh", in_workspace(refresh), "register its source as it is now").add_argument("name")
    contexts.add("rm", in_workspace(remove), "forget one").add_argument("name")
    contexts.add("gc", in_workspace(collect), "free old versions that no run is about, and what nothing uses")


async def list_contexts(options: argparse.Namespace, workspace: "Workspace") -> int:
    """One line a context."""
    contexts = await workspace.contexts.list_all()
    if options.json:
        print_json([context_facts(context) for context in contexts])
        return ANSWERED
    for context in contexts:
        size = f"{context.chars:>12,} chars {context.lines:>9,} lines"
        print(escape_controls(f"{context.context_id}  {size}  {context.name}  ({context.source})"))
    return ANSWERED


async def register(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Registers a source, and with `--watch` each new version of it."""
    context = await workspace.contexts.register(source=options.source, name=options.name)
    print_result(options, context_facts(context))
    return await _watch(options, workspace, context) if options.watch else ANSWERED


async def _watch(options: argparse.Namespace, workspace: "Workspace", context: "Context") -> int:
    """Shows every new version of a source until SIGINT or SIGTERM."""
    stop = threading.Event()

    def tell(latest: "Context") -> None:
        print_result(options, context_facts(latest))
        sys.stdout.flush()

    def tell_trouble(error: RlmError) -> None:
        print_error(error)

    async def stop_on_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                stop.set()

    sys.stdout.flush()
    print(f"watching {escape_controls(context.source)} until Ctrl-C", file=sys.stderr)
    async with background_task(stop_on_signal):
        await workspace.contexts.watch(context, stop=stop, on_version=tell, on_error=tell_trouble)
    return ANSWERED


async def refresh(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Registers the source of a context as it is now."""
    print_result(options, context_facts(await workspace.contexts.refresh(options.name)))
    return ANSWERED


async def collect(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Frees what nothing uses."""
    print_result(options, asdict(await workspace.collect_garbage()))
    return ANSWERED


async def remove(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Forgets a context."""
    print_result(options, context_facts(await workspace.remove_context(options.name)))
    return ANSWERED

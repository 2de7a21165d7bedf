"""Registers commands: the name, the arguments, and the function that runs the command and returns an exit status.

Each command imports the heavy modules that it needs itself, anyio among them, so that others start fast.
"""

import argparse
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlm_mcp.settings import SETTINGS, Settings, flag_of, load_settings
from rlm_mcp.spending import REQUESTED_LIMITS

if TYPE_CHECKING:
    from rlm_mcp.workspace.workspace import Workspace

ANSWERED, FAILED, USAGE, PARTIAL = 0, 1, 2, 3

_FLAGS = [name for name, setting in SETTINGS.items() if setting.has_flag]
LIMIT_FLAGS = [name for name in _FLAGS if name in REQUESTED_LIMITS]
"""Limits of one run; only the command that starts a run has these flags."""
SETTING_FLAGS = [name for name in _FLAGS if name not in LIMIT_FLAGS]

ENCODING_HELP = "the encoding of the files, such as cp1252 or shift_jis (default: detected)"
SOURCE_HELP = "a file, directory, glob or address, the name or id of a registered context, or -: standard input"

CommandHandler = Callable[[argparse.Namespace], int]
WorkspaceHandler = Callable[[argparse.Namespace, "Workspace"], Coroutine[Any, Any, int]]


class Commands:
    """The commands of one parser, each with the flags that all commands share."""

    def __init__(self, under: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
        self._common = common
        self._subparsers = under.add_subparsers(title="commands", metavar="COMMAND")

    def add(self, name: str, handler: CommandHandler, text: str) -> argparse.ArgumentParser:
        """Registers a command and returns its parser, to which the caller adds arguments."""
        parser = self._subparsers.add_parser(name, help=text, description=text, parents=[self._common])
        parser.set_defaults(handler=handler)
        return parser

    def group(self, name: str, handler: CommandHandler, text: str) -> "Commands":
        """Registers a command that has commands of its own; `handler` runs if none of them is given."""
        return Commands(self.add(name, handler, text), self._common)


def common_flags() -> argparse.ArgumentParser:
    """The flags that every command has, including those of the settings."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="print the structured result as JSON")
    common.add_argument("--quiet", action="store_true", help="show no progress on stderr")
    for name in SETTING_FLAGS:
        common.add_argument(flag_of(name), help=argparse.SUPPRESS if name == "prices" else SETTINGS[name].meaning)
    return common


def settings_from(options: argparse.Namespace) -> Settings:
    """Loads the settings of a command line and prints their warnings to stderr. Raises SettingsError."""
    given = vars(options)
    settings = load_settings({name: given.get(name) for name in (*SETTING_FLAGS, *LIMIT_FLAGS)})
    for warning in settings.warnings:
        print(f"rlm-mcp: {warning}", file=sys.stderr)
    return settings


def in_workspace(handler: WorkspaceHandler) -> CommandHandler:
    """The handler of a command that needs an open workspace."""

    async def opened(options: argparse.Namespace) -> int:
        from rlm_mcp.cluster.opening import open_own_workspace

        settings = settings_from(options)
        with _spans_sent(settings):
            async with open_own_workspace(settings) as workspace:
                return await handler(options, workspace)

    return run_async(opened)


def run_async(handler: Callable[[argparse.Namespace], Coroutine[Any, Any, int]]) -> CommandHandler:
    """The handler of a command that runs in an event loop."""

    def run(options: argparse.Namespace) -> int:
        import anyio

        return anyio.run(handler, options)

    return run


@contextmanager
def _spans_sent(settings: Settings) -> Iterator[None]:
    """Sends the spans of the runs in the block, if the OTEL_* variables ask for it."""
    if not settings.traces:
        yield
        return
    from rlm_mcp.workspace.telemetry import export_spans, flush

    spans = export_spans()
    try:
        yield
    finally:
        flush(spans)

"""How a command is registered: its name, its arguments, and the function that does it and returns an exit status.

Heavy modules are imported by the command that needs them, so that a server answers its first request in under two
seconds.
"""

import argparse
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from rlm_mcp.settings import SETTINGS, Settings, flag_of, load_settings
from rlm_mcp.spending import REQUESTED_LIMITS

if TYPE_CHECKING:
    from rlm_mcp.workspace.workspace import Workspace

ANSWERED, FAILED, USAGE, PARTIAL = 0, 1, 2, 3

_FLAGS = [name for name, setting in SETTINGS.items() if setting.has_flag]
LIMIT_FLAGS = [name for name in _FLAGS if name in REQUESTED_LIMITS]
"""Of one run; only the command that starts one has them."""
SETTING_FLAGS = [name for name in _FLAGS if name not in LIMIT_FLAGS]

CommandHandler = Callable[[argparse.Namespace], int]
WorkspaceHandler = Callable[[argparse.Namespace, "Workspace"], Coroutine[Any, Any, int]]


class Commands:
    """The commands of one parser, each with the flags that all commands have."""

    def __init__(self, under: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
        self._common = common
        self._subparsers = under.add_subparsers(title="commands", metavar="COMMAND")

    def add(self, name: str, run: CommandHandler, text: str) -> argparse.ArgumentParser:
        """Registers a command; the caller adds its arguments to the parser returned."""
        parser = self._subparsers.add_parser(name, help=text, description=text, parents=[self._common])
        parser.set_defaults(run=run)
        return parser

    def group(self, name: str, run: CommandHandler, text: str) -> "Commands":
        """Registers a command with commands of its own; `run` is what it does without one."""
        return Commands(self.add(name, run, text), self._common)


def common_flags() -> argparse.ArgumentParser:
    """The flags of every command, those of the settings among them."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="the structured result on stdout")
    common.add_argument("--quiet", action="store_true", help="no progress on stderr")
    for name in SETTING_FLAGS:
        common.add_argument(flag_of(name), help=argparse.SUPPRESS if name == "prices" else None)
    return common


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings in force, with their warnings told on stderr. Raises SettingsError."""
    given = vars(options)
    settings = load_settings({name: given.get(name) for name in (*SETTING_FLAGS, *LIMIT_FLAGS)})
    for warning in settings.warnings:
        print(f"rlm-mcp: {warning}", file=sys.stderr)
    return settings


def in_workspace(run: WorkspaceHandler) -> CommandHandler:
    """A command that works on what is stored: `run` gets an open workspace."""

    async def opened(options: argparse.Namespace) -> int:
        from rlm_mcp.workspace.workspace import open_workspace

        settings = settings_from(options)
        with _spans_sent(settings):
            async with open_workspace(settings) as workspace:
                return await run(options, workspace)

    return lambda options: anyio.run(opened, options)


@contextmanager
def _spans_sent(settings: Settings) -> Iterator[None]:
    """Has the spans of runs in the block sent, where OTEL_* variables say so."""
    if not settings.traces:
        yield
        return
    from rlm_mcp.workspace.telemetry import export_spans, flush

    spans = export_spans()
    try:
        yield
    finally:
        flush(spans)

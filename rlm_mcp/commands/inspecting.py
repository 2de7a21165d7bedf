"""`inspect`: what a context is made of, some of its lines, a search, or code over it in the sandbox."""

import argparse
import sys
from typing import TYPE_CHECKING

from rlm_mcp.commands.output import show
from rlm_mcp.commands.registry import ANSWERED, FAILED, Commands, in_workspace
from rlm_mcp.errors import SettingsError

if TYPE_CHECKING:
    from rlm_mcp.workspace import Workspace


def add(commands: Commands) -> None:
    """Registers `inspect`."""
    parser = commands.add("inspect", in_workspace(inspect), "look into a file, directory or registered context")
    parser.add_argument("source")
    view = parser.add_mutually_exclusive_group()
    view.add_argument("--code", help="Python to run in the sandbox, - for stdin")
    view.add_argument("--search", help="regular expression")
    view.add_argument("--lines", metavar="A-B")
    parser.add_argument("--path", help="one file of the context")
    parser.add_argument("--max", type=int, default=20, help="matches shown")
    parser.add_argument("--seconds", type=float, default=30.0, help="time for --code")


async def inspect(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Shows the overview, or what one of the options asks for."""
    from rlm_mcp import views

    context = await workspace.find_or_register(options.source)
    if options.code is not None:
        code = sys.stdin.read() if options.code == "-" else options.code
        cell = await workspace.run_code(context, code, seconds=options.seconds)
        show(options, views.code_result(context, cell).structured_content)
        return ANSWERED if cell.error is None else FAILED
    if options.search is not None:
        found = await workspace.search(
            context, options.search, path=options.path, max_matches=options.max, context_lines=0
        )
        show(options, views.search_result(context, found).structured_content)
        return ANSWERED if found.total else FAILED
    if options.lines is not None:
        first, last = _line_range(options.lines)
        lines = await workspace.read(context, first, last, options.path)
        show(options, views.read_result(context, lines).structured_content)
        return ANSWERED
    show(options, views.overview_result(context, await workspace.overview(context)).structured_content)
    return ANSWERED


def _line_range(text: str) -> tuple[int, int | None]:
    first, _, last = text.partition("-")
    try:
        return int(first), int(last) if last else None
    except ValueError as error:
        raise SettingsError(f"--lines {text!r} is no range: write --lines 100-200") from error

"""`inspect`: shows the overview of a context, some of its lines, a search or code; on a terminal, opens a prompt."""

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from rlm_mcp.cli.commands.output import name_commands, print_result
from rlm_mcp.cli.commands.registry import (
    ANSWERED,
    ENCODING_HELP,
    FAILED,
    SOURCE_HELP,
    Commands,
    in_workspace,
    settings_from,
)
from rlm_mcp.errors import SettingsError
from rlm_mcp.redact import escape_controls

if TYPE_CHECKING:
    from rlm_mcp.workspace.workspace import Workspace

CODE_SECONDS = 30.0
PROMPT_SECONDS = 600.0
"""Long, because the user at the prompt can press Ctrl-C."""

HISTORY_NAME = "prompt_history"


def add_commands(commands: Commands) -> None:
    """Registers `inspect`."""
    text = "look into a file, a directory or a registered context; on a terminal, open a Python prompt"
    parser = commands.add("inspect", inspect, text)
    parser.add_argument("source", help=SOURCE_HELP)
    parser.add_argument("--encoding", help=ENCODING_HELP)
    view = parser.add_mutually_exclusive_group()
    view.add_argument("--overview", action="store_true", help="show the structure of the context instead of a prompt")
    view.add_argument("--code", help="run this Python code in the sandbox (-: read it from stdin)")
    view.add_argument("--search", metavar="REGEX", help="show the lines that match a regular expression")
    view.add_argument("--lines", metavar="A-B", help="show lines A to B (A: that one; A-: to the end)")
    parser.add_argument("--path", help="a file of the context, for --search and --lines")
    parser.add_argument("--max", type=int, default=20, help="the most matches to show (default: 20)")
    parser.add_argument("--seconds", type=float, help="time limit of --code (30) or of a block at the prompt (600)")


def inspect(options: argparse.Namespace) -> int:
    """Opens a prompt if stdin and stdout are terminals and no view was chosen; otherwise prints the view."""
    if options.source == options.code == "-":
        raise SettingsError("the source and --code cannot both be read from stdin: give one of them as an argument")
    is_asked = options.overview or options.json or any((options.code, options.search, options.lines))
    if is_asked or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return in_workspace(print_view)(options)
    return _run_prompt(options)


async def print_view(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Prints the chosen view, by default the overview."""
    from rlm_mcp.server import presenters as views
    from rlm_mcp.server.result_text import RESULT_CHARS, fields_of

    context = await workspace.contexts.find_or_register(
        options.source, encoding=options.encoding, stdin=sys.stdin.buffer
    )
    if options.code is not None:
        code = sys.stdin.read() if options.code == "-" else options.code
        cell = await workspace.repls.run_code(context, code, seconds=options.seconds or CODE_SECONDS)
        print_result(options, _name_commands(fields_of(views.code_result(context, cell))))
        return ANSWERED if cell.error is None else FAILED
    if options.search is not None:
        found = await workspace.contexts.search(
            context, options.search, path=options.path, max_matches=options.max, context_lines=0
        )
        print_result(options, fields_of(views.matches_result(context, found)))
        return ANSWERED if found.total else FAILED
    if options.lines is not None:
        first, last = _line_range(options.lines)
        lines = await workspace.contexts.read_lines(context, first, last, options.path, max_chars=RESULT_CHARS)
        print_result(options, fields_of(views.lines_result(context, lines)))
        return ANSWERED
    print_result(options, fields_of(views.overview_result(context, await workspace.contexts.describe(context))))
    return ANSWERED


def _name_commands(facts: dict[str, Any]) -> dict[str, Any]:
    """A cell with our own words about calls of models for the command line; what the code itself says stays."""
    from rlm_mcp.workspace.inspect_repls import NO_CALLS

    if not facts.get("error"):
        return facts
    named = {
        name: text.replace(NO_CALLS, name_commands(NO_CALLS)) if isinstance(text, str) else text
        for name, text in facts["error"].items()
    }
    return facts | {"error": named}


def _run_prompt(options: argparse.Namespace) -> int:
    from anyio.from_thread import start_blocking_portal

    from rlm_mcp.cli.console.drawing import console_on
    from rlm_mcp.cli.console.line_editor import LineEditor
    from rlm_mcp.cli.console.prompt import FIRST, MORE, Prompt, PromptRepl, banner
    from rlm_mcp.cli.console.prompt_calls import PromptCalls
    from rlm_mcp.cluster.opening import open_own_workspace
    from rlm_mcp.models.pool import open_models
    from rlm_mcp.server import presenters as views
    from rlm_mcp.server.result_text import compact, fields_of

    settings, console = settings_from(options), console_on(sys.stdout)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_own_workspace(settings, warm=True)) as workspace,
        portal.wrap_async_context_manager(open_models(settings)) as models,
    ):
        find = partial(workspace.contexts.find_or_register, options.source, encoding=options.encoding)
        context = portal.call(find)
        calls = PromptCalls(models.choose, settings.limits)
        runner = PromptRepl(portal, workspace, context, calls, seconds=options.seconds or PROMPT_SECONDS)

        def overview() -> str:
            return escape_controls(
                compact(fields_of(views.overview_result(context, portal.call(workspace.contexts.describe, context))))
            )

        console.print(banner(context, settings.sub_model or settings.model))
        with LineEditor(settings.data_dir / HISTORY_NAME, runner.complete) as editor:
            Prompt(runner=runner, console=console, read=lambda: editor.read(FIRST, MORE), overview=overview).run()
    return ANSWERED


def _line_range(text: str) -> tuple[int, int | None]:
    first, dash, last = text.partition("-")
    try:
        return int(first), int(last) if last else None if dash else int(first)
    except ValueError as error:
        raise SettingsError(f"--lines {text!r} is not a range: write, for example, --lines 100-200") from error

"""Prints results: as text, or with `--json` as the structured result. Nothing but the result goes to stdout."""

import argparse
import json
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, LIMIT_FLAGS, PARTIAL, USAGE
from rlm_mcp.errors import NoModelConfigured, RlmError, SettingsError, operator_text
from rlm_mcp.redact import escape_controls
from rlm_mcp.settings import flag_of

if TYPE_CHECKING:
    from rlm_mcp.contexts.types import Context
    from rlm_mcp.records.types import RunState


# Sentences name the tools of the MCP server; a user of the command line is told these commands instead.
COMMAND_OF_TOOL = {
    "rlm_solve": "`rlm-mcp solve`",
    "rlm_result": "`rlm-mcp runs show ID`",
    "cancel_run": "stop it with Ctrl-C",
    "register_context": "`rlm-mcp contexts add SOURCE`",
    "list_contexts": "`rlm-mcp contexts list`",
    "inspect_context": "`rlm-mcp inspect SOURCE`",
    "remove_context": "`rlm-mcp contexts rm NAME`",
    "the prompt be_the_root": "`rlm-mcp inspect SOURCE`",
}
# Arguments of tools, and the flags that do the same.
FLAG_OF_ARGUMENT = {name: flag_of(name) for name in LIMIT_FLAGS} | {
    "max_matches": "--max",
    "timeout_seconds": "--seconds",
    "output_schema": "--schema",
    "estimate_only": "--estimate",
    "start_line": "--lines",
    "end_line": "--lines",
}
_TOOL = re.compile(rf"`?\b({'|'.join(COMMAND_OF_TOOL)})\b(?:\(run_id=['\"]?([\w-]+)['\"]?\))?`?")
_ARGUMENT = re.compile(rf"(?<![\w-])({'|'.join(FLAG_OF_ARGUMENT)})\b")
_TWICE = re.compile(r"(`rlm-mcp [^`]+`) or \1")


def name_commands(text: str) -> str:
    """The text with the commands and flags that do the same in place of the tools and arguments that it names."""
    text = _TOOL.sub(lambda found: COMMAND_OF_TOOL[found[1]].replace("ID", found[2] or "ID"), text)
    return _ARGUMENT.sub(lambda found: FLAG_OF_ARGUMENT[found[1]], _TWICE.sub(r"\1", text))


def print_error(error: RlmError) -> int:
    """Prints an error to stderr; returns its exit status."""
    print(f"rlm-mcp: {escape_controls(name_commands(operator_text(error)))}", file=sys.stderr)
    return USAGE if isinstance(error, SettingsError) and not isinstance(error, NoModelConfigured) else FAILED


def print_result(options: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Prints a result."""
    if facts.get("message"):
        facts = facts | {"message": name_commands(str(facts["message"]))}
    if options.json:
        print_json(facts)
        return
    from rlm_mcp.server.result_text import compact

    print(escape_controls(compact(facts)))


def print_json(value: object) -> None:
    """Prints JSON in ASCII, which every terminal and pipe can encode."""
    print(json.dumps(value, ensure_ascii=True, indent=1, default=str))


def print_run(options: argparse.Namespace, state: "RunState") -> int:
    """Prints the answer of a run to stdout and everything else about it to stderr. Returns the exit status."""
    if options.json:
        print_json(run_facts(state))
        return exit_status(state)
    state, answer = replace(state, message=name_commands(state.message)), state.answer
    if answer is not None:
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, indent=1)
        print(escape_controls(text), flush=True)
    if not options.quiet:
        _show_facts(state)
    elif state.message:
        print(f"rlm-mcp: {escape_controls(state.message)}", file=sys.stderr)
    return exit_status(state)


def _show_facts(state: "RunState") -> None:
    if sys.stderr.isatty():
        from rlm_mcp.cli.console.drawing import console_on
        from rlm_mcp.cli.console.outcome import show_ended

        console_on(sys.stderr).print(show_ended(state))
        return
    from rlm_mcp.server.result_text import compact

    facts = {name: value for name, value in run_facts(state).items() if name != "answer"}
    print(escape_controls(compact(facts)), file=sys.stderr)


def exit_status(state: "RunState") -> int:
    """The exit status for the way a run ended."""
    if state.status == "completed" and state.stopped_by == "final":
        return ANSWERED
    if state.answer is not None and state.stopped_by in {"iterations", "usd", "tokens", "sub_calls", "seconds"}:
        return PARTIAL
    return ANSWERED if state.status == "completed" else FAILED


def run_facts(state: "RunState") -> dict[str, Any]:
    """A run in the form of the result of the tool `rlm_result`, with the whole answer."""
    from rlm_mcp.server.presenters import run_result
    from rlm_mcp.server.result_text import fields_of

    facts = fields_of(run_result(state))
    return facts | {"answer": state.answer, "truncated": False, "message": name_commands(facts["message"])}


def context_facts(context: "Context") -> dict[str, Any]:
    """A context in the form of the results of tools."""
    from rlm_mcp.server.presenters import context_result

    return context_result(context).model_dump()

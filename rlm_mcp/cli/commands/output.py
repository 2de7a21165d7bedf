"""How results are printed: text for people, or the structured result with `--json`; the result alone goes to stdout."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, PARTIAL, USAGE
from rlm_mcp.errors import NoModelConfigured, RlmError, SettingsError
from rlm_mcp.redact import escape_controls

if TYPE_CHECKING:
    from rlm_mcp.contexts.types import Context
    from rlm_mcp.records.types import RunState


def print_error(error: RlmError) -> int:
    """Tells an error on stderr; returns the exit status that goes with it."""
    print(f"rlm-mcp: {escape_controls(str(error))}", file=sys.stderr)
    return USAGE if isinstance(error, SettingsError) and not isinstance(error, NoModelConfigured) else FAILED


def print_result(options: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Prints a result."""
    if options.json:
        print_json(facts)
        return
    from rlm_mcp.server.result_text import compact

    print(escape_controls(compact(facts)))


def print_json(value: object) -> None:
    """Prints JSON in ASCII, so that every terminal and pipe can take it."""
    print(json.dumps(value, ensure_ascii=True, indent=1, default=str))


def print_run(options: argparse.Namespace, state: "RunState") -> int:
    """Prints a run: the answer on stdout, what else is known of it on stderr. Returns the exit status it means."""
    if options.json:
        print_json(run_facts(state))
        return exit_status(state)
    answer = state.answer
    if answer is not None:
        told = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, indent=1)
        print(escape_controls(told), flush=True)
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
    """The exit status that tells how a run ended."""
    if state.status == "completed" and state.stopped_by == "final":
        return ANSWERED
    if state.answer is not None and state.stopped_by in {"iterations", "usd", "tokens", "sub_calls", "seconds"}:
        return PARTIAL
    return ANSWERED if state.status == "completed" else FAILED


def run_facts(state: "RunState") -> dict[str, Any]:
    """A run as `rlm_result` gives it, with the whole answer."""
    from rlm_mcp.server.presenters import run_result

    facts = run_result(state).model_dump()
    return facts | {"answer": state.answer, "truncated": False}


def context_facts(context: "Context") -> dict[str, Any]:
    """A context as the tools describe it."""
    from rlm_mcp.server.presenters import context_result

    return context_result(context).model_dump()

"""The prompt of `inspect`, with a runner that answers from a list."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from rlm_mcp.cli.console.prompt import HELP, Prompt, banner
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import RlmError
from rlm_mcp.repl.types import CellError, CellResult, Final, Variable

Typed = str | type[BaseException]


class ScriptedRunner:
    """Answers each block with the next result; an exception is raised."""

    def __init__(self, *results: CellResult | Exception | None) -> None:
        self.ran: list[str] = []
        self.resets = 0
        self._results = results

    def run(self, code: str) -> CellResult | None:
        self.ran.append(code)
        result = self._results[len(self.ran) - 1]
        if isinstance(result, Exception):
            raise result
        return result

    def reset(self) -> None:
        self.resets += 1


def converse(runner: ScriptedRunner, typed: Sequence[Typed]) -> str:
    """What the terminal shows for what is typed."""
    out, waiting = io.StringIO(), list(typed)

    def read() -> str:
        if not waiting:
            raise EOFError
        if isinstance(line := waiting.pop(0), str):
            return line
        raise line

    console = Console(file=out, width=80, markup=False, highlight=False)
    Prompt(runner=runner, console=console, read=read, overview=lambda: "the overview").run()
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_a_block_shows_what_it_printed_and_its_value() -> None:
    runner = ScriptedRunner(CellResult(code="", stdout="one\ntwo\n", value="2", stdout_chars=8))
    assert converse(runner, ["f()"]) == "one\ntwo\n2\n"
    assert runner.ran == ["f()"]


def test_an_error_shows_its_traceback() -> None:
    error = CellError(type="ZeroDivisionError", message="division by zero", traceback="Traceback …\nZeroDivisionError")
    assert converse(ScriptedRunner(CellResult(code="", error=error)), ["1/0"]) == "Traceback …\nZeroDivisionError\n"


def test_a_long_output_says_how_much_of_it_is_not_shown() -> None:
    lines = "".join(f"{n}\n" for n in range(1000))
    shown = converse(ScriptedRunner(CellResult(code="", stdout=lines, truncated=True, stdout_chars=9_999_999)), ["f()"])
    assert shown.splitlines()[40] == "… 940 of 1,000 lines left out …"
    assert shown.splitlines()[-1] == "(the sandbox kept only the two ends of 9,999,999 characters)"
    assert len(shown.splitlines()) == 62


def test_an_interrupted_block_keeps_its_variables_and_shows_what_it_had_printed() -> None:
    error = CellError(type="KeyboardInterrupt", message="", traceback="Traceback …")
    runner = ScriptedRunner(CellResult(code="", stdout="half\n", error=error, stopped_by="interrupt"), None)
    assert converse(runner, ["f()", "g()"]) == (
        "half\ninterrupted; the variables are kept\ninterrupted; the variables are kept\n"
    )


@pytest.mark.parametrize(
    ("stopped_by", "says"),
    [
        ("deadline", "stopped: it took longer than --seconds allows; the variables are those from before it\n"),
        ("something new", "something new; the variables are those from before it\n"),
    ],
)
def test_a_block_that_was_undone_says_so(stopped_by: str, says: str) -> None:
    runner = ScriptedRunner(CellResult(code="", stopped_by=stopped_by, undone=True))
    assert converse(runner, ["f()"]) == says


def test_a_final_answer_and_notes_are_told() -> None:
    cell = CellResult(code="", final=Final(value=9), notes=("`context` is kept",))
    assert converse(ScriptedRunner(cell), ["FINAL(9)"]) == (
        "In a run this would be the final answer, by FINAL: 9\n`context` is kept\n"
    )


def test_commands_begin_with_a_colon() -> None:
    runner = ScriptedRunner(
        CellResult(code="", variables=(Variable(name="x", type="list", size=3, preview="[1, 2, 3]"),))
    )
    shown = converse(
        runner, [":vars", "x = [1, 2, 3]", ":vars", ":overview", ":reset", ":vars", ":what", "", ":quit", "y"]
    )
    assert shown == (
        "No variables yet.\nx: list of 3 = [1, 2, 3]\nthe overview\nVariables are gone.\nNo variables yet.\n"
        "There is no :what: :help lists the commands."
    )
    assert (runner.ran, runner.resets) == (["x = [1, 2, 3]"], 1)
    assert "Ctrl-D leaves" in converse(ScriptedRunner(), [":help"])


def test_ctrl_c_at_the_prompt_and_errors_of_the_sandbox_do_not_leave_it() -> None:
    runner = ScriptedRunner(RlmError("the sandbox failed"), CellResult(code="", value="1"))
    assert converse(runner, [KeyboardInterrupt, "f()", "1"]) == "\n(Ctrl-D leaves)\nrlm-mcp: the sandbox failed\n1\n"


def test_a_second_ctrl_c_while_the_first_one_is_answered_does_not_leave_it() -> None:
    shown: list[str] = []

    class Interrupted(Console):
        def print(self, *objects: Any, **_: Any) -> None:
            shown.append(" ".join(map(str, objects)))
            if len(shown) == 1:
                raise KeyboardInterrupt

    typed: Iterator[Typed] = iter([KeyboardInterrupt, ":help", ":quit"])

    def read() -> str:
        if isinstance(line := next(typed), str):
            return line
        raise line

    Prompt(runner=ScriptedRunner(), console=Interrupted(), read=read, overview=str).run()
    assert shown == ["\n(Ctrl-D leaves)", "interrupted; the variables are kept", HELP]


def test_what_a_context_holds_is_shown_and_not_obeyed() -> None:
    assert (
        converse(ScriptedRunner(CellResult(code="", stdout="\x1b[2J\u202e[red]\n")), ["f()"])
        == "\\x1b[2J\\u202e[red]\n"
    )


def test_the_banner_has_three_lines_and_says_what_context_is() -> None:
    text = Context(
        context_id="c", name="app.log", kind="text", bytes=9, chars=9, lines=2, files=1, created_at="", source=""
    )
    files = replace(text, name="src", kind="files", files=3)
    first, second, third = banner(text, "gpt-5-mini").splitlines()
    assert first == "app.log: 2 lines, 9 characters; `context` is the text, a str"
    assert "asks gpt-5-mini" in second
    assert "Ctrl-D leaves" in third
    assert "3 files" in banner(files, None)
    assert "asks a local model, if one is running" in banner(files, None)

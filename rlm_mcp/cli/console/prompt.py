"""The REPL of `rlm-mcp inspect`: runs typed code in the sandbox over one context and shows the result.

The prompt runs on the main thread, which receives Ctrl-C; the event loop of the workspace runs on another. Ctrl-C
interrupts the running block and keeps the variables.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import anyio
from anyio.from_thread import BlockingPortal
from rich.console import Console
from rich.text import Text

from rlm_mcp.cli.commands.output import name_commands
from rlm_mcp.cli.console.excerpt import Excerpt, excerpt, one_line
from rlm_mcp.cli.console.interrupts import on_interrupt
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import RlmError
from rlm_mcp.repl.types import CellResult, GuestCalls, Variable
from rlm_mcp.workspace.workspace import Workspace

FIRST, MORE = ">>> ", "... "
SHOWN_LINES = (40, 20)
"""The first and the last lines of an output: two screens."""

LINE_CHARS = 2_000
TRACEBACK_LINES = (4, 12)

HELP = """\
Python runs in the sandbox; variables stay until you leave. A compound statement ends with an empty line.
  context, contexts            the context: text, or a mapping of paths to texts
  search("pattern")            matching lines, at the speed of the host
  llm_query("prompt")          asks the sub-model; llm_query_batched([…]) asks many at once
  classify(items, question, labels)                  one label an item, from the sub-model
  cite(path, first, last)      FINAL(value)   SHOW_VARS()   budget()      as in a run
  :overview  :vars  :reset  :help  :quit
Ctrl-C interrupts, Tab completes, Ctrl-D leaves."""

STOPPED = {
    "interrupt": "interrupted",
    "deadline": "stopped: it took longer than --seconds allows",
    "stack": "stopped: the recursion went too deep",
    "trap": "stopped: the sandbox was damaged",
    "exit": "stopped: it ended its process",
}

KEPT, UNDONE = "the variables are kept", "the variables are those from before it"
INTERRUPTED = f"{STOPPED['interrupt']}; {KEPT}"


class CodeRunner(Protocol):
    """Runs the code that is typed."""

    def run(self, code: str) -> CellResult | None:
        """Runs a block; None if it was interrupted before it began."""

    def reset(self) -> None:
        """Starts over without variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Reads blocks, runs them and shows the results. `read` returns a block, and raises EOFError at the end."""

    runner: CodeRunner
    console: Console
    read: Callable[[], str]
    overview: Callable[[], str]

    def run(self) -> None:
        """Runs until the end of the input."""
        variables: Sequence[Variable] | None = ()
        while variables is not None:
            try:
                variables = self._turn(variables)
            except KeyboardInterrupt:  # no block is running: those are interrupted by their runner
                self.console.print(INTERRUPTED, style="yellow")

    def _turn(self, variables: Sequence[Variable]) -> Sequence[Variable] | None:
        """Reads and answers a block; the variables after it, None at the end of the input."""
        try:
            typed = self.read().strip("\n")
        except EOFError:
            self.console.print()
            return None
        except KeyboardInterrupt:
            self.console.print("\n(Ctrl-D leaves)", style="dim")
            return variables
        if typed.strip() in {":quit", ":q"}:
            return None
        try:
            return self._answer(typed, variables)
        except RlmError as error:
            self.console.print(
                Text(f"rlm-mcp: {one_line(name_commands(str(error)), chars=LINE_CHARS)}", "red"), soft_wrap=True
            )
            return variables

    def _answer(self, typed: str, variables: Sequence[Variable]) -> Sequence[Variable]:
        match typed.strip():
            case "":
                return variables
            case ":help":
                self.console.print(HELP)
            case ":vars":
                self._show_variables(variables)
            case ":overview":
                self.console.print(self.overview())
            case ":reset":
                self.runner.reset()
                self.console.print("Variables are gone.", style="dim")
                return ()
            case command if command.startswith(":"):
                self.console.print(Text(f"There is no {one_line(command)}: :help lists the commands.", "red"))
            case _:
                cell = self.runner.run(typed)
                if cell is None:
                    raise KeyboardInterrupt
                self._show(cell)
                return cell.variables
        return variables

    def _show_variables(self, variables: Sequence[Variable]) -> None:
        for variable in variables:
            size = "" if variable.size is None else f" of {variable.size:,}"
            line = f"{variable.name}: {variable.type}{size} = {variable.preview}"
            self.console.print(Text(one_line(line), no_wrap=True, overflow="ellipsis"))
        if not variables:
            self.console.print("No variables yet.", style="dim")

    def _show(self, cell: CellResult) -> None:
        self._show_text(cell.stdout)
        if cell.truncated:
            cut = f"(the sandbox kept only the two ends of {cell.stdout_chars:,} characters)"
            self.console.print(Text(cut, "dim"), soft_wrap=True)
        self._show_text(cell.stderr, "yellow")
        self._show_text(cell.value or "")
        if cell.error is not None and cell.stopped_by != "interrupt":
            told = cell.error.traceback or f"{cell.error.type}: {cell.error.message}"
            self._lines(excerpt(told, first=TRACEBACK_LINES[0], last=TRACEBACK_LINES[1], line_chars=LINE_CHARS), "red")
        if cell.final is not None:
            final = f"In a run this would be the final answer, by {cell.final.via}: {cell.final.value}"
            self.console.print(Text(one_line(final, chars=LINE_CHARS), "green"), soft_wrap=True)
        for note in cell.notes:
            self.console.print(Text(one_line(note), "dim"), soft_wrap=True)
        if cell.stopped_by is not None:
            kept = UNDONE if cell.undone else KEPT
            self.console.print(
                Text(f"{STOPPED.get(cell.stopped_by, cell.stopped_by)}; {kept}", "yellow"), soft_wrap=True
            )

    def _show_text(self, text: str, style: str = "") -> None:
        first, last = SHOWN_LINES
        self._lines(excerpt(text, first=first, last=last, line_chars=LINE_CHARS), style)

    def _lines(self, part: Excerpt, style: str) -> None:
        for line in part.first:
            self.console.print(Text(line, style), soft_wrap=True)
        if part.left_out:
            self.console.print(
                Text(f"… {part.left_out:,} of {part.total_lines:,} lines left out …", "dim"), soft_wrap=True
            )
        for line in part.last:
            self.console.print(Text(line, style), soft_wrap=True)


class _InterruptibleBlock:
    """One block, which can be interrupted, also before it begins. Belongs to the event loop."""

    def __init__(self, cell: Callable[[], Awaitable[CellResult]]) -> None:
        self._cell = cell
        self._is_wanted = True
        self._scope: anyio.CancelScope | None = None

    async def run(self) -> CellResult | None:
        """The result, also of an interrupted block; None if it was interrupted before it began."""
        with anyio.CancelScope() as self._scope:
            if self._is_wanted:
                return await self._cell()
        return None

    def interrupt(self) -> None:
        """Interrupts the block. Idempotent."""
        self._is_wanted = False
        if self._scope is not None:
            self._scope.cancel()


class PromptRepl:
    """The REPL of a context in a workspace, used from outside the thread of its event loop."""

    def __init__(
        self, portal: BlockingPortal, workspace: Workspace, context: Context, calls: GuestCalls, *, seconds: float
    ) -> None:
        self._portal = portal
        self._workspace = workspace
        self._context = context
        self._calls = calls
        self._seconds = seconds
        self._loop = portal.call(asyncio.get_running_loop)

    def __repr__(self) -> str:
        return f"<PromptRepl {self._context.name}>"

    def run(self, code: str) -> CellResult | None:
        """Runs a block, which Ctrl-C interrupts."""
        turn = _InterruptibleBlock(partial(self._run, code))
        with on_interrupt(lambda: self._loop.call_soon_threadsafe(turn.interrupt)):
            return self._portal.call(turn.run)

    def reset(self) -> None:
        """Replaces the REPL by a new one."""
        self._portal.call(partial(self._run, "", reset=True))

    def complete(self, text: str) -> tuple[str, ...]:
        """Completions of a name; none if they cannot be determined."""
        try:
            return self._portal.call(partial(self._workspace.repls.complete, self._context, text, calls=self._calls))
        except RlmError:
            return ()

    async def _run(self, code: str, *, reset: bool = False) -> CellResult:
        return await self._workspace.repls.run_code(
            self._context, code, seconds=self._seconds, reset=reset, calls=self._calls
        )


def banner(context: Context, model: str | None) -> str:
    """Introduces the context and the prompt in three lines."""
    if context.kind == "files":
        what = f"{context.files:,} files, {context.chars:,} characters; `context` maps their paths to their texts"
    else:
        what = f"{context.lines:,} lines, {context.chars:,} characters; `context` is the text, a str"
    asks = f"asks {one_line(model)}" if model else "asks a local model, if one is running"
    return one_line(f"{context.name}: {what}") + (
        f'\nsearch("…") finds lines; llm_query("…") {asks}'
        "\nvariables stay; :help shows more, Ctrl-C interrupts, Ctrl-D leaves"
    )

"""Draws a run on a terminal: what has happened scrolls by; what is going on stays at the bottom and changes."""

import time
from contextlib import suppress
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

from rlm_mcp.cli.console.renderer import render_note, render_present
from rlm_mcp.cli.console.view_model import RunView
from rlm_mcp.records.events import Event

FILE_WIDTH = 100
"""Width of output that does not go to a terminal."""


class StreamConsole(Console):
    """A console that raises BrokenPipeError when its reader has gone, as other streams do."""

    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError again; rich would end the process."""
        raise  # noqa: PLE0704 - rich calls this while it handles the error


def console_on(stream: TextIO) -> Console:
    """A console that prints text without interpreting it, in colour if the stream is a terminal with colours."""
    width = None if stream.isatty() else FILE_WIDTH
    return StreamConsole(
        file=stream, width=width, force_terminal=stream.isatty(), markup=False, highlight=False, emoji=False
    )


def can_be_drawn_on(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can move its cursor and show more than ASCII."""
    if not stream.isatty():
        return False
    console = console_on(stream)
    return not console.is_dumb_terminal and console.encoding.startswith("utf")


class RunPrinter:
    """Prints the notes of a run, each once."""

    def __init__(self, console: Console) -> None:
        self.view = RunView()
        self._console = console
        self._printed = 0

    def apply(self, event: Event) -> None:
        """Takes in one event of the run, without printing."""
        self.view.apply(event, time.monotonic())

    def print_new(self) -> None:
        """Prints the new notes. Raises OSError if the stream cannot be written."""
        self._printed = min(self._printed, len(self.view.notes))
        while self._printed < len(self.view.notes):
            note = self.view.notes[self._printed]
            self._console.print(render_note(note, width=self._console.width))
            self._printed += 1

    def print_event(self, event: Event) -> None:
        """Takes in one event and prints its notes. A stream that cannot be written does not end the run."""
        self.apply(event)
        with suppress(OSError):
            self.print_new()


class RunDisplay:
    """The screen while a run goes on. Entered and left once; `refresh` draws what has changed.

    Output of other code to stderr or stdout meanwhile appears above the lines at the bottom.
    """

    def __init__(self, console: Console, printer: RunPrinter) -> None:
        self.is_stopping = False
        self._console = console
        self._printer = printer
        self._live = Live(console=console, auto_refresh=False, transient=True, get_renderable=lambda: self)
        self._width = console.width
        self._drawn: list[int] = []
        """the width in cells of each line at the bottom"""

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clear_broken_lines()
        self._live.stop()
        self._printer.print_new()

    def refresh(self) -> None:
        """Prints the new notes and draws what is going on."""
        self._clear_broken_lines()
        self._printer.print_new()
        self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, height = self._printer.view, console.height - 1
        group = render_present(
            view, time.monotonic(), width=options.max_width, height=height, stopping=self.is_stopping
        )
        lines = console.render_lines(group, options, pad=False)
        self._drawn = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()

    def _clear_broken_lines(self) -> None:
        """Clears the rows that the lines at the bottom take once a terminal that was made narrower has broken them."""
        width = self._console.width
        if width < self._width:
            rows = sum(max(1, -(-cells // width)) for cells in self._drawn)
            row = (ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)
            start = ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)
            self._console.control(Control(*start, *row * (rows - len(self._drawn))))
        self._width = width

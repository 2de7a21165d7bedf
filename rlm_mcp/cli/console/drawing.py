"""Draws a scene on a terminal: what has happened scrolls by, what is going on stays at the bottom and changes."""

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

WIDTH_OF_A_FILE = 100
"""Where there is no terminal to ask."""


class StreamConsole(Console):
    """A console whose reader may have enough: that is told as it is for every other stream."""

    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError again, where rich would end the process."""
        raise  # noqa: PLE0704 - rich calls this while it handles the error


def console_on(stream: TextIO) -> Console:
    """A console that takes text as it is, and colours it where the stream is a terminal that has colours."""
    width = None if stream.isatty() else WIDTH_OF_A_FILE
    return StreamConsole(
        file=stream, width=width, force_terminal=stream.isatty(), markup=False, highlight=False, emoji=False
    )


def can_be_drawn_on(stream: TextIO) -> bool:
    """Whether lines on it can be drawn again: a terminal that moves its cursor and shows more than ASCII."""
    if not stream.isatty():
        return False
    console = console_on(stream)
    return not console.is_dumb_terminal and console.encoding.startswith("utf")


class RunPrinter:
    """Prints what has happened in a run, each thing once."""

    def __init__(self, console: Console) -> None:
        self.view = RunView()
        self._console = console
        self._printed = 0

    def take(self, event: Event) -> None:
        """Takes in one event of the run."""
        self.view.apply(event, time.monotonic())

    def tell(self) -> None:
        """Prints what is new. Raises OSError where the stream does not take it."""
        self._printed = min(self._printed, len(self.view.notes))
        while self._printed < len(self.view.notes):
            one = self.view.notes[self._printed]
            self._console.print(render_note(one, width=self._console.width))
            self._printed += 1

    def event(self, event: Event) -> None:
        """Takes in one event and prints what it adds; a run does not end because nobody reads of it."""
        self.take(event)
        with suppress(OSError):
            self.tell()


class Drawing:
    """The screen while a run goes on. Entered and left once; `refresh` draws what has changed.

    What other code writes to stderr or stdout meanwhile appears above the lines at the bottom.
    """

    def __init__(self, console: Console, printer: RunPrinter) -> None:
        self.is_stopping = False
        self._console = console
        self._teller = printer
        self._live = Live(console=console, auto_refresh=False, transient=True, get_renderable=lambda: self)
        self._width = console.width
        self._drawn: list[int] = []
        """the cells in each line at the bottom"""

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mind_width()
        self._live.stop()
        self._teller.tell()

    def refresh(self) -> None:
        """Prints what has happened and draws what is going on."""
        self._mind_width()
        self._teller.tell()
        self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, height = self._teller.view, console.height - 1
        group = render_present(
            view, time.monotonic(), width=options.max_width, height=height, stopping=self.is_stopping
        )
        lines = console.render_lines(group, options, pad=False)
        self._drawn = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()

    def _mind_width(self) -> None:
        """A terminal that was made narrower has broken the lines at the bottom in two: they take more rows now."""
        width = self._console.width
        if width < self._width:
            rows = sum(max(1, -(-cells // width)) for cells in self._drawn)
            row = (ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)
            start = ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)
            self._console.control(Control(*start, *row * (rows - len(self._drawn))))
        self._width = width

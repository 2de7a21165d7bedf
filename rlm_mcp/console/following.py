"""Follows a run to its end for somebody who waits at a terminal; Ctrl-C stops the run kindly, twice ends the process.

On a terminal it is drawn. Elsewhere every change is a line, so that a log shows where the run stood. A reader of stderr
that goes away does not end the run.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

import anyio

from rlm_mcp.console.drawing import Drawing, Teller, can_be_drawn_on, console_on
from rlm_mcp.workspace import Workspace

FRAME_SECONDS = 0.125
"""Between two drawings: often enough for a clock with tenths to look alive, seldom enough for a slow line."""

SHOW_CURSOR = b"\x1b[?25h"


async def follow(workspace: Workspace, run_id: str, stream: TextIO, *, quiet: bool, exit_status: int) -> None:
    """Returns when the run has ended, or is followed no longer because another process runs it.

    On a second Ctrl-C the process ends with `exit_status` there and then; what is on record stays.
    """
    is_drawn = not quiet and can_be_drawn_on(stream)
    stop = anyio.Event()
    with (
        anyio.CancelScope() as following,
        _interrupts(stop.set, lambda: _end_at_once(run_id, exit_status, is_drawn=is_drawn)),
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_when_asked, workspace, run_id, stop, following)
            if is_drawn:
                await _draw(workspace, run_id, stream, stop)
            elif quiet:
                await workspace.attend(run_id, lambda _: None)
            else:
                await _tell(workspace, run_id, stream)
            tasks.cancel_scope.cancel()


async def _stop_when_asked(workspace: Workspace, run_id: str, stop: anyio.Event, following: anyio.CancelScope) -> None:
    await stop.wait()
    if workspace.progress(run_id) is None:  # it runs in another process and goes on there
        following.cancel()
    workspace.stop(run_id)


async def _draw(workspace: Workspace, run_id: str, stream: TextIO, stop: anyio.Event) -> None:
    console = console_on(stream)
    teller = Teller(console)
    over = anyio.Event()

    async def draw() -> None:
        with suppress(OSError), Drawing(console, teller) as drawing:  # the terminal may go away before the run ends
            while not over.is_set():
                drawing.is_stopping = stop.is_set()
                drawing.refresh()
                with anyio.move_on_after(FRAME_SECONDS):
                    await over.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(draw)
        await workspace.attend(run_id, teller.take)
        over.set()


async def _tell(workspace: Workspace, run_id: str, stream: TextIO) -> None:
    is_read = _write(stream, f"{run_id} started")
    async for progress in workspace.follow(run_id):
        is_read = is_read and _write(stream, f"  {progress}")


def _write(stream: TextIO, line: str) -> bool:
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except OSError:
        return False
    return True


@contextmanager
def _interrupts(kindly: Callable[[], None], at_once: Callable[[], None]) -> Iterator[None]:
    """SIGINT calls `kindly` in the event loop; the second one calls `at_once`, whatever the loop is doing."""
    loop, seen = asyncio.get_running_loop(), 0

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            at_once()
        loop.call_soon_threadsafe(kindly)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_at_once(run_id: str, status: int, *, is_drawn: bool) -> None:
    """No cleaning up: a run is always on record as far as it has come."""
    with suppress(OSError):
        shown = SHOW_CURSOR if is_drawn else b""
        os.write(2, shown + f"\nrlm-mcp: ended at once; `rlm-mcp runs resume {run_id}` goes on\n".encode())
    os._exit(status)

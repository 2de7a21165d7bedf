"""Shows a run to its end. Ctrl-C cancels the run and keeps what it has; a second Ctrl-C ends the process.

On a terminal the run is drawn. Elsewhere each change is a line, so that a log shows its progress. The run does not end
when the reader of stderr goes away.
"""

from contextlib import suppress
from functools import partial
from typing import TextIO

import anyio

from rlm_mcp.cli.console.drawing import RunDisplay, RunPrinter, can_be_drawn_on, console_on
from rlm_mcp.cli.console.interrupts import end_at_once, interrupts
from rlm_mcp.concurrency import background_task
from rlm_mcp.errors import RlmError
from rlm_mcp.workspace.workspace import Workspace

FRAME_SECONDS = 0.125
"""Between two frames: short enough for a running clock with tenths, long enough for a slow line."""


async def watch_run(workspace: Workspace, run_id: str, stream: TextIO, *, quiet: bool, exit_status: int) -> None:
    """Shows a run until it has ended, or until Ctrl-C if another process runs it.

    On a second Ctrl-C the process ends immediately with `exit_status`; its record stays.
    """
    is_drawn = not quiet and can_be_drawn_on(stream)
    stop = anyio.Event()
    last_words = f"rlm-mcp: ended at once; `rlm-mcp runs resume {run_id}` continues the run"
    end = partial(end_at_once, last_words, exit_status, is_drawn=is_drawn)
    with anyio.CancelScope() as following, interrupts(stop.set, end):
        async with background_task(_stop_when_asked, workspace, run_id, stop, following):
            if is_drawn:
                await _draw(workspace, run_id, stream, stop)
            elif quiet:
                await workspace.runs.stream_events(run_id, lambda _: None)
            else:
                await _tell(workspace, run_id, stream)


async def _stop_when_asked(workspace: Workspace, run_id: str, stop: anyio.Event, following: anyio.CancelScope) -> None:
    await stop.wait()
    if workspace.runs.progress(run_id) is None:  # another process runs it and continues
        following.cancel()
    else:
        workspace.runs.stop(run_id)


async def _draw(workspace: Workspace, run_id: str, stream: TextIO, stop: anyio.Event) -> None:
    console = console_on(stream)
    printer = RunPrinter(console)
    over = anyio.Event()

    async def draw() -> None:
        with suppress(OSError):  # the terminal may be closed before the run ends
            with RunDisplay(console, printer) as display:
                while not over.is_set():
                    display.is_stopping = stop.is_set()
                    display.refresh()
                    with anyio.move_on_after(FRAME_SECONDS):
                        await over.wait()
            console.print()

    failure: RlmError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(draw)
        try:
            await workspace.runs.stream_events(run_id, printer.apply)
        except RlmError as error:  # the task group would wrap it in an exception group
            failure = error
        over.set()
    if failure is not None:
        raise failure


async def _tell(workspace: Workspace, run_id: str, stream: TextIO) -> None:
    is_read = _write(stream, f"{run_id} started")
    async for progress in workspace.runs.follow(run_id):
        is_read = is_read and _write(stream, f"  {progress}")


def _write(stream: TextIO, line: str) -> bool:
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except OSError:
        return False
    return True

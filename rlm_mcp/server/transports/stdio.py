"""The life of a stdio server process: it cleans up and ends in under a second, for whichever reason.

Reasons are end of file on stdin; SIGTERM and SIGINT; the death of the parent, which many clients do not announce by
closing stdin; and a closed stdout, after which no answer is read. A thread that nothing can interrupt reads stdin
(stdio_pipe.py), so after a signal the process cannot unwind to its end: it closes the workspace and calls `os._exit`.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import anyio
import anyio.to_thread

from rlm_mcp.concurrency import on_stop_signal, run_in_thread
from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.server.server import build_server
from rlm_mcp.server.transports.logs import configure_logging
from rlm_mcp.server.transports.stdio_pipe import WATCH_SECONDS, StdioPipe
from rlm_mcp.workspace.workspace import Workspace

LAST_LINES_SECONDS = 0.1
"""Between a stop signal and the end: Ctrl-C in a terminal reaches the client, too, which then cancels its calls."""

CLOSE_SECONDS = 0.6
"""For closing REPLs and run records. Records are safe without it: they are complete line by line."""

log = logging.getLogger(__name__)

OpenWorkspace = Callable[[], AbstractAsyncContextManager[Workspace]]


def serve_stdio(pipe: StdioPipe, open_workspace: OpenWorkspace, *, at_end: Callable[[], None]) -> None:
    """Serves MCP on stdin and stdout until the client is gone, then ends the process with status 0.

    `at_end` may block; it has the rest of CLOSE_SECONDS.
    """
    pipe.serve()
    configure_logging()
    anyio.run(_serve, pipe, open_workspace, at_end)


async def _serve(pipe: StdioPipe, open_workspace: OpenWorkspace, at_end: Callable[[], None]) -> None:
    ended, signalled = anyio.Event(), anyio.Event()
    async with open_workspace() as workspace, anyio.create_task_group() as tasks:
        with on_stop_signal(signalled.set):
            tasks.start_soon(_end_at_signal, signalled, workspace, ended)
            tasks.start_soon(_end_when, pipe.is_abandoned, ended)
            tasks.start_soon(_run_protocol, pipe, workspace, ended)
            tasks.start_soon(workspace.recovery.resume_left)
            await ended.wait()
            with anyio.move_on_after(CLOSE_SECONDS):
                await workspace.close()
                await run_in_thread(workspace.contexts.store.close)
                await run_in_thread(at_end)
            PROCESSES.kill_all()
            logging.shutdown()
            os._exit(0)  # the task group would wait for the thread that reads stdin, possibly without end


async def _run_protocol(pipe: StdioPipe, workspace: Workspace, ended: anyio.Event) -> None:
    """Serves until end of file on stdin or a closed stdout."""
    try:
        streams = _PipeStreams(pipe)
        await build_server(workspace).run_on_lines(streams, streams)
    except* (BrokenPipeError, anyio.BrokenResourceError):
        log.debug("stdout was closed while an answer was written")
    finally:
        ended.set()


async def _end_at_signal(signalled: anyio.Event, workspace: Workspace, ended: anyio.Event) -> None:
    """Ends after a stop signal. Whoever started this process sent it and waits no longer, so waited-for runs stop."""
    await signalled.wait()
    await anyio.sleep(LAST_LINES_SECONDS)
    workspace.runs.stop_waited_for()
    ended.set()


async def _end_when(condition: Callable[[], bool], ended: anyio.Event) -> None:
    while not condition():  # noqa: ASYNC110 - the system does not notify
        await anyio.sleep(WATCH_SECONDS)
    ended.set()


class _PipeStreams:
    """The pipe as the SDK reads and writes it."""

    def __init__(self, pipe: StdioPipe) -> None:
        self._pipe = pipe

    async def __aiter__(self) -> AsyncIterator[str]:
        while (line := await run_in_thread(self._pipe.read)) is not None:
            yield line

    async def write(self, line: str) -> None:
        await anyio.to_thread.run_sync(self._pipe.write, line)

    async def flush(self) -> None:
        """Does nothing: every line is written at once."""

"""The life of a stdio server process: it cleans up and ends in under a second, for whichever reason.

Reasons are end of file on stdin; SIGTERM and SIGINT; the death of the parent, which many clients do not announce by
closing stdin; and a closed stdout, after which no answer is read. The SDK reads stdin on a worker thread that nothing
can interrupt, so after a signal the process cannot unwind to its end: it closes the workspace and calls `os._exit`.
"""

import logging
import os
import select
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import anyio

from rlm_mcp.concurrency import on_stop_signal, run_in_thread
from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.server.server import build_server
from rlm_mcp.server.transports.logs import configure_logging
from rlm_mcp.workspace.workspace import Workspace

WATCH_SECONDS = 0.2
"""Interval of checks of the parent and of stdout; well within the second that the process has to end."""

CLOSE_SECONDS = 0.6
"""For closing REPLs and run records. Records are safe without it: they are complete line by line."""

log = logging.getLogger(__name__)

OpenWorkspace = Callable[[], AbstractAsyncContextManager[Workspace]]


def serve_stdio(open_workspace: OpenWorkspace, *, at_end: Callable[[], None]) -> None:
    """Serves MCP on stdin and stdout until the client is gone, then ends the process with status 0.

    `at_end` may block; it has the rest of CLOSE_SECONDS.
    """
    parent, wire = os.getppid(), os.dup(1)
    configure_logging()
    anyio.run(_serve, open_workspace, partial(_is_abandoned, parent, wire), at_end)


async def _serve(open_workspace: OpenWorkspace, is_abandoned: Callable[[], bool], at_end: Callable[[], None]) -> None:
    ended = anyio.Event()
    async with open_workspace() as workspace, anyio.create_task_group() as tasks:
        with on_stop_signal(ended.set):
            tasks.start_soon(_end_when, is_abandoned, ended)
            tasks.start_soon(_run_protocol, workspace, ended)
            tasks.start_soon(workspace.runs.resume_left)
            await ended.wait()
            with anyio.move_on_after(CLOSE_SECONDS):
                await workspace.close()
                await run_in_thread(workspace.contexts.store.close)
                await run_in_thread(at_end)
            PROCESSES.kill_all()
            logging.shutdown()
            os._exit(0)  # the task group would wait for the thread that reads stdin, possibly without end


async def _run_protocol(workspace: Workspace, ended: anyio.Event) -> None:
    """Serves until end of file on stdin or a closed stdout."""
    try:
        await build_server(workspace).run_stdio_async()
    except* (BrokenPipeError, anyio.BrokenResourceError):
        log.debug("stdout was closed while an answer was written")
    finally:
        ended.set()


async def _end_when(condition: Callable[[], bool], ended: anyio.Event) -> None:
    while not condition():  # noqa: ASYNC110 - the system does not notify
        await anyio.sleep(WATCH_SECONDS)
    ended.set()


def _is_abandoned(parent: int, wire: int) -> bool:
    """Whether the parent has died or the reading end of stdout was closed."""
    if os.getppid() != parent:
        return True
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(wire, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))

"""Time limits of tool calls: below the time-out of the client that sent it, with progress meanwhile.

Progress does not reliably extend a client's time-out, so a wait ends before it.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from mcp.server.mcpserver import Context as Request

from rlm_mcp.concurrency import background_task
from rlm_mcp.server.client_limits import ClientLimits, limits_of_client
from rlm_mcp.workspace.progress import HEARTBEAT_SECONDS

_T = TypeVar("_T")


def limits_of(request: Request[Any, Any]) -> ClientLimits:
    """The known limits of the client of this request."""
    params = request.session.client_params
    return limits_of_client("" if params is None else params.client_info.name)


def longest_wait(request: Request[Any, Any]) -> float:
    """The seconds that the client of this request certainly waits for a tool."""
    return limits_of(request).seconds


async def with_heartbeat(
    request: Request[Any, Any],
    progress: Callable[[], str],
    work: Callable[[], Awaitable[_T]],
    *,
    every_seconds: float = HEARTBEAT_SECONDS,
) -> _T:
    """Does the work and sends the client its `progress` every few seconds. Raises what the work raises."""
    began = time.monotonic()

    async def beat() -> None:
        beats = 0
        while True:
            await anyio.sleep(every_seconds)
            beats += 1
            await request.report_progress(beats, None, f"{progress()} · {time.monotonic() - began:.0f} s")

    async with background_task(beat):
        return await work()

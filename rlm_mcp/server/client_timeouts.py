"""How long a tool call may last: below the time-out of the client that sent it, with progress meanwhile.

Progress does not reliably extend a client's time-out, so a wait ends before it.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from mcp.server.mcpserver import Context as Request

from rlm_mcp.concurrency import background_task
from rlm_mcp.workspace.progress import HEARTBEAT_SECONDS

_T = TypeVar("_T")

UNKNOWN_CLIENT_SECONDS = 55.0
"""SDK clients, Codex and Zed give up after 60 s."""

CLIENT_SECONDS = {
    "claude-code": 100.0,  # calls over 2 minutes go to the background
    "gemini-cli": 300.0,  # 10 minutes
    "copilot": 25.0,  # Copilot for JetBrains: about 30 s
    "jetbrains": 25.0,
}
"""part of the client's name -> the longest wait that it survives"""


def longest_wait(request: Request[Any, Any]) -> float:
    """The seconds that the client of this request certainly waits for a tool."""
    params = request.session.client_params
    name = "" if params is None else params.client_info.name.lower()
    return next((seconds for part, seconds in CLIENT_SECONDS.items() if part in name), UNKNOWN_CLIENT_SECONDS)


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

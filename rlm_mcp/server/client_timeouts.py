"""How long a tool call may wait, and what it says meanwhile and about a run that is not done.

Progress does not reliably extend a client's limit, so a wait ends below the limit of the client that asked.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from mcp.server.mcpserver import Context as Request

from rlm_mcp.concurrency import background_task
from rlm_mcp.records.types import RunState
from rlm_mcp.workspace.live_runs import HEARTBEAT_SECONDS
from rlm_mcp.workspace.progress import Progress

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
    """Seconds that the client of this request waits for a tool for sure."""
    params = request.session.client_params
    name = "" if params is None else params.client_info.name.lower()
    return next((seconds for part, seconds in CLIENT_SECONDS.items() if part in name), UNKNOWN_CLIENT_SECONDS)


async def with_beats(
    request: Request[Any, Any],
    doing: Callable[[], str],
    work: Callable[[], Awaitable[_T]],
    *,
    every_seconds: float = HEARTBEAT_SECONDS,
) -> _T:
    """Does the work, and tells the client every few seconds how far it is. Raises what the work raises."""
    began = time.monotonic()

    async def beat() -> None:
        beats = 0
        while True:
            await anyio.sleep(every_seconds)
            beats += 1
            await request.report_progress(beats, None, f"{doing()} · {time.monotonic() - began:.0f} s")

    async with background_task(beat):
        return await work()


def eta(state: RunState, progress: Progress | None) -> str:
    """What to do about a run that still runs: an honest guess of the time, the next call, and what not to do."""
    next_call = f"Call rlm_result(run_id={state.run_id!r}) to wait on; do not start it again."
    if progress is None:
        return next_call if state.message else f"Still running in another process. {next_call}"
    limit = "" if progress.seconds_left is None else f", at most {progress.seconds_left:.0f} s"
    pace = progress.seconds / max(progress.iteration, 1)
    guess = f"usually done in {max(pace * 2, 5):.0f}-{max(pace * 8, 30):.0f} s more"
    return f"Still running: {progress}; {guess}{limit}. {next_call}"

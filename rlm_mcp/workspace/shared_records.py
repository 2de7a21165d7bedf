"""Run records that several processes share: to cancel and to follow."""

from collections.abc import Callable

import anyio

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.errors import RlmError
from rlm_mcp.records.events import Event
from rlm_mcp.records.protocols import RunRecord
from rlm_mcp.records.run_queue import RunQueue

POLL_SECONDS = 0.5
"""How often a process looks whether the record of another one has grown."""

CANCEL_SECONDS = 4.0
"""How long a process that asks another one to cancel a run waits for it."""


class RunElsewhere(RlmError):
    """A run belongs to another process."""


async def request_cancel(queue: RunQueue, run: RunRecord) -> None:
    """Asks the process that runs it to cancel, and waits a while until it has."""
    await run_in_thread(queue.request_cancel, run.run_id)
    with anyio.move_on_after(CANCEL_SECONDS):
        while await run_in_thread(run.is_live):  # noqa: ASYNC110 - the other process does not tell
            await anyio.sleep(POLL_SECONDS / 4)


async def read_along(run: RunRecord, on_event: Callable[[Event], None]) -> None:
    """Passes on the events of a run of another process as its record grows."""
    position, is_live = 0, True
    while is_live:
        is_live = await run_in_thread(run.is_live)
        for event, end in await run_in_thread(lambda after: list(run.events_from(after)), position):
            position = end
            if event is not None:
                on_event(event)
        if is_live:
            await anyio.sleep(POLL_SECONDS)

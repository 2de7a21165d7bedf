"""Attempts at runs: handed in by whoever begins a run or goes on with one, and played by a process that serves.

Theory of operation. An attempt is a run from one position of its record on. Each is handed in once and played once: a
run that goes on after its process died is a new attempt, from where its record ends now, and never the old one again.
So one that is delivered twice is known by its position, and who comes late with it cannot claim the record any more.

Nothing is handed in for a run whose process died: `left` finds such runs, because they have neither an end nor a
lease. Where several machines share a queue, a run may also be handed over to whichever of them has room: `hand_over`
releases it, and `take_over` claims it there. `tests/rlm_mcp/records/test_run_queues.py` is what every implementation
has to pass.
"""

import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import anyio

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.errors import RunNotWritten
from rlm_mcp.records.protocols import RunRecord
from rlm_mcp.records.recovery import MOST_AT_ONCE, WITHIN_SECONDS, is_left
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs

CANCEL_POLL_SECONDS = 0.5
"""How often the process of a run looks whether another one asks to cancel it."""

PlayAttempt = Callable[[str, int], Coroutine[Any, Any, None]]
"""Plays the attempt at a run from a position of its record on, until it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """A run that was handed over and is claimed now."""

    run: RunRecord
    is_lost: bool
    """the process that had it last has died since its last event"""


class RunQueue(Protocol):
    """The attempts of one owner. What is not async, apart from `submit` and `close`, is called on worker threads."""

    def submit(self, run_id: str, position: int) -> None:
        """Hands in an attempt, on the event loop; its record is claimed. Not after `close`."""

    async def serve(self, play: PlayAttempt) -> None:
        """Plays attempts as they come, several at once, until `close` and the end of the last of them."""

    def hand_over(self, run: RunRecord) -> bool:
        """Hands a claimed run to the machines that share the queue; False if it stays here. Raises RunNotWritten."""

    def take_over(self, run_id: str, position: int) -> TakenOver | None:
        """Claims a run that was handed over at this position; None if that attempt is not waiting any more."""

    def take_back(self, run_id: str) -> RunRecord | None:
        """Claims a run that was handed over and that nobody has taken over yet; None if there is no such run."""

    def close(self) -> None:
        """Takes no more attempts. Idempotent."""

    def left(self, most: int = ...) -> Sequence[RunRecord]:
        """The runs whose processes died (recovery.py), those that were written last first. Raises RunRecordTooNew."""

    def request_cancel(self, run_id: str) -> None:
        """Asks the process that plays the run, whichever it is, to cancel it. Raises RunNotWritten."""

    async def cancel_requested(self, run_id: str) -> None:
        """Returns once anybody has asked for that."""

    def is_cancel_requested(self, run_id: str) -> bool:
        """Whether anybody has asked for that, perhaps a process that died before the end of the run was on record."""

    def drop_cancel_request(self, run_id: str) -> None:
        """Forgets an earlier request: the run goes on."""


class OwnAttempts:
    """The attempts that a process plays itself, each at once."""

    def __init__(self) -> None:
        self._submitted: deque[tuple[str, int]] = deque()
        self._news = anyio.Event()
        self._is_closed = False

    def submit(self, run_id: str, position: int) -> None:
        """Queues an attempt for `serve`."""
        self._submitted.append((run_id, position))
        self._news.set()

    async def serve(self, play: PlayAttempt) -> None:
        """Plays every attempt at once, in a task of its own."""
        async with anyio.create_task_group() as tasks:
            while self._submitted or not self._is_closed:
                await self._news.wait()
                self._news = anyio.Event()
                while self._submitted:
                    tasks.start_soon(play, *self._submitted.popleft())

    def close(self) -> None:
        """Lets `serve` end."""
        self._is_closed = True
        self._news.set()


class LocalRunQueue(OwnAttempts):
    """Plays attempts in the process that hands them in; other processes on the same directory cancel and recover."""

    def __init__(self, records: Runs) -> None:
        super().__init__()
        self._records = records

    def __repr__(self) -> str:
        return f"<LocalRunQueue of {self._records!r}>"

    def hand_over(self, run: RunRecord) -> bool:  # noqa: ARG002 - the RunQueue protocol
        """False: no other machine could play it."""
        return False

    def take_over(self, run_id: str, position: int) -> TakenOver | None:  # noqa: ARG002 - the RunQueue protocol
        """None: nothing is handed over."""
        return None

    def take_back(self, run_id: str) -> RunRecord | None:  # noqa: ARG002 - the RunQueue protocol
        """None, likewise."""
        return None

    def left(self, most: int = MOST_AT_ONCE) -> Sequence[Run]:
        """The runs that a starting server resumes."""
        recent = self._records.written_since(time.time() - WITHIN_SECONDS)
        return list(islice(filter(_is_readably_left, recent), most))

    def request_cancel(self, run_id: str) -> None:
        """Leaves a file beside the record. Raises RunNotWritten."""
        try:
            self._records.path_of(run_id, "cancel").touch()
        except OSError as error:
            raise RunNotWritten(
                f"the process that runs {run_id} cannot be asked to cancel it ({error.strerror or error}): free some"
                " space on the disk and cancel it again, or end that process"
            ) from error

    async def cancel_requested(self, run_id: str) -> None:
        """Looks twice a second for that file."""
        while not await run_in_thread(self.is_cancel_requested, run_id):  # noqa: ASYNC110 - it may be in another process
            await anyio.sleep(CANCEL_POLL_SECONDS)

    def is_cancel_requested(self, run_id: str) -> bool:
        """Whether there is that file."""
        return self._records.path_of(run_id, "cancel").exists()

    def drop_cancel_request(self, run_id: str) -> None:
        """Removes that file."""
        self._records.path_of(run_id, "cancel").unlink(missing_ok=True)


def _is_readably_left(run: Run) -> bool:
    try:
        return is_left(run)
    except OSError:  # nothing can be resumed from a record that cannot be read
        return False

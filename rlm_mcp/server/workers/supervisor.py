"""Keeps a number of workers running, and each tenant in one of them.

A worker that ends, that answers nonsense, or that does not answer for two seconds is killed and another process is
started in its place, which resumes the runs of the same tenants from their records. Killed is more than given up: a
process that was stopped can send nothing when it wakes.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio

from rlm_mcp.errors import RlmError
from rlm_mcp.server.workers.worker import StartWorker, Worker, WorkerFailed, WorkerStatus

PATIENCE = (1.5, 0.5)
"""Seconds. A worker that does not answer for 1.5 s is asked once more, in case this process slept, and then killed."""

END_SIGN_SECONDS = 0.2
"""Between a connection that breaks and the news that the process has ended."""

ASK_SECONDS = 0.25
"""Between two questions to a worker that answers. So much later than 2 s one that stands still is killed at most."""

START_SECONDS = 60.0
"""For the first answer of a worker. It imports the server, if it is the first one."""

WAIT_SECONDS = 20.0
"""A request waits so long for a worker that is being started."""

LOOK_SECONDS = 0.02
"""Between two looks whether a worker that refuses connections has been replaced."""

LEAST_PAUSE, MOST_PAUSE = 0.05, 60.0
"""Before a worker is started in the place of one that never answered; twice as long for each further one in a row.
After an upgrade of rlm-mcp under its server, none answers until that is restarted."""

END_SECONDS = 4.0
"""For workers to leave their runs, answer their calls and end, when the server ends."""

GIVEN_UP_SECONDS = sum(PATIENCE) + ASK_SECONDS + 1.0
"""For so long before its end a worker may have stood still, and not have noticed that a call was given up."""

FORGET_SECONDS = 60.0
"""A tenant without requests for this long, whose workspace is closed, may be placed anew."""

log = logging.getLogger(__name__)


class NoWorker(RlmError):
    """No worker could be started in time."""


class WorkerSilent(WorkerFailed):
    """A worker has not answered in time."""


@dataclass(slots=True, kw_only=True)
class _Place:
    """A place for a worker process, of which one follows another, and its tenants."""

    number: int
    worker: Worker | None = None
    """None while one is being started"""
    has_answered: bool = False
    is_ready: bool = False
    has_worker: anyio.Event = field(default_factory=anyio.Event)
    seen: dict[str, float] = field(default_factory=dict)
    """the tenants that were placed here, with the time of the last request of each"""
    open_requests: Counter[str] = field(default_factory=Counter)
    given_up: dict[str, float] = field(default_factory=dict)
    """the ids of calls that their clients gave up, and of runs that they cancelled, with the time"""

    def given_up_since(self, oldest: float) -> tuple[str, ...]:
        """The ids that were given up since then; the others are forgotten."""
        self.given_up = {call: at for call, at in self.given_up.items() if at >= oldest}
        return tuple(self.given_up)

    def forget_unused(self, open_tenants: Iterable[str], now: float) -> None:
        """Lets tenants be placed anew of which this worker has nothing any more."""
        kept = {*open_tenants, *self.open_requests}
        for tenant, seen in list(self.seen.items()):
            if tenant not in kept and now - seen > FORGET_SECONDS:
                del self.seen[tenant]


class Supervisor:
    """The workers of a server, and which of them has which tenant."""

    def __init__(
        self,
        start: StartWorker,
        count: int,
        *,
        tenants: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tenants` may have runs that an earlier server left: they are placed at once, and resumed."""
        self._start = start
        self._clock = clock
        self._places = [_Place(number=number) for number in range(1, count + 1)]
        self._is_ending = False
        for tenant in tenants:
            self._place_of(tenant)

    def __repr__(self) -> str:
        return f"<Supervisor of {len(self._places)} workers, {sum(len(each.seen) for each in self._places)} tenants>"

    def is_ready(self) -> bool:
        """Whether code can be run in a worker."""
        return any(place.is_ready for place in self._places)

    async def run(self) -> None:
        """Keeps the workers running until it is cancelled, and kills them then."""
        async with anyio.create_task_group() as tasks:
            for place in self._places:
                tasks.start_soon(self._keep, place)

    async def worker_of(self, tenant: str, *, after: Worker | None = None) -> Worker:
        """The worker that has the tenant; with `after`, which refuses connections, the next one. Raises NoWorker."""
        place = self._place_of(tenant)
        with anyio.move_on_after(WAIT_SECONDS):
            while not self._is_ending:
                if place.worker is not None and place.worker is not after:
                    return place.worker
                await (place.has_worker.wait() if place.worker is None else anyio.sleep(LOOK_SECONDS))
        raise NoWorker("the server is starting or restarting a worker: send the request again in a few seconds")

    @contextmanager
    def at_work(self, tenant: str) -> Iterator[None]:
        """Counts an open request of the tenant, who is not placed anew during it."""
        place = self._place_of(tenant)
        place.open_requests[tenant] += 1
        try:
            yield
        finally:
            place.open_requests[tenant] -= 1
            if not place.open_requests[tenant]:
                del place.open_requests[tenant]

    def note_given_up(self, tenant: str, ids: Iterable[str]) -> None:
        """Notes the ids of calls and runs that clients have just given up: the next worker hears of them, too."""
        now = self._clock()
        if noted := dict.fromkeys(ids, now):
            place = self._place_of(tenant)
            place.given_up_since(now - GIVEN_UP_SECONDS)
            place.given_up |= noted

    def announce_end(self) -> None:
        """Asks all workers to end: they leave their runs on record and answer their calls."""
        self._is_ending = True
        for place in self._places:
            if place.worker is not None:
                place.worker.terminate()

    async def wait_for_end(self) -> None:
        """Returns when all workers have ended, or after END_SECONDS."""
        with anyio.move_on_after(END_SECONDS):
            async with anyio.create_task_group() as tasks:
                for place in self._places:
                    if place.worker is not None:
                        tasks.start_soon(place.worker.ended)

    # --- placing --------------------------------------------------------------------------------------------------

    def _place_of(self, tenant: str) -> _Place:
        """The tenant's place; that with the fewest tenants if he is new."""
        place = next((each for each in self._places if tenant in each.seen), None)
        place = place or min(self._places, key=lambda each: (len(each.seen), each.number))
        place.seen[tenant] = self._clock()
        return place

    # --- keeping --------------------------------------------------------------------------------------------------

    async def _keep(self, place: _Place) -> None:
        """Starts one worker after the other."""
        failures = 0
        while not self._is_ending:
            # Until it has opened their workspaces, the next worker does not name the tenants that it has.
            place.seen = dict.fromkeys(place.seen, self._clock())
            try:
                given_up = place.given_up_since(self._clock() - GIVEN_UP_SECONDS)
                worker = await self._start(place.number, tuple(place.seen), given_up)
            except (OSError, EOFError) as error:  # EOFError: the fork server has ended, and is started again
                log.warning("worker %d could not be started (%s); it is tried again", place.number, error)
            else:
                if await self._keep_one(place, worker):
                    failures = 0
                    continue
            await anyio.sleep(pause_after(failures))
            failures += 1

    async def _keep_one(self, place: _Place, worker: Worker) -> bool:
        """Lets a worker serve until it fails; then it is dead. Returns whether it ever answered."""
        place.worker, place.has_answered = worker, False
        place.has_worker.set()
        why = "was stopped"
        try:
            why = await self._failure_of(place, worker)
        finally:
            place.worker, place.is_ready, place.has_worker = None, False, anyio.Event()
            await worker.close()
        if not self._is_ending:
            log.warning(
                "worker %d (process %d) %s; another takes its place, and the runs of its %d tenants go on there",
                place.number,
                worker.pid,
                why,
                len(place.seen),
            )
        return place.has_answered

    async def _failure_of(self, place: _Place, worker: Worker) -> str:
        """Returns when the worker has failed; how."""
        failures: list[str] = []

        async def end() -> None:
            failures.append(await worker.ended())
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            silence = await self._first_silence(place, worker)
            if not self._is_ending:  # else it is ending, and may be silent
                failures.append(silence)
                tasks.cancel_scope.cancel()
        return failures[0]

    async def _first_silence(self, place: _Place, worker: Worker) -> str:
        """Asks the worker again and again; returns when it does not answer, or not as a worker does."""
        while True:
            try:
                status = await self._status(worker, (START_SECONDS,) if not place.has_answered else PATIENCE)
            except WorkerSilent as error:
                return str(error)
            except WorkerFailed as error:
                await anyio.sleep(END_SIGN_SECONDS)  # it may just have ended, which says more
                return str(error)
            place.has_answered, place.is_ready = True, status.is_ready
            place.forget_unused(status.tenants, self._clock())
            await anyio.sleep(ASK_SECONDS)

    async def _status(self, worker: Worker, patience: tuple[float, ...]) -> WorkerStatus:
        """Asks the worker, as often as `patience` has seconds to wait. Raises WorkerSilent and WorkerFailed."""
        for seconds in patience:
            with anyio.move_on_after(seconds):
                return await worker.status()
        raise WorkerSilent(f"did not answer for {sum(patience):.0f} s")


def pause_after(failures: int) -> float:
    """Seconds until a worker is started again, after so many in a row that ended before they had answered."""
    return MOST_PAUSE if failures > 20 else min(MOST_PAUSE, LEAST_PAUSE * 2**failures)

"""Which worker has a tenant, and what happens to workers that fail; the workers are fakes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import anyio
import pytest

from rlm_mcp.server.workers.supervisor import (
    GIVEN_UP_SECONDS,
    LEAST_PAUSE,
    MOST_PAUSE,
    NoWorker,
    Supervisor,
    pause_after,
)
from rlm_mcp.server.workers.worker import Worker, WorkerFailed, WorkerStatus

pytestmark = pytest.mark.anyio


@dataclass(eq=False, slots=True)
class FakeWorker:
    """A worker that answers what it is told to, and ends when it is closed or told to."""

    number: int
    tenants: tuple[str, ...]
    given_up: tuple[str, ...]
    failure: str = ""
    is_silent: bool = False
    end: anyio.Event = field(default_factory=anyio.Event)
    is_closed: bool = False
    was_terminated: bool = False

    pid = 0

    async def status(self) -> WorkerStatus:
        if self.is_silent:
            await anyio.sleep_forever()
        if self.failure:
            raise WorkerFailed(self.failure)
        return WorkerStatus(is_ready=True, tenants=frozenset())

    async def request(self, *_: Any) -> Any:
        raise NotImplementedError

    async def ended(self) -> str:
        await self.end.wait()
        return "was ended by SIGSEGV"

    def terminate(self) -> None:
        self.was_terminated = True
        self.end.set()

    async def close(self) -> None:
        self.is_closed = True
        self.end.set()


@dataclass(slots=True)
class Starting:
    """Starts fake workers; the first `refused` starts fail, and the first `silent` workers never answer."""

    refused: int = 0
    error: Exception = field(default_factory=lambda: OSError("no process is left"))
    silent: int = 0
    started: list[FakeWorker] = field(default_factory=list)

    async def __call__(self, number: int, tenants: tuple[str, ...], given_up: tuple[str, ...]) -> Worker:
        if self.refused:
            self.refused -= 1
            raise self.error
        worker = FakeWorker(number, tenants, given_up, is_silent=len(self.started) < self.silent)
        self.started.append(worker)
        return worker

    async def wait_for(self, count: int) -> FakeWorker:
        """The worker that was started as the `count`-th."""
        with anyio.fail_after(30):
            while len(self.started) < count:  # noqa: ASYNC110 - the supervisor has no reason to notify
                await anyio.sleep(0.01)
        return self.started[count - 1]


@asynccontextmanager
async def supervised(start: Starting, count: int = 2, tenants: Sequence[str] = ()) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(start, count, tenants=tenants)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        yield supervisor
        tasks.cancel_scope.cancel()


async def test_a_new_tenant_goes_to_the_worker_with_the_fewest_and_stays_there() -> None:
    start = Starting()
    async with supervised(start) as supervisor:
        found = {name: await supervisor.worker_of(name) for name in "abc"}
        again = {name: await supervisor.worker_of(name) for name in "cba"}
    first, second = start.started
    assert found == again == {"a": first, "b": second, "c": first}


@pytest.mark.parametrize("why", ["answers with 3 bytes that are no status", ""])
async def test_a_worker_that_fails_is_killed_and_the_next_one_has_its_tenants(
    why: str, caplog: pytest.LogCaptureFixture
) -> None:
    start = Starting()
    async with supervised(start, 1) as supervisor:
        first = await supervisor.worker_of("ann")
        assert isinstance(first, FakeWorker)
        if why:
            first.failure = why
        else:
            first.end.set()
        second = await start.wait_for(2)
        assert await supervisor.worker_of("ann", after=first) is second
        assert first.is_closed
    assert second.tenants == ("ann",)
    assert (why or "was ended by SIGSEGV") in caplog.text


@pytest.mark.parametrize("error", [OSError("no process is left"), EOFError()])
async def test_workers_that_cannot_be_started_are_tried_again(error: Exception) -> None:
    start = Starting(refused=3, error=error)
    async with supervised(start, 1) as supervisor:
        with anyio.fail_after(30):
            assert await supervisor.worker_of("ann") is await start.wait_for(1)


def test_workers_that_never_answer_are_started_ever_more_seldom() -> None:
    pauses = [pause_after(failures) for failures in range(2_000)]
    assert (pauses[0], pauses[-1]) == (LEAST_PAUSE, MOST_PAUSE)
    assert pauses == sorted(pauses)
    assert sum(1 for until in accumulate(pauses) if until < 3_600) < 75  # each is a line in the log


async def test_a_request_that_no_worker_can_take_is_told_to_come_back() -> None:
    start = Starting(refused=1_000)  # a full disk, or no process is left
    async with supervised(start, 2) as supervisor:
        supervisor.announce_end()
        with (
            anyio.fail_after(30),
            pytest.raises(NoWorker, match="send the request again in a few seconds"),
        ):
            await supervisor.worker_of("ann")


async def test_all_workers_that_end_at_once_are_replaced_and_each_gets_its_tenants_back() -> None:
    start = Starting()
    names = [f"tenant{number}" for number in range(32)]
    async with supervised(start, 16) as supervisor:  # more than any machine of a test has cores
        before = {name: await supervisor.worker_of(name) for name in names}
        for worker in list(start.started):
            worker.end.set()
        with anyio.fail_after(30):
            after = {name: await supervisor.worker_of(name, after=before[name]) for name in names}
    assert len(start.started) == 32
    assert all(worker.is_closed for worker in start.started[:16])
    for name in names:
        first, second = before[name], after[name]
        assert isinstance(first, FakeWorker)
        assert isinstance(second, FakeWorker)
        assert second.number == first.number
        assert name in second.tenants


async def test_runs_that_an_earlier_server_left_are_resumed_by_the_workers_of_their_tenants() -> None:
    start = Starting()
    async with supervised(start, tenants=["ann", "bob", "cid"]):
        await start.wait_for(2)
    assert {worker.number: worker.tenants for worker in start.started} == {1: ("ann", "cid"), 2: ("bob",)}


async def test_the_next_worker_hears_which_calls_were_given_up_shortly_before() -> None:
    now = 0.0
    start = Starting()
    supervisor = Supervisor(start, 2, clock=lambda: now)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        first, second = [await supervisor.worker_of(tenant) for tenant in ("ann", "bob")]
        supervisor.note_given_up("ann", ["long ago"])
        now = GIVEN_UP_SECONDS + 1
        supervisor.note_given_up("ann", ["just now"])
        supervisor.note_given_up("bob", [])
        for number, worker in ((3, first), (4, second)):
            assert isinstance(worker, FakeWorker)
            worker.end.set()
            await start.wait_for(number)
        tasks.cancel_scope.cancel()
    assert [worker.given_up for worker in start.started] == [(), (), ("just now",), ()]


async def test_at_the_end_workers_are_asked_to_end_and_none_is_started_again() -> None:
    start = Starting()
    async with supervised(start) as supervisor:
        await supervisor.worker_of("ann")
        await start.wait_for(2)
        supervisor.announce_end()
        with anyio.fail_after(30):
            await supervisor.wait_for_end()
            while not all(worker.is_closed for worker in start.started):  # noqa: ASYNC110 - see above
                await anyio.sleep(0.01)
    assert [worker.was_terminated for worker in start.started] == [True, True]


async def test_when_nothing_runs_any_more_nothing_is_left_open() -> None:
    start = Starting()
    async with supervised(start):
        await start.wait_for(2)
    assert all(worker.is_closed for worker in start.started)


async def test_a_tenant_without_a_workspace_is_placed_anew_after_a_while() -> None:
    now = 0.0
    start = Starting()
    supervisor = Supervisor(start, 2, clock=lambda: now)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        for name in ("ann", "bob"):
            await supervisor.worker_of(name)
        with supervisor.at_work("bob"):
            now = 3_600.0
            with anyio.fail_after(30):
                while repr(supervisor) != "<Supervisor of 2 workers, 1 tenants>":  # noqa: ASYNC110 - see above
                    await anyio.sleep(0.01)
            assert await supervisor.worker_of("cid") is start.started[0]
        tasks.cancel_scope.cancel()


async def test_the_next_worker_keeps_a_tenant_whose_workspace_it_has_not_opened_yet() -> None:
    now = 0.0
    start = Starting()
    supervisor = Supervisor(start, 2, clock=lambda: now)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        first = await supervisor.worker_of("ann")
        now = 3_600.0
        assert isinstance(first, FakeWorker)
        first.end.set()
        third = await start.wait_for(3)
        await supervisor.worker_of("bob")
        await anyio.wait_all_tasks_blocked()
        assert await supervisor.worker_of("ann", after=first) is third
        tasks.cancel_scope.cancel()

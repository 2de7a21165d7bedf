"""Calls from other threads, without a sandbox: when they start, how many run at once, what they leave behind."""

import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.repl.call_queue import CallQueue

pytestmark = pytest.mark.anyio


def call_soon(function: Callable[[], None]) -> None:
    """Calls it at once: these tests are on the event loop already."""
    function()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def test_calls_begin_in_their_order_and_no_more_than_allowed_at_once() -> None:
    begun: list[int] = []
    may_end = anyio.Event()

    async def call(number: int) -> int:
        begun.append(number)
        await may_end.wait()
        return number * 2

    async with anyio.create_task_group() as tasks:
        queue = CallQueue(tasks, call_soon, limit=3)
        futures: list[Future[Any]] = [Future() for _ in range(10)]
        for number, future in enumerate(futures):
            queue.add((lambda n=number: call(n), future))  # type: ignore[misc] # a default value binds it
        await anyio.wait_all_tasks_blocked()
        assert begun == [0, 1, 2]
        may_end.set()
        await anyio.wait_all_tasks_blocked()
    assert begun == list(range(10))
    assert [future.result(0) for future in futures] == [number * 2 for number in range(10)]


async def test_a_cancelled_call_ends_and_one_that_waits_never_begins() -> None:
    begun: list[str] = []

    async def call(name: str) -> None:
        begun.append(name)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        queue = CallQueue(tasks, call_soon, limit=1)
        first: Future[Any] = Future()
        second: Future[Any] = Future()
        queue.add((lambda: call("first"), first))
        queue.add((lambda: call("second"), second))
        await anyio.wait_all_tasks_blocked()
        second.cancel()
        first.cancel()
    assert begun == ["first"]


async def test_a_call_that_failed_is_gone_with_its_future_without_a_collector(no_collector: None) -> None:
    async def call() -> None:
        await anyio.lowlevel.checkpoint()
        raise ValueError("no")

    async with anyio.create_task_group() as tasks:
        future: Future[Any] = Future()
        CallQueue(tasks, call_soon).add((call, future))
    with pytest.raises(ValueError, match="no"):
        future.result(0)
    trace = weakref.ref(future)
    del future
    assert trace() is None


async def test_calls_that_are_cancelled_leave_the_queue_at_once() -> None:
    async with anyio.create_task_group() as tasks:
        queue = CallQueue(tasks, call_soon, limit=1)
        busy: Future[Any] = Future()
        queue.add((anyio.sleep_forever, busy))
        await anyio.wait_all_tasks_blocked()
        waiting: list[Future[Any]] = [Future() for _ in range(100)]
        for future in waiting:
            queue.add((lambda: None, future))
        for future in waiting[1:]:
            future.cancel()
        late: Future[Any] = Future()
        late.cancel()
        queue.add((lambda: None, late))
        assert queue.waiting_count == 1
        busy.cancel()
    assert waiting[0].done()


async def test_a_call_that_would_end_the_process_is_an_error_of_that_call_alone() -> None:
    def leave() -> None:
        raise SystemExit(3)

    async with anyio.create_task_group() as tasks:
        queue = CallQueue(tasks, call_soon)
        futures: list[Future[Any]] = [Future(), Future()]
        queue.add((leave, futures[0]))
        queue.add((lambda: "next", futures[1]))
    assert isinstance(futures[0].exception(0), SystemExit)
    assert futures[1].result(0) == "next"


async def test_a_call_that_raises_a_cancellation_of_its_own_leaves_the_worker_to_the_next() -> None:
    async def give_up() -> None:
        raise anyio.get_cancelled_exc_class()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            queue = CallQueue(tasks, call_soon, limit=1)
            futures: list[Future[Any]] = [Future(), Future()]
            queue.add((give_up, futures[0]))
            queue.add((lambda: "next", futures[1]))
    assert futures[0].cancelled()
    assert futures[1].result(0) == "next"

"""The guest's event loop: asyncio without sockets or threads, woken by host calls."""

import threading
from collections.abc import Callable, Iterator

import pytest

from wasm_runtime import Limits, Runtime, Session

TOGETHER = 16


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    barrier = threading.Barrier(TOGETHER, timeout=60)

    def meet(value: object) -> object:
        barrier.wait()
        return value

    def fail() -> None:
        raise RuntimeError("a secret of the host")

    calls: dict[str, Callable[..., object]] = {"meet": meet, "double": lambda n: 2 * n, "fail": fail}
    with Runtime() as runtime, runtime.session(limits=Limits(cell_seconds=20), calls=calls) as session:
        session.exec("import asyncio, host")
        yield session


def value(session: Session, code: str) -> str | None:
    result = session.exec(code)
    assert result.error is None, result.error.traceback
    return result.value


def test_a_cell_may_await_at_its_top_level(session: Session) -> None:
    assert value(session, "x = await asyncio.sleep(0, 'slept')\nx") == "'slept'"


def test_the_last_expression_of_a_cell_may_await(session: Session) -> None:
    assert value(session, "await host.call_async('double', 21)") == "42"


def test_gathered_host_calls_are_in_flight_together(session: Session) -> None:
    code = f"await asyncio.gather(*[host.call_async('meet', n) for n in range({TOGETHER})])"
    assert value(session, code) == str(list(range(TOGETHER)))


def test_a_task_made_in_one_cell_ends_in_the_next(session: Session) -> None:
    session.exec("task = asyncio.create_task(host.call_async('double', 4)); await asyncio.sleep(0)")
    assert value(session, "await task") == "8"


def test_asyncio_run_works_without_and_inside_a_running_loop(session: Session) -> None:
    code = "async def main(): return await host.call_async('double', 5)\n"
    assert value(session, code + "asyncio.run(main())") == "10"
    assert value(session, code + "await asyncio.sleep(0)\nasyncio.run(main())") == "10"


def test_a_timeout_cancels_what_takes_too_long(session: Session) -> None:
    code = """
try:
    async with asyncio.timeout(0.01):
        await asyncio.sleep(60)
except TimeoutError:
    said = 'timeout'
said
"""
    assert value(session, code) == "'timeout'"


def test_task_groups_queues_and_semaphores_work(session: Session) -> None:
    code = """
limit, queue, done = asyncio.Semaphore(2), asyncio.Queue(), []
async def worker():
    while (n := await queue.get()) is not None:
        async with limit:
            done.append(await host.call_async('double', n))
async with asyncio.TaskGroup() as group:
    for _ in range(3): group.create_task(worker())
    for n in range(5): await queue.put(n)
    for _ in range(3): await queue.put(None)
sorted(done)
"""
    assert value(session, code) == "[0, 2, 4, 6, 8]"


def test_a_failed_host_call_raises_a_general_text_in_the_coroutine(session: Session) -> None:
    code = """
try:
    await host.call_async('fail')
except RuntimeError as error:
    said = str(error)
said
"""
    said = value(session, code)
    assert said is not None
    assert "secret" not in said
    assert "failed" in said


def test_blocking_functions_given_to_a_thread_run_in_place(session: Session) -> None:
    assert value(session, "await asyncio.to_thread(double, 8)") == "16"


def test_waiting_for_what_can_never_happen_is_an_error_and_not_a_hang(session: Session) -> None:
    error = session.exec("await asyncio.get_running_loop().create_future()").error
    assert error is not None
    assert (error.type, "never happen" in error.message) == ("RuntimeError", True)
    assert value(session, "await asyncio.sleep(0, 1)") == "1"


def test_an_exception_cancels_the_tasks_that_its_cell_left_running(session: Session) -> None:
    code = """
ended = []
async def left():
    try:
        await asyncio.sleep(60)
    finally:
        ended.append(True)
task = asyncio.create_task(left())
await asyncio.sleep(0)
raise ValueError('stop')
"""
    error = session.exec(code).error
    assert error is not None
    assert error.type == "ValueError"
    assert value(session, "ended, task.cancelled()") == "([True], True)"

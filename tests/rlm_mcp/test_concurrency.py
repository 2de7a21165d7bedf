import asyncio
import signal
import threading
from collections.abc import Callable

import anyio
import pytest

from rlm_mcp.concurrency import (
    LONG_CHARS,
    background_task,
    background_thread,
    on_stop_signal,
    run_in_thread,
    run_off_loop,
)

pytestmark = pytest.mark.anyio


async def test_the_work_is_cancelled_when_the_block_is_over() -> None:
    begun = anyio.Event()
    ended = []

    async def work(name: str) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    with anyio.fail_after(60):
        async with background_task(work, "heartbeat"):
            await begun.wait()
    assert ended == ["heartbeat"]


async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    with anyio.fail_after(60), pytest.raises(KeyError, match="gone"):
        async with background_task(anyio.sleep_forever):
            raise KeyError("gone")


class LoopWithoutSignals(asyncio.SelectorEventLoop):
    """An event loop that cannot handle signals, like those of Windows."""

    def add_signal_handler(self, *_: object) -> None:
        raise NotImplementedError

    def remove_signal_handler(self, _: int) -> bool:
        raise NotImplementedError


@pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, LoopWithoutSignals])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_calls_the_action_and_ends_nothing(
    loop: Callable[[], asyncio.AbstractEventLoop], number: signal.Signals
) -> None:
    async def stopped() -> None:
        event = asyncio.Event()
        with on_stop_signal(event.set):
            signal.raise_signal(number)
            await asyncio.wait_for(event.wait(), 5)

    before = signal.getsignal(number)
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(stopped())
    assert signal.getsignal(number) is before


def test_a_thread_of_a_block_ends_with_it() -> None:
    ended = []
    with background_thread("waits", lambda ending: ended.append(ending.wait(60))):
        assert ended == []
    assert ended == [True]


async def test_a_long_text_is_read_on_another_thread_and_a_short_one_at_once() -> None:
    here = threading.get_ident()
    assert await run_off_loop(LONG_CHARS - 1, threading.get_ident) == here
    assert await run_off_loop(LONG_CHARS, threading.get_ident) != here


async def test_long_texts_of_one_do_not_take_the_threads_of_others() -> None:
    go = threading.Event()
    async with anyio.create_task_group() as readers:
        for _ in range(100):
            readers.start_soon(run_off_loop, LONG_CHARS, go.wait)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(60):
            assert await run_in_thread(lambda: "another call") == "another call"
        go.set()

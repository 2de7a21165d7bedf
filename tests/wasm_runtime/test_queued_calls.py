"""Calls that wait for a thread: their order, how many are made at once, and what cancelling leaves behind."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial

from wasm_runtime.queued_calls import QueuedCalls


class LaterThreads(Executor):
    """Keeps what is submitted until the test runs it."""

    def __init__(self) -> None:
        self.submitted: list[Callable[..., object]] = []

    def submit(self, fn: Callable[..., object], /, *_: object, **__: object) -> Future[object]:  # type: ignore[override] # the executor protocol has only this much here
        self.submitted.append(fn)
        return Future()

    def run_all(self) -> None:
        while self.submitted:
            self.submitted.pop(0)()


def test_calls_that_are_cancelled_leave_the_queue_at_once_and_the_others_keep_their_order() -> None:
    threads, made = LaterThreads(), list[int]()
    queue = QueuedCalls(lambda: threads, at_once=2)
    futures: list[Future[object]] = [Future() for _ in range(100)]
    queue.add({future: partial(made.append, number) for number, future in enumerate(futures)})
    for future in futures[1:98]:
        future.cancel()
    late: Future[object] = Future()
    late.cancel()
    queue.add({late: partial(made.append, 100)})
    assert (queue.waiting_count, len(threads.submitted)) == (3, 2)
    threads.run_all()
    assert (made, queue.waiting_count) == ([0, 98, 99], 0)
    queue.add({Future(): partial(made.append, 101)})
    threads.run_all()
    assert made[-1] == 101


def test_calls_that_are_forgotten_are_not_made() -> None:
    threads, made = LaterThreads(), list[int]()
    queue = QueuedCalls(lambda: threads, at_once=2)
    futures: list[Future[object]] = [Future() for _ in range(10)]
    queue.add({future: partial(made.append, number) for number, future in enumerate(futures)})
    queue.forget([*futures[1:9], Future()])
    assert queue.waiting_count == 2
    threads.run_all()
    assert made == [0, 9]

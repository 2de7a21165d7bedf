"""Futures of host calls: what cancels what, and that an answer that was fetched is not kept."""

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from wasm_runtime import Runtime, Starts
from wasm_runtime.pending_calls import PendingCalls, finished_future, flatten_future


class Answer(list[object]):
    """A list that can be referred to weakly."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_answer_that_was_fetched_is_freed_without_the_garbage_collector(depth: int) -> None:
    calls = PendingCalls()
    answer = Answer()
    seen = weakref.ref(answer)
    outer: Future[object] = Future()
    ticket = calls.add("ask", flatten_future(outer))
    inner = finished_future(answer)
    for _ in range(depth):
        inner = finished_future(inner)
    outer.set_result(inner)
    assert calls.wait({ticket}, everything=True, seconds=5) == {ticket}
    assert calls.collect(ticket)[1].result() is answer
    del answer, outer, inner
    assert seen() is None


def test_cancelling_a_flattened_future_cancels_what_it_waits_for_now() -> None:
    outer: Future[object] = Future()
    assert flatten_future(outer).cancel()
    assert outer.cancelled()
    inner: Future[object] = Future()
    assert flatten_future(finished_future(inner)).cancel()
    assert inner.cancelled()


def test_a_future_that_comes_after_the_cancellation_is_cancelled_too() -> None:
    outer: Future[object] = Future()
    outer.set_running_or_notify_cancel()
    inner: Future[object] = Future()
    flat = flatten_future(outer)
    assert flat.cancel()
    outer.set_result(inner)
    assert inner.cancelled()
    assert flat.cancelled()


def test_an_interrupted_cell_leaves_none_of_its_calls_and_all_of_earlier_ones() -> None:
    asked: list[Future[object]] = []

    def ask() -> Future[object]:
        asked.append(Future())
        return asked[-1]

    with Runtime() as runtime, runtime.session(calls={"ask": Starts(ask)}) as session:
        session.exec("import host; kept = host.submit('ask')")
        session.exec("host.submit('ask'); raise KeyboardInterrupt")
        assert [future.cancelled() for future in asked] == [False, True]
        asked[0].set_result("answer")
        assert session.exec("host.wait([kept])").value == "['answer']"

"""Futures of host calls: what cancels what, and that an answer that was fetched is not kept."""

import gc
import logging
import weakref
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from wasm_runtime import Runtime, Starts
from wasm_runtime.errors import CallRefused
from wasm_runtime.pending_calls import CallOutcome, PendingCalls, copy_outcome, finished_future


class Answer(list[object]):
    """A list that can be referred to weakly."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_an_answer_that_was_fetched_is_freed_without_the_garbage_collector() -> None:
    calls = PendingCalls()
    answer = Answer()
    seen = weakref.ref(answer)
    source: Future[object] = Future()
    result: Future[object] = Future()
    ticket = calls.add("ask", result)
    copy_outcome(source, result)
    source.set_result(answer)
    del source, result
    assert calls.wait({ticket}, everything=True, seconds=5) == {ticket}
    assert calls.collect(ticket) == ("ask", CallOutcome(answer))
    del answer
    assert seen() is None


@pytest.mark.parametrize("error", [None, CallRefused("no"), OSError("no")])
def test_an_answer_that_nobody_fetches_is_at_most_two_objects_for_the_garbage_collector(
    error: Exception | None,
) -> None:
    calls = PendingCalls()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(1_000):
        future: Future[object] = Future()
        calls.add("ask", future)
        if error is None:
            future.set_result("x")
        else:
            future.set_exception(error)
    gc.collect()
    assert len(gc.get_objects()) - before < 2_500


@pytest.mark.parametrize("arguments", ["[1]", "[]"])
def test_calls_that_fail_leave_no_cyclic_garbage(arguments: str) -> None:
    def refuse(_: object) -> None:
        raise CallRefused("no") from OSError("nowhere")

    with Runtime() as runtime, runtime.session(calls={"refuse": refuse}) as session:
        ask = f"import host; host.wait(host.submit_all('refuse', [({arguments}, {{}})] * 100))"
        session.exec(ask)
        gc.collect()
        session.exec(ask)
        assert gc.collect() < 100


def test_answers_that_come_after_their_cell_take_no_more_memory_than_those_that_are_kept() -> None:
    asked: list[Future[object]] = []

    def ask() -> Future[object]:
        asked.append(Future())
        return asked[-1]

    with Runtime() as runtime, runtime.session(calls={"ask": Starts(ask)}) as session:
        session.exec("import host; kept = host.submit_all('ask', [((), {})] * 8)")
        before = runtime.budget.available()
        for number, future in enumerate(asked):
            future.set_result(f"{number}" * (6 << 20))
        assert before - runtime.budget.available() <= 20 << 20
        done = session.exec("[str(answer)[:60] for answer in host.wait(kept)]")
        assert done.value is not None
        assert done.value.count("the answers of earlier cells that were not fetched took over") == 6
        assert "'7777" in done.value


def test_a_cell_that_ends_drops_the_oldest_answers_that_nobody_has_fetched() -> None:
    answers = [f"{number}" * (6 << 20) for number in range(4)]
    with (
        Runtime() as runtime,
        runtime.session(calls={"ask": Starts(lambda: finished_future(answers.pop()))}) as session,
    ):
        session.exec("import host; kept = host.submit_all('ask', [((), {})] * 4)")
        done = session.exec("[str(answer)[:60] for answer in host.wait(kept)]")
        assert done.value is not None
        assert done.value.count("the answers of earlier cells that were not fetched took over") == 2
        assert "'1111" in done.value


def test_failures_of_one_kind_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    logger, calls = logging.getLogger("wasm_runtime"), PendingCalls()
    caplog.set_level(logging.WARNING, logger=logger.name)  # whatever other tests of this process did to logging
    logger.addHandler(caplog.handler)
    for error in [OSError("one"), OSError("two"), ValueError("three")]:
        future: Future[object] = Future()
        future.set_exception(error)
        assert calls.outcome_of("ask", future) == CallOutcome(None, "the host function ask failed")
    logger.removeHandler(caplog.handler)
    told = dict.fromkeys(str(record.exc_info[1]) for record in caplog.records if record.exc_info)
    assert list(told) == ["one", "three"]


def test_cancelling_a_future_cancels_what_it_is_copied_from() -> None:
    source: Future[object] = Future()
    result: Future[object] = Future()
    copy_outcome(source, result)
    assert result.cancel()
    assert source.cancelled()


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

"""Host calls in flight: what cancels what, and what they leave to the garbage collector."""

import gc
import json
import logging
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, Future

import pytest

from wasm_runtime import Runtime, Starts
from wasm_runtime.channel import Channel
from wasm_runtime.errors import CallRefused
from wasm_runtime.pending_calls import CallAnswer, PendingCalls, finished_future


class Answer(list[object]):
    """A list that can be referred to weakly."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_an_answer_that_was_fetched_is_freed_without_the_garbage_collector() -> None:
    calls, ticket = start_one()
    answer = Answer("x")
    seen = weakref.ref(answer)
    source: Future[object] = Future()
    calls.begin(ticket, "ask", source)
    source.set_result(answer)
    del source, answer
    assert seen() is None
    assert calls.wait({ticket}, everything=True, seconds=5) == {ticket}
    assert calls.collect(ticket) == b'{"ok":["x"]}'


def start_one() -> tuple[PendingCalls, int]:
    calls = PendingCalls()
    return calls, calls.add()


@pytest.mark.parametrize("outcome", ["x", {"an": ["object"]}, CallRefused("no"), OSError("no")])
def test_an_answer_that_nobody_fetches_is_no_object_for_the_garbage_collector(outcome: object) -> None:
    calls = PendingCalls()

    def ask() -> None:
        future: Future[object] = Future()
        calls.begin(calls.add(), "ask", future)
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    ask()  # the first failure of a process that is logged makes objects that stay
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(1_000):
        ask()
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert len(calls) == 1_001


def test_a_call_that_has_not_begun_is_no_object_for_the_garbage_collector() -> None:
    asked: list[Future[object]] = []

    def ask(*_: object, **__: object) -> Future[object]:
        asked.append(Future())
        return asked[-1]

    threads = BusyThreads()
    channel = Channel({"ask": Starts(ask, at_once=2), "read": lambda *_: None}, lambda: threads)
    gc.collect()
    before = len(gc.get_objects())
    for name in ("ask", "read"):
        calls = [[[{"number": number}], {"named": [number]}] for number in range(5_000)]
        channel.write(memoryview(json.dumps({"do": "submit", "name": name, "calls": calls}).encode()))
        del calls
    gc.collect()
    assert (len(asked), channel.newest_ticket) == (2, 10_000)
    assert len(gc.get_objects()) - before < 500


class BusyThreads(Executor):
    """Threads that never come to what is submitted."""

    def submit(self, *_: object, **__: object) -> Future[object]:  # type: ignore[override] # the executor protocol has only this much here
        return Future()


def test_who_watches_a_call_is_told_its_outcome_and_whether_it_was_cancelled() -> None:
    calls = PendingCalls()
    answers = [CallAnswer() for _ in range(3)]
    tickets = [calls.add() for _ in answers]
    for ticket, answer in zip(tickets, answers, strict=True):
        calls.watch(ticket, answer)
    for ticket in tickets[:2]:
        calls.begin(ticket, "ask", Future())
    calls.finish(tickets[0], "ask", "said")
    calls.cancel(tickets)
    assert [(answer.kept, answer.is_settled) for answer in answers] == [
        ("said", True),
        (b'{"refused":"the call was cancelled"}', False),
        (b'{"refused":"the call was cancelled"}', False),
    ]


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
        assert calls.outcome_of("ask", future) == b'{"refused":"the host function ask failed"}'
    logger.removeHandler(caplog.handler)
    told = dict.fromkeys(str(record.exc_info[1]) for record in caplog.records if record.exc_info)
    assert list(told) == ["one", "three"]


def test_cancelling_a_call_cancels_its_future_also_if_that_comes_later() -> None:
    calls = PendingCalls()
    early, late = calls.add(), calls.add()
    futures: list[Future[object]] = [Future(), Future()]
    calls.begin(early, "ask", futures[0])
    calls.cancel([late, early])
    calls.begin(late, "ask", futures[1])
    assert [future.cancelled() for future in futures] == [True, True]
    assert len(calls) == 0


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

"""Calls that a guest has submitted: which are begun at once, which wait, and what ends them."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from tests.wasm_runtime.test_channel import Memory, NoThreads, RunAtOnce, ask, call, make_channel, submit, wait
from wasm_runtime.channel import Channel
from wasm_runtime.submitted_calls import Starts


def test_a_function_that_only_starts_something_takes_no_thread() -> None:
    def no_threads() -> Executor:
        raise AssertionError("a thread was asked for")

    answers: list[Future[object]] = [Future(), Future()]
    started = iter(answers)
    channel = Channel({"later": Starts(lambda: next(started))}, no_threads)
    assert ask(channel, {"do": "submit", "name": "later", "calls": [[[], {}], [[], {}]]}) == {"ok": [1, 2]}
    answers[1].set_result("b")
    answers[0].set_result("a")
    assert ask(channel, wait(1, 2)) == {"ok": [[1, {"ok": "a"}], [2, {"ok": "b"}]]}


def test_submitted_functions_may_return_futures_too() -> None:
    answer: Future[object] = Future()
    channel = make_channel(later=lambda: answer)
    ask(channel, submit("later"))
    assert ask(channel, wait(1, seconds=0)) == {"ok": []}
    answer.set_result("now")
    assert ask(channel, wait(1)) == {"ok": [[1, {"ok": "now"}]]}


def test_cancelling_a_ticket_cancels_the_future_behind_it() -> None:
    answer: Future[object] = Future()
    channel = make_channel(later=lambda: answer)
    ask(channel, submit("later"))
    assert ask(channel, {"do": "cancel", "tickets": [1, 99]}) == {"ok": None}
    assert answer.cancelled()
    assert ask(channel, wait(1)) == {"refused": "ticket 1 is not in flight"}


def test_a_future_that_somebody_else_cancelled_says_so() -> None:
    answer: Future[object] = Future()
    answer.cancel()
    assert ask(make_channel(later=lambda: answer), call("later")) == {"refused": "the call was cancelled"}


def submit_many(name: str, count: int, *more: object) -> dict[str, object]:
    return {"do": "submit", "name": name, "calls": [[[number, *more], {}] for number in range(count)]}


class Asked:
    """A function that only starts something, and what it has started."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.answers: list[Future[object]] = []

    def __call__(self, number: int, *_: object) -> Future[object]:
        self.numbers.append(number)
        self.answers.append(Future())
        return self.answers[-1]


@pytest.mark.parametrize("more", [(), ("x" * 300_000,)], ids=["short", "long"])
def test_no_more_calls_are_started_at_once_than_their_function_says_and_the_others_follow(more: tuple[str]) -> None:
    asked = Asked()
    channel = Channel({"ask": Starts(asked, at_once=2)}, RunAtOnce)
    assert ask(channel, submit_many("ask", 5, *more)) == {"ok": [1, 2, 3, 4, 5]}
    assert asked.numbers == [0, 1]
    asked.answers[1].set_result("b")
    assert asked.numbers == [0, 1, 2]
    assert ask(channel, {"do": "cancel", "tickets": [1, 2, 4]}) == {"ok": None}
    assert asked.answers[0].cancelled()
    assert asked.numbers == [0, 1, 2, 4]
    asked.answers[3].set_result("e")
    asked.answers[2].set_result("c")
    assert ask(channel, wait(3, 5)) == {"ok": [[3, {"ok": "c"}], [5, {"ok": "e"}]]}
    assert ask(channel, submit_many("ask", 1)) == {"ok": [6]}
    assert asked.numbers == [0, 1, 2, 4, 0]


@pytest.mark.parametrize("wraps", [lambda one: Starts(one, at_once=1), lambda one: one], ids=["starts", "on a thread"])
def test_a_batch_that_is_nested_too_deeply_leaves_no_call_in_flight(
    wraps: Callable[[Callable[..., object]], Callable[..., object]],
) -> None:
    memory, asked = Memory(10_000_000), Asked()
    channel = Channel({"ask": wraps(asked)}, NoThreads, memory=memory)
    refused = 0
    for depth in (*range(100, 1_100, 10), 10_000, 60_000):  # how deep is too deep differs between Pythons
        calls = f"[[[1],{{}}],[[2],{{}}],[[{'[' * depth}{']' * depth}],{{}}]]"
        answer = ask(channel, f'{{"do":"submit","name":"ask","calls":{calls}}}')
        if "ok" in answer:
            assert isinstance(answer["ok"], list)
            ask(channel, {"do": "cancel", "tickets": answer["ok"]})
        else:
            assert "RecursionError" in str(answer)
            refused += 1
        assert (channel.newest_ticket, memory.reserved) == (0, 0)
    assert refused


def test_thousands_of_calls_that_end_at_once_follow_each_other() -> None:
    asked = Asked()
    channel = Channel({"ask": Starts(lambda n: asked(n) if n == 0 else None, at_once=1)}, RunAtOnce)
    ask(channel, submit_many("ask", 5_000))
    asked.answers[0].set_result(None)
    answers = ask(channel, wait(*range(1, 5_001)))["ok"]
    assert answers == [[ticket, {"ok": None}] for ticket in range(1, 5_001)]


class Leave(BaseException):
    """No Exception, like SystemExit."""


@pytest.mark.parametrize("error", [SystemExit, Leave, KeyboardInterrupt])
def test_a_submitted_function_that_raises_no_exception_is_a_failure_and_the_next_is_called(
    error: type[BaseException],
) -> None:
    def leave() -> None:
        raise error

    with ThreadPoolExecutor(1) as threads:
        channel = Channel({"leave": leave, "echo": lambda value: value}, lambda: threads)
        assert ask(channel, submit("leave")) == {"ok": [1]}
        assert ask(channel, submit("echo", "a")) == {"ok": [2]}
        failed = {"refused": "the host function leave failed"}
        assert ask(channel, wait(1, 2, seconds=10)) == {"ok": [[1, failed], [2, {"ok": "a"}]]}


# interruption


def test_many_calls_are_submitted_until_the_time_of_the_cell_is_over() -> None:
    made: list[int] = []

    def start(number: int) -> Future[object]:
        made.append(number)
        if number == 200:
            channel.interrupt()
        return Future()

    channel = Channel({"start": Starts(start)}, RunAtOnce)
    message = {"do": "submit", "name": "start", "calls": [[[number], {}] for number in range(10_000)]}
    assert ask(channel, message) == {"interrupted": True}
    assert len(made) == 256
    assert channel.newest_ticket == 0


@pytest.mark.parametrize("wraps", [Starts, lambda function: function], ids=["starts", "called on a thread"])
def test_a_call_that_is_no_call_leaves_none_of_the_others_in_flight(
    wraps: Callable[[Callable[[], object]], Callable[..., object]],
) -> None:
    memory = Memory()
    channel = Channel({"never": wraps(Future)}, RunAtOnce, memory=memory)
    answer = ask(channel, {"do": "submit", "name": "never", "calls": [[[], {}], [[], {}], "no call"]})
    assert answer == {"refused": "a call to submit is a list of its arguments and an object of its named ones"}
    assert (channel.newest_ticket, memory.reserved) == (0, 0)

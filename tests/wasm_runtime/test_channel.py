"""The answers of /dev/host, message by message, without a guest."""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_runtime.channel import (
    AHEAD_CALLS_AT_MOST,
    MESSAGE_BYTES,
    MESSAGE_LISTS,
    MESSAGE_PARTS,
    TICKETS_AT_MOST,
    Channel,
)
from wasm_runtime.errors import CallRefused
from wasm_runtime.json_parts import lists_beyond, parts_beyond
from wasm_runtime.submitted_calls import Starts, Timed


class RunAtOnce(Executor):
    """Runs submitted functions on the calling thread, so that tests need not wait."""

    def submit(self, fn: Callable[..., object], /, *args: object, **kwargs: object) -> Future[object]:  # type: ignore[override] # the executor protocol has only this much here
        future: Future[object] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return future


def make_channel(**calls: Callable[..., object]) -> Channel:
    return Channel(calls, RunAtOnce)


def ask(channel: Channel, message: object) -> dict[str, object]:
    line = (message if isinstance(message, str) else json.dumps(message)).encode() + b"\n"
    assert channel.write(memoryview(line)) == len(line)
    reply = channel.read(1 << 30)
    assert reply.endswith(b"\n")
    answer = json.loads(reply)
    assert isinstance(answer, dict)
    return answer


def call(name: str, *args: object, **kwargs: object) -> dict[str, object]:
    return {"do": "call", "name": name, "args": args, "kwargs": kwargs}


def submit(name: str, *args: object) -> dict[str, object]:
    return {"do": "submit", "name": name, "calls": [[args, {}]]}


def wait(*tickets: object, everything: bool = True, seconds: float | None = None) -> dict[str, object]:
    return {"do": "wait", "tickets": tickets, "all": everything, "seconds": seconds}


# one call


def test_a_call_is_answered_with_the_functions_value() -> None:
    channel = make_channel(add=lambda a, b=0: a + b)
    assert ask(channel, call("add", 1)) == {"ok": 1}
    assert ask(channel, call("add", 1, b=2)) == {"ok": 3}
    assert ask(channel, call("add", "a", b="\ud800")) == {"ok": "a\ud800"}


def test_a_call_may_return_a_future() -> None:
    answer: Future[object] = Future()
    answer.set_result([1, 2])
    assert ask(make_channel(later=lambda: answer), call("later")) == {"ok": [1, 2]}


@pytest.mark.parametrize("message", [call("missing"), submit("missing"), call("__class__")])
def test_a_function_that_is_not_there_is_refused_by_name(message: dict[str, object]) -> None:
    assert ask(make_channel(), message) == {"refused": f"the host has no function {message['name']!r}"}


def test_a_refusal_shows_its_text_and_any_other_exception_is_logged_instead(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> None:
        raise CallRefused("no more money")

    def fail() -> None:
        raise ValueError("the password is 1234")

    channel = make_channel(refuse=refuse, fail=fail)
    with caplog.at_level(logging.WARNING, "wasm_runtime"):
        assert ask(channel, call("refuse")) == {"refused": "no more money"}
        assert caplog.records == []
        assert ask(channel, call("fail")) == {"refused": "the host function fail failed"}
        assert ask(channel, submit("fail")) == {"ok": [1]}
        assert ask(channel, wait(1)) == {"ok": [[1, {"refused": "the host function fail failed"}]]}
    assert "1234" in caplog.text


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", lambda: 0, 1j])
def test_a_value_that_is_no_json_is_a_failure_of_the_function(value: object) -> None:
    assert ask(make_channel(give=lambda: value), call("give")) == {"refused": "the host function give failed"}


def test_arguments_that_do_not_fit_are_a_failure_of_the_function() -> None:
    assert ask(make_channel(one=lambda a: a), call("one", 1, 2)) == {"refused": "the host function one failed"}


# many calls


def test_tickets_are_answered_in_any_order_and_once() -> None:
    channel = make_channel(double=lambda n: 2 * n)
    assert [ask(channel, submit("double", n)) for n in (1, 2, 3)] == [{"ok": [1]}, {"ok": [2]}, {"ok": [3]}]
    assert ask(channel, wait(3, 1)) == {"ok": [[3, {"ok": 6}], [1, {"ok": 2}]]}
    assert ask(channel, wait(1)) == {"refused": "ticket 1 is not in flight"}
    assert ask(channel, wait(2)) == {"ok": [[2, {"ok": 4}]]}


def test_a_ticket_named_twice_is_answered_once() -> None:
    channel = make_channel(echo=lambda value: value)
    ask(channel, submit("echo", "a"))
    assert ask(channel, wait(1, 1, 1.0)) == {"ok": [[1, {"ok": "a"}]]}


def test_waiting_for_one_returns_those_that_are_ready() -> None:
    never: Future[object] = Future()
    channel = make_channel(echo=lambda value: value, never=lambda: never)
    ask(channel, submit("never"))
    ask(channel, submit("echo", "a"))
    assert ask(channel, wait(1, 2, everything=False)) == {"ok": [[2, {"ok": "a"}]]}
    assert ask(channel, wait(1, everything=False, seconds=0)) == {"ok": []}


def test_calls_in_flight_are_bounded() -> None:
    never: Future[object] = Future()
    channel = make_channel(never=lambda: never)
    many = {"do": "submit", "name": "never", "calls": [[[], {}]] * 1_000}
    for first in range(1, TICKETS_AT_MOST, 1_000):
        assert ask(channel, many) == {"ok": list(range(first, first + 1_000))}
    text = (
        f"{TICKETS_AT_MOST} calls are in flight and 1 more would be over {TICKETS_AT_MOST}: wait for some of them first"
    )
    assert ask(channel, submit("never")) == {"refused": text}
    channel.cancel_all()
    assert never.cancelled()
    assert "ok" in ask(channel, submit("never"))


def test_an_interrupt_ends_the_wait_cancels_its_futures_and_is_told_once() -> None:
    never: Future[object] = Future()
    told: list[str] = []
    channel = Channel({"never": lambda: never}, RunAtOnce, on_interrupted=lambda: told.append("told"))
    channel.interrupt()
    channel.interrupt()
    assert ask(channel, call("never")) == {"interrupted": True}
    assert never.cancelled()
    assert told == ["told"]
    assert ask(channel, {"do": "sleep", "seconds": 0}) == {"ok": None}


def test_an_interrupt_during_a_wait_for_tickets_cancels_them() -> None:
    never: Future[object] = Future()
    channel = make_channel(never=lambda: never)
    ask(channel, submit("never"))
    channel.interrupt()
    assert ask(channel, wait(1)) == {"interrupted": True}
    assert never.cancelled()
    assert ask(channel, wait(1)) == {"refused": "ticket 1 is not in flight"}


def test_of_an_interrupted_batch_the_answers_that_had_come_can_be_fetched() -> None:
    never: Future[object] = Future()
    channel = make_channel(never=lambda: never, echo=lambda: 7)
    ask(channel, submit("never"))
    ask(channel, submit("echo"))
    channel.interrupt()
    assert ask(channel, wait(1, 2)) == {"interrupted": True}
    what_came = {"do": "wait", "tickets": [1, 2], "all": False, "seconds": 0}
    assert ask(channel, what_came) == {"ok": [[2, {"ok": 7}]]}


def test_an_interrupt_does_not_take_an_answer_that_is_there() -> None:
    channel = make_channel(echo=lambda value: value)
    channel.interrupt()
    assert ask(channel, call("echo", 1)) == {"ok": 1}


def test_a_new_cell_does_not_inherit_an_interrupt() -> None:
    channel = make_channel()
    channel.interrupt()
    channel.set_request({"kind": "cell"})
    assert ask(channel, {"do": "sleep", "seconds": 0}) == {"ok": None}


def test_an_interrupt_from_another_thread_ends_a_sleep() -> None:
    channel = make_channel()
    with ThreadPoolExecutor(1) as other:
        sleeping = other.submit(ask, channel, {"do": "sleep", "seconds": 600})
        channel.interrupt()
        assert sleeping.result(10) == {"interrupted": True}


class Clock:
    """Says, while the clock of the cell stands still, what the test wants to happen then."""

    def __init__(self, happens: Callable[[], object] = lambda: None) -> None:
        self.stops = 0
        self._happens = happens

    @contextmanager
    def __call__(self, *, outside: bool = True) -> Iterator[None]:
        self.stops += outside
        self._happens()
        yield


def test_the_clock_runs_while_the_host_works_and_while_the_guest_sleeps() -> None:
    clock = Clock()
    channel = Channel({"echo": lambda value: value}, RunAtOnce, waiting=clock)
    ask(channel, {"do": "sleep", "seconds": 0})
    ask(channel, wait(everything=False, seconds=0))
    ask(channel, call("echo", 1))
    ask(channel, submit("echo", 1))
    ask(channel, wait(1))
    assert clock.stops == 0


def test_the_clock_stands_still_while_somebody_outside_is_waited_for() -> None:
    answers: list[Future[object]] = [Future(), Future(), Future()]
    started = iter(answers)
    unanswered = iter(answers)
    clock = Clock(lambda: next(unanswered).set_result("said"))
    channel = Channel({"ask": lambda: next(started), "start": Starts(lambda: next(started))}, RunAtOnce, waiting=clock)
    assert ask(channel, call("ask")) == {"ok": "said"}
    assert ask(channel, submit("ask")) == {"ok": [1]}
    assert ask(channel, wait(1)) == {"ok": [[1, {"ok": "said"}]]}
    assert ask(channel, submit("start")) == {"ok": [2]}
    assert ask(channel, wait(2)) == {"ok": [[2, {"ok": "said"}]]}
    assert clock.stops == 3


class NoThreads(Executor):
    """An executor that is busy with the work of others for ever."""

    def submit(self, fn: Callable[..., object], /, *args: object, **kwargs: object) -> Future[object]:  # type: ignore[override] # the executor protocol has only this much here
        return Future()


def test_the_clock_runs_while_a_thread_is_waited_for() -> None:
    clock = Clock()
    channel = Channel({"echo": lambda value: value}, NoThreads, waiting=clock)
    ask(channel, submit("echo", 1))
    assert ask(channel, wait(1, seconds=0.01)) == {"ok": []}
    channel.interrupt()
    assert ask(channel, wait(1)) == {"interrupted": True}
    assert clock.stops == 0


def test_a_call_that_the_deadline_has_passed_is_interrupted_when_the_function_returns() -> None:
    calls: dict[str, Callable[..., object]] = {}
    channel = Channel(calls, RunAtOnce)
    calls["work"] = channel.interrupt
    assert ask(channel, call("work")) == {"interrupted": True}
    assert ask(channel, {"do": "sleep", "seconds": 0}) == {"ok": None}


def test_a_timed_function_is_told_what_is_left_of_the_cell_and_believes_no_guest() -> None:
    told = {"tell": Timed(lambda *, seconds_left: seconds_left)}
    channel = Channel(told, RunAtOnce, seconds_left=lambda: 1.5)
    assert ask(channel, call("tell")) == {"ok": 1.5}
    assert ask(channel, call("tell", seconds_left=10**9)) == {"ok": 1.5}
    assert ask(channel, submit("tell")) == {"ok": [1]}
    assert ask(channel, wait(1)) == {"ok": [[1, {"ok": 1.5}]]}


# memory of the host


class Memory:
    """A thousand kilobytes, of which a test sees how much is reserved."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self.limit, self.reserved = limit, 0

    def reserve(self, n: int) -> bool:
        if self.reserved + n > self.limit:
            return False
        self.reserved += n
        return True

    def release(self, n: int) -> None:
        self.reserved -= n
        assert self.reserved >= 0


def test_answers_that_are_not_fetched_are_counted_and_dropped_when_they_do_not_fit() -> None:
    memory = Memory()
    channel = Channel({"text": lambda: "x" * 100_000, "deep": lambda: {"v": ["y" * 100_000]}}, RunAtOnce, memory=memory)
    for name in ("text", "deep", "text", "deep", "text", "deep"):
        assert "ok" in ask(channel, submit(name))
    assert 500_000 < memory.reserved < 510_000
    assert "which do not fit into the memory of this session: fetch other answers" in str(ask(channel, wait(6)))
    assert ask(channel, wait(1)) == {"ok": [[1, {"ok": "x" * 100_000}]]}
    assert ask(channel, submit("text")) == {"ok": [7]}
    assert ask(channel, wait(7)) == {"ok": [[7, {"ok": "x" * 100_000}]]}
    channel.cancel_all()
    assert memory.reserved == 0


def test_arguments_of_calls_in_flight_are_counted_until_they_are_answered() -> None:
    memory = Memory()
    answers: list[Future[object]] = [Future() for _ in range(4)]
    started = iter(answers)
    channel = Channel({"ask": Starts(lambda _: next(started))}, RunAtOnce, memory=memory)
    prompt = "p" * 300_000
    assert ask(channel, submit("ask", prompt)) == {"ok": [1]}
    refused = ask(channel, {"do": "submit", "name": "ask", "calls": [[[prompt], {}]]})
    assert "do not fit" in str(refused) or refused == {"ok": [2]}
    answers[0].set_result("short")
    assert memory.reserved < 400_000
    channel.cancel_all()
    assert memory.reserved == 0


def test_an_answer_that_does_not_fit_is_refused_and_one_that_was_read_is_forgotten() -> None:
    memory = Memory()
    channel = Channel({"text": lambda n: "x" * n}, RunAtOnce, memory=memory)
    assert ask(channel, call("text", 900_000)) == {"ok": "x" * 900_000}
    assert memory.reserved == 0
    text = "an answer of 2000009 bytes does not fit into the memory of this session: ask for less at once"
    assert ask(channel, call("text", 2_000_000)) == {"refused": text}


def test_a_message_that_does_not_fit_is_not_read() -> None:
    channel = Channel({"echo": lambda value: value}, RunAtOnce, memory=Memory())
    line = json.dumps(call("echo", "x" * 600_000)).encode()
    assert channel.write(memoryview(line)) == 0


def test_a_long_report_is_counted_until_the_next_request() -> None:
    memory = Memory(200_000_000)
    channel = Channel({}, RunAtOnce, memory=memory)
    channel.set_request({})
    ask(channel, {"do": "done", "report": {"value": "x" * 20_000_000}})
    assert memory.reserved > 20_000_000
    channel.set_request({})
    assert memory.reserved == 0


def test_a_report_without_room_becomes_an_error() -> None:
    memory = Memory(50_000_000)
    channel = Channel({}, RunAtOnce, memory=memory)
    channel.set_request({})
    ask(channel, {"do": "done", "report": {"value": ["x" * 100] * 200_000}})
    assert channel.report is not None
    assert set(channel.report) == {"error"}
    assert memory.reserved == 0


class AheadItems:
    """One task that runs ahead."""

    def next_item(self) -> dict[str, object]:
        return {"index": 0, "ahead": True, "entropy": None}

    def finish_item(self, index: int, outcome: dict[str, object]) -> None:
        """Nothing comes of it."""


def test_the_log_of_a_task_that_runs_ahead_is_bounded_in_calls_and_in_bytes() -> None:
    memory = Memory()
    channel = Channel({"text": lambda n: "x" * n}, RunAtOnce, memory=memory)
    channel.items = AheadItems()
    ask(channel, {"do": "item"})
    for _ in range(8):
        assert "ok" in ask(channel, call("text", 100_000))
    assert "not fit into the memory" in str(ask(channel, call("text", 100_000)))
    ask(channel, {"do": "item"})
    assert memory.reserved == 0
    many = {"do": "submit", "name": "text", "calls": [[[1], {}]] * (AHEAD_CALLS_AT_MOST + 1)}
    assert ask(channel, many) == {
        "refused": f"a task that runs ahead in a copy makes at most {AHEAD_CALLS_AT_MOST} calls"
    }


# the session's side


def test_a_request_is_handed_out_once_and_its_report_is_kept() -> None:
    channel = make_channel()
    channel.set_request({"kind": "cell", "code": "1"})
    assert ask(channel, {"do": "next"}) == {"ok": {"kind": "cell", "code": "1"}}
    assert "refused" in ask(channel, {"do": "next"})
    assert channel.report is None
    assert ask(channel, {"do": "done", "report": {"value": "1"}}) == {"ok": None}
    assert channel.report == {"value": "1"}
    channel.set_request({"kind": "cell"})
    assert channel.report is None


def test_a_guest_that_is_no_copy_gets_no_items() -> None:
    for message in ({"do": "item"}, {"do": "item_done", "index": 0, "outcome": {}}):
        assert ask(make_channel(), message) == {"refused": "the host has no answer to this message"}


def test_a_guest_whose_session_cannot_fork_is_refused() -> None:
    message = {"do": "fork", "count": 2, "workers": 2, "ahead": False}
    assert ask(make_channel(), message) == {"refused": "the host has no answer to this message"}


# messages that break the rules


def test_a_message_too_long_or_too_wide_is_not_read() -> None:
    channel = make_channel(echo=lambda value: value)
    assert channel.write(memoryview(bytes(MESSAGE_BYTES + 1))) == 0
    wide = json.dumps([0] * (MESSAGE_PARTS + 2)).encode()
    assert channel.write(memoryview(wide)) == 0
    assert channel.write(memoryview(json.dumps([[]] * MESSAGE_LISTS).encode())) == 0
    text = '[{,"\\' * (MESSAGE_PARTS // 2)
    assert ask(channel, call("echo", text)) == {"ok": text}


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("text", ['\\"', "\\", '"', 'x\\\\"', '",'])
def test_parts_of_a_long_message_are_counted_outside_of_its_strings(before: int, text: str) -> None:
    line = " " * before + json.dumps([text * 100_000, [], text * 33_333, {}])
    assert not parts_beyond(line.encode(), 6)
    assert parts_beyond(line.encode(), 5)
    assert not lists_beyond(line.encode(), 3)
    assert lists_beyond(line.encode(), 2)


def test_a_reply_is_read_in_pieces_and_dropped_by_the_next_message() -> None:
    channel = make_channel(echo=lambda value: value)
    line = json.dumps(call("echo", "abc")).encode()
    channel.write(memoryview(line))
    assert [channel.read(5), channel.read(5), channel.read(100), channel.read(100)] == [
        b'{"ok"',
        b':"abc',
        b'"}\n',
        b"",
    ]
    channel.write(memoryview(line))
    channel.write(memoryview(json.dumps(call("echo", 1)).encode()))
    assert channel.read(100) == b'{"ok":1}\n'


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**400)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
verbs = st.sampled_from(["call", "submit", "wait", "cancel", "next", "done", "fork", "item", "item_done", "end_scopes"])
fields = st.sampled_from(["name", "args", "kwargs", "tickets", "all", "seconds", "report", "scope", "count", "index"])
messages = st.one_of(
    json_values,
    st.builds(lambda verb, rest: {"do": verb, **rest}, verbs, st.dictionaries(fields, json_values)),
    st.fixed_dictionaries(
        {"do": st.sampled_from(["call", "submit"]), "name": st.sampled_from(["echo", "fail", "other"]),
         "args": st.lists(json_values, max_size=2), "scope": json_values,
         "kwargs": st.dictionaries(st.text(max_size=3), json_values, max_size=2)},
    ),
    st.builds(
        lambda tickets, everything: {"do": "wait", "tickets": tickets, "all": everything, "seconds": 0},
        st.lists(st.integers(0, 4) | json_values, min_size=1, max_size=4), st.booleans(),
    ),
)  # fmt: skip


@given(st.lists(messages.map(json.dumps) | st.text(max_size=20), max_size=8))
def test_any_messages_get_answers_and_raise_nothing(lines: list[str]) -> None:
    def fail() -> None:
        raise ValueError

    logging.getLogger("wasm_runtime").setLevel(logging.CRITICAL)
    channel = make_channel(echo=lambda value: value, fail=fail)
    for line in lines:
        assert set(ask(channel, line)) <= {"ok", "refused"}

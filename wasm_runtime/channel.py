"""/dev/host: the only way out of the guest. It writes a line of JSON and reads a line of JSON.

The guest's write returns when the answer can be read, so a read never blocks. A new request drops the unread rest of
the last answer: a guest that was interrupted between write and read starts clean. Everything a guest sends is
untrusted data: its size, its shape and its names are checked here.

    {"do": "call", "name", "args", "kwargs"}          call one host function and wait for it
    {"do": "submit", "name", "calls"}                 start many, [args, kwargs] each; answered at once with tickets
    {"do": "wait", "tickets", "all", "seconds"}       results of those that have finished, or of all
    {"do": "cancel", "tickets"}   {"do": "sleep", "seconds"}
    {"do": "next"}   {"do": "done", "report"}         get the cell to run, and report its result
    {"do": "fork", "count", "workers", "ahead"}       have copies of this guest work on `count` items
    {"do": "item"}   {"do": "item_done", "index", "outcome"}    a copy asks for work, and reports its outcome
    {"do": "end_scopes"}                              forget the answers of tasks that ran ahead
    {"do": "guessed"}                                 in a copy that rehearses a cell: whether the last calls were
                                                      answered by a guess

Calls and sleeps may carry a "scope": the number of a task that ran ahead in a copy. If the copy made the same call,
its answer is used instead of making the call again (see parallel). Calls of a copy that rehearses a cell may carry
"place", a text that tells where in the code they are made, and "conditional", whether an earlier answer may decide if
they are made at all (see foresight).

An answer is {"ok": value}, {"refused": text} or {"interrupted": true}.
"""

import hashlib
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from typing import Any, Protocol

from wasm_runtime.held_bytes import Reservable, Unlimited, json_bytes
from wasm_runtime.json_parts import lists_beyond, parts_beyond
from wasm_runtime.pending_calls import (
    CANCELLED,
    NOTHING,
    CallAnswer,
    HostFunction,
    KeptOutcome,
    Pause,
    PendingCalls,
    no_pause,
    outcome_text,
    start_call,
)
from wasm_runtime.submitted_calls import Starts, SubmittedCalls, call_text, with_time

logger = logging.getLogger("wasm_runtime")

Json = object


class ItemSource(Protocol):
    """Gives a copy of a guest the items to work on, and takes their outcomes."""

    def next_item(self) -> dict[str, Json] | None:
        """Return the next item, or None when there are no more."""

    def finish_item(self, index: int, outcome: dict[str, Json]) -> None:
        """Take the outcome of an item."""


class CallWatcher(Protocol):
    """Hears of the calls and waits of a cell, and may answer calls in the place of the host: see foresight."""

    def answer(
        self, name: str, args: list[Json], kwargs: dict[str, Json], about: Mapping[str, Json]
    ) -> KeptOutcome | None:
        """Return the answer to a call; None to have it made. `about` is what else the message of the call holds."""

    def made(self, name: str, args: list[Json], kwargs: dict[str, Json]) -> CallAnswer | None:
        """Hear of a call that is made or answered; -> what gets its answer, if that is wanted."""

    def has_guessed(self) -> bool:
        """Return whether an answer was a guess since this was last asked."""

    def waits(self) -> None:
        """Hear that the guest is about to wait for an answer that is not there."""


# The host calls of a task that runs ahead: a key of each call, and its answer.
CallLog = list[tuple[str, CallAnswer]]
# Those of them that are answered, once it has ended.
AnswerLog = list[tuple[str, KeptOutcome]]
# (count, workers, ahead) -> an answer
ForkFunction = Callable[[int, int, bool], dict[str, Json]]

# A message holds prompts or an answer; a larger text belongs in a mounted file. Reading one holds the GIL, for 0.3 s if
# it consists of escapes, and so delays the end of the cell and everybody else.
MESSAGE_BYTES = 32 << 20
# Values in one message, and lists and objects among them. `[],` takes twenty times as much memory parsed as it does as
# text, and each garbage collection stops the process while it visits every list.
MESSAGE_PARTS = 1 << 18
MESSAGE_LISTS = 1 << 17
TICKETS_AT_MOST = 20_000
# What a call in flight takes beside its arguments.
_CALL_BYTES = 1 << 10
# Calls that one task may make ahead, and all tasks of one round: each is kept until the task itself has run.
AHEAD_CALLS_AT_MOST = 2_000
AHEAD_CALLS_OF_ALL = TICKETS_AT_MOST
# Shorter messages and answers are not counted: each replaces the last one.
_SMALL_BYTES = 1 << 16
_REPORT_BYTES = 16 << 20
# A JSON text never takes more than this many times its length as Python objects; nested dicts come to 46 times.
_OBJECTS_PER_TEXT = 64
# Long messages are read one at a time, in the whole process: reading holds the GIL. A cell whose time is over by then
# does not have its message read.
_LONG_BYTES = 1 << 20
_READING_LONG = threading.Lock()
# Submitted calls between two looks at whether the cell's time is over.
_CALLS_BETWEEN_LOOKS = 64


class Channel:
    """The host's end for one session; a `Device`. Used on the guest's thread; `interrupt` may be called from any."""

    def __init__(
        self,
        calls: Mapping[str, HostFunction],
        executor: Callable[[], Executor],
        *,
        waiting: Pause = no_pause,
        on_interrupted: Callable[[], None] = lambda: None,
        fork: ForkFunction | None = None,
        memory: Reservable | None = None,
        seconds_left: Callable[[], float] = lambda: 86400.0,
    ) -> None:
        """`executor` runs submitted functions. `waiting` is entered while the guest waits.

        `on_interrupted` is called when an answer tells the guest that it was interrupted. `fork` answers a request
        to work in copies. What the guest makes the host hold is reserved in `memory`. `seconds_left` tells how long the
        cell may still run.
        """
        self._calls = calls
        self._on_interrupted = on_interrupted
        self._fork = fork
        self._memory = memory or Unlimited()
        self._seconds_left = seconds_left
        self._pending = PendingCalls(self._memory, waiting)
        self._submitted = SubmittedCalls(calls, executor, self._pending, seconds_left)
        self._ahead: dict[int, dict[str, deque[KeptOutcome]]] = {}
        self._ahead_bytes = 0
        self._reply = memoryview(b"")
        self._reply_bytes = 0
        self._report_bytes = 0
        self._request: dict[str, Json] | None = None
        self.items: ItemSource | None = None
        self.watcher: CallWatcher | None = None
        self._is_ahead = False
        self.call_log: CallLog = []
        self.report: dict[str, Json] | None = None

    # called by the session

    def set_request(self, request: dict[str, Json]) -> None:
        """Keep `request` ready for the guest's `next`."""
        self._request = request
        self._keep_report(None, 0)
        self._end_scopes()
        self._pending.clear_interrupt()
        self._pending.begin_cell()

    def end_request(self) -> None:
        """The guest has carried out the request: too much of what it has submitted and not fetched is dropped."""
        self._pending.end_cell()

    def interrupt(self) -> None:
        """End the guest's current wait, or its next one, with {"interrupted": true}."""
        self._pending.interrupt()

    @property
    def interrupted(self) -> "Future[None]":
        """Done once the guest must stop waiting."""
        return self._pending.interrupted

    def use_ahead_logs(self, logs: Mapping[int, AnswerLog], held_bytes: int) -> None:
        """From now on, answer the calls of scope `number` from the log of that task's copy.

        `held_bytes` are reserved for the logs already.
        """
        self._end_scopes()
        self._ahead_bytes = held_bytes
        for number, log in logs.items():
            by_key = self._ahead.setdefault(number, {})
            for key, outcome in log:
                by_key.setdefault(key, deque()).append(outcome)

    def _keep_report(self, report: dict[str, Json] | None, message_bytes: int) -> None:
        size = json_bytes(report) if message_bytes * _OBJECTS_PER_TEXT > _REPORT_BYTES else 0
        self._memory.release(self._report_bytes)
        self._report_bytes = 0
        if size > _REPORT_BYTES:  # the guest cuts its texts: only a value that a function returned may be longer
            if not self._memory.reserve(size):
                message = f"a value of {size} bytes does not fit into the memory of this session"
                report, size = {"error": {"type": "MemoryError", "message": message}}, 0
            self._report_bytes = size
        self.report = report

    def _end_scopes(self) -> None:
        self._ahead.clear()
        self._memory.release(self._ahead_bytes)
        self._ahead_bytes = 0

    @property
    def newest_ticket(self) -> int:
        """The ticket of the newest call in flight; 0 without any."""
        return self._pending.newest

    def cancel_after(self, ticket: int) -> None:
        """Cancel the calls in flight that were submitted after this one."""
        self._cancel(self._pending.newer(ticket))

    def cancel_all(self) -> None:
        """Cancel all calls in flight; their results are dropped, and so is an answer that was not read."""
        self._end_scopes()
        self._cancel(self._pending.newer(0))
        self._set_reply(b"")
        self._keep_report(None, 0)

    def _cancel(self, tickets: list[int]) -> None:
        """Cancel calls, the newest first. None of them begins any more while the others are cancelled."""
        self._submitted.forget(tickets)
        self._pending.cancel(tickets)

    # called by the guest

    def read(self, n: int) -> bytes:
        """Return at most n bytes of the rest of the last answer."""
        part, self._reply = self._reply[:n], self._reply[n:]
        data = bytes(part)
        if not self._reply:
            self._set_reply(b"")
        return data

    def write(self, data: memoryview) -> int:
        """Answer one message; -> its length, or 0 if it is too long to be read. Returns when the answer can be read."""
        self._set_reply(b"")
        # Of a long message there are the text and, once it has been read, the objects.
        size = 2 * len(data) if len(data) > _SMALL_BYTES else 0
        if len(data) > MESSAGE_BYTES or not self._memory.reserve(size):
            return 0
        try:
            return self._answer_line(data)
        finally:
            self._memory.release(size)

    def _answer_line(self, data: memoryview) -> int:
        try:
            with _READING_LONG if len(data) > _LONG_BYTES else nullcontext():
                message = self._read_message(data)
            if message is _TOO_WIDE:
                return 0
            answer = _INTERRUPTED if message is _TOO_LATE else self._answer(message, len(data))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
            answer = _refused(f"the host did not understand a message of {len(data)} bytes ({type(error).__name__})")
        if answer == _INTERRUPTED:
            self._pending.clear_interrupt()
            self._on_interrupted()
        if not self._set_reply(f"{answer}\n".encode()):
            text = (
                f"an answer of {len(answer)} bytes does not fit into the memory of this session: ask for less at once"
            )
            self._set_reply(_refused(text).encode() + b"\n")
        return len(data)

    def _read_message(self, data: memoryview) -> Any:
        """Return the message as JSON, or why it is not read."""
        if len(data) > _LONG_BYTES and self._pending.interrupted.done():
            return _TOO_LATE
        line = bytes(data)
        # Most long messages have few values: then there are few lists.
        is_wide = parts_beyond(line, MESSAGE_LISTS)
        if is_wide and (parts_beyond(line, MESSAGE_PARTS) or lists_beyond(line, MESSAGE_LISTS)):
            return _TOO_WIDE
        return json.loads(line)

    def _set_reply(self, reply: bytes) -> bool:
        """Keep a reply for the guest to read in the place of the last one; False if it does not fit."""
        size = len(reply) if len(reply) > _SMALL_BYTES else 0
        self._memory.release(self._reply_bytes)
        self._reply_bytes = size if self._memory.reserve(size) else 0
        if self._reply_bytes < size:
            return False
        self._reply = memoryview(reply)
        return True

    def _answer(self, message: dict[str, Json], message_bytes: int) -> str:
        """Return the answer to a message of this length, as JSON."""
        match message:
            case {"do": "call", "name": str(name), "args": list(args), "kwargs": dict(kwargs), **rest}:
                return self._call(name, args, kwargs, rest)
            case {"do": "submit", "name": str(name), "calls": list(calls), **rest}:
                return self._submit(name, calls, rest)
            case {"do": "wait", "tickets": list(tickets), "all": bool(everything), **rest}:
                return self._wait(tickets, everything=everything, seconds=_seconds(rest.get("seconds")))
            case {"do": "cancel", "tickets": list(tickets)}:
                self._cancel(tickets[::-1])
                return _OK
            case {"do": "sleep", "seconds": int() | float() as seconds, **rest}:
                return self._sleep(_seconds(seconds), rest)
            case {"do": "next"} if self._request is not None:
                request, self._request = self._request, None
                return _ok(request)
            case {"do": "done", "report": dict(report)}:
                self._keep_report(report, message_bytes)
                return _OK
            case {"do": "fork", "count": int(count), "workers": int(workers), "ahead": bool(ahead)} if self._fork:
                if self.items is not None:  # its thread would wait for the threads that all copies share
                    return _refused("this runs in a copy already: copies do not make copies")
                return self._work_in_copies(self._fork, count, workers, ahead=ahead)
            case {"do": "item"} if self.items is not None:
                return self._next_item(self.items)
            case {"do": "item_done", "index": int(index), "outcome": dict(outcome)} if self.items is not None:
                self.items.finish_item(index, outcome)
                return _OK
            case {"do": "guessed"} if self.watcher is not None:
                return _ok(self.watcher.has_guessed())
            case {"do": "end_scopes"}:
                self._end_scopes()
                return _OK
        return _refused("the host has no answer to this message")

    def _work_in_copies(self, fork: ForkFunction, count: int, workers: int, *, ahead: bool) -> str:
        match fork(count, workers, ahead):
            case {"ok": list(outcomes)}:  # one by one: together they may be large
                encoded: list[str] = []
                for outcome in outcomes:
                    if self._pending.interrupted.done():
                        return _INTERRUPTED
                    encoded.append(_encode(outcome))
                return f'{{"ok":[{",".join(encoded)}]}}'
            case answer:
                return _encode(answer)

    def _next_item(self, items: ItemSource) -> str:
        self.call_log = []
        self._end_scopes()
        item = items.next_item()
        self._is_ahead = item is not None and bool(item.get("ahead"))
        return _ok(item)

    def _call(self, name: str, args: list[Json], kwargs: dict[str, Json], about: dict[str, Json]) -> str:
        function = self._calls.get(name)
        if function is None:
            return _unknown(name)
        if self._log_is_full(1):
            return _refused(_TOO_MANY_AHEAD)
        outcome = self._known_answer(name, args, kwargs, about)
        answer = self._watch(name, args, kwargs)
        if outcome is None:
            outcome = self._make_call(name, function, args, kwargs)
        if answer is not None:
            answer.kept = CANCELLED if outcome is None else outcome
        return _INTERRUPTED if outcome is None else self._logged(outcome_text(outcome))

    def _make_call(
        self, name: str, function: HostFunction, args: list[Json], kwargs: dict[str, Json]
    ) -> KeptOutcome | None:
        """Call a function and wait for its outcome; None after an interrupt."""
        was_interrupted = self._pending.interrupted.done()
        future = start_call(function, args, with_time(function, kwargs, self._seconds_left))
        if future.done() and self._pending.interrupted.done() and not was_interrupted:
            return None  # by the deadline, which the host's own work has passed
        if self.watcher is not None and not future.done():
            self.watcher.waits()
        return self._pending.outcome_of(name, future) if self._pending.wait_for_call(future) else None

    def _submit(self, name: str, calls: list[Json], about: dict[str, Json]) -> str:
        function = self._calls.get(name)
        if function is None:
            return _unknown(name)
        if len(self._pending) + len(calls) > TICKETS_AT_MOST:
            return _refused(
                f"{len(self._pending)} calls are in flight and {len(calls)} more would be over {TICKETS_AT_MOST}: "
                "wait for some of them first"
            )
        if self._log_is_full(len(calls)):
            return _refused(_TOO_MANY_AHEAD)
        tickets: list[int] = []
        try:
            refusal = self._add_calls(name, function, calls, about, tickets)
        except BaseException:  # nested too deeply
            self._cancel(tickets[::-1])
            raise
        if refusal is not None:
            self._cancel(tickets[::-1])
        return refusal or _ok(tickets)

    def _add_calls(
        self, name: str, function: HostFunction, calls: list[Json], about: dict[str, Json], tickets: list[int]
    ) -> str | None:
        """Register calls, and begin those that need not wait; -> why they are to be cancelled."""
        waiting: dict[int, str] = {}
        for number, call in enumerate(calls):
            if number and number % _CALLS_BETWEEN_LOOKS == 0 and self._pending.interrupted.done():
                return _INTERRUPTED
            match call:
                case [list(args), dict(kwargs)]:
                    held_bytes = json_bytes(call) + _CALL_BYTES
                    if not self._memory.reserve(held_bytes):
                        return _refused(
                            f"{len(calls)} calls do not fit into the memory of this session beside the "
                            f"{len(self._pending)} in flight: wait for those first, or submit fewer"
                        )
                    is_outside = isinstance(function, Starts)
                    tickets.append(self._pending.add(held_bytes=held_bytes, is_outside=is_outside))
                    self._pending.watch(tickets[-1], self._watch(name, args, kwargs))
                    outcome = self._known_answer(name, args, kwargs, about)
                    if outcome is not None:
                        self._pending.finish(tickets[-1], name, outcome)
                    elif waiting or not self._submitted.begins_now(tickets[-1], name, function, args, kwargs):
                        waiting[tickets[-1]] = call_text(name, args, kwargs)
                case _:
                    return _refused("a call to submit is a list of its arguments and an object of its named ones")
        self._submitted.add(name, waiting)
        return None

    def _log_is_full(self, more: int) -> bool:
        return self._is_ahead and len(self.call_log) + more > AHEAD_CALLS_AT_MOST

    def _watch(self, name: str, args: list[Json], kwargs: dict[str, Json]) -> CallAnswer | None:
        """Return what gets the answer to a call, if somebody wants it."""
        answer = None if self.watcher is None else self.watcher.made(name, args, kwargs)
        return self._log(name, args, kwargs, answer or CallAnswer()) if self._is_ahead else answer

    def _log(self, name: str, args: list[Json], kwargs: dict[str, Json], answer: CallAnswer) -> CallAnswer:
        self.call_log.append((call_key(name, args, kwargs), answer))
        return answer

    def _logged(self, answer: str) -> str:
        """Reserve memory for an answer that the log keeps; -> the answer, or a refusal if there is none."""
        if self._is_ahead:
            if not self._memory.reserve(len(answer)):
                return _refused("the answers that this task has got ahead do not fit into the memory of this session")
            self._ahead_bytes += len(answer)
        return answer

    def _known_answer(
        self, name: str, args: list[Json], kwargs: dict[str, Json], about: dict[str, Json]
    ) -> KeptOutcome | None:
        """Return an answer that needs no call: of the task's copy, or of who watches the calls."""
        outcome = self._answer_from_ahead(about.get("scope"), name, args, kwargs)
        if outcome is None and self.watcher is not None:
            outcome = self.watcher.answer(name, args, kwargs, about)
        return outcome

    def _answer_from_ahead(
        self, scope: Json, name: str, args: list[Json], kwargs: dict[str, Json]
    ) -> KeptOutcome | None:
        """Return the answer that the copy of task `scope` got to the same call, once."""
        log = self._ahead.get(scope) if isinstance(scope, int) else None
        answers = log.get(call_key(name, args, kwargs)) if log else None
        return answers.popleft() if answers else None

    def _wait(self, tickets: list[int], *, everything: bool, seconds: float | None) -> str:
        wanted = set(tickets)
        unknown = self._pending.unknown(wanted)
        if not everything and seconds == 0:  # asks what has come, after an interrupt that has cancelled the others
            wanted -= unknown
        elif unknown:
            return _refused(f"ticket {unknown.pop()!r} is not in flight")
        if self.watcher is not None and not self._pending.finished(wanted, everything=everything):
            self.watcher.waits()
        finished = self._pending.wait(wanted, everything=everything, seconds=seconds)
        if finished is None:
            self._cancel(sorted(self._pending.unfinished(wanted), reverse=True))
            return _INTERRUPTED
        asked = (ticket for ticket in dict.fromkeys(tickets) if ticket in finished)
        outcomes = (f"[{ticket},{self._collected(ticket)}]" for ticket in asked)
        return self._logged(f'{{"ok":[{",".join(outcomes)}]}}')

    def _collected(self, ticket: int) -> str:
        return outcome_text(self._pending.collect(ticket))

    def _sleep(self, seconds: float | None, about: dict[str, Json]) -> str:
        if self._known_answer("time.sleep", [seconds], {}, about) is not None:
            return _OK
        if self._pending.wait(set(), everything=False, seconds=seconds) is None:
            return _INTERRUPTED
        if self._is_ahead:
            self._log("time.sleep", [seconds], {}, CallAnswer(NOTHING))
        return _OK


_TOO_WIDE, _TOO_LATE = object(), object()
_TOO_MANY_AHEAD = f"a task that runs ahead in a copy makes at most {AHEAD_CALLS_AT_MOST} calls"
_encode = json.JSONEncoder(separators=(",", ":")).encode
_OK = _encode({"ok": None})
_INTERRUPTED = _encode({"interrupted": True})


def _ok(value: Json) -> str:
    return _encode({"ok": value})


def _refused(text: str) -> str:
    return _encode({"refused": text})


def _unknown(name: str) -> str:
    return _refused(f"the host has no function {name[:100]!r}")


def call_key(name: str, args: list[Json], kwargs: dict[str, Json]) -> str:
    """Return the same text for equal calls. It is a digest, because a prompt may be long and logs may be many."""
    return hashlib.blake2b(json.dumps([name, args, kwargs], sort_keys=True).encode(), digest_size=20).hexdigest()


def _seconds(value: Json) -> float | None:
    """Return a number of seconds that a wait accepts: never negative, at most a day."""
    if isinstance(value, int | float) and value == value:  # not-a-number is not a time
        return float(min(max(value, 0), 86400))
    return None

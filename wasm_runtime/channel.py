"""/dev/host: the one way out of the guest. A line of JSON in, a line of JSON back.

The guest writes a request and the write returns when the answer can be read, so a read never blocks. A new
request drops what was left of the last answer: a guest that was interrupted between write and read starts
clean. Everything a guest sends is data from a stranger: its size, its shape and its names are checked here.

    {"do": "call", "name", "args", "kwargs"}          one host function, waited for
    {"do": "submit", "name", "calls"}                 many, [args, kwargs] each, answered at once with tickets
    {"do": "wait", "tickets", "all", "seconds"}       answers of those that are ready, or of all
    {"do": "cancel", "tickets"}   {"do": "sleep", "seconds"}
    {"do": "next"}   {"do": "done", "report"}         the cell to run, and what came of it
    {"do": "fork", "count", "workers", "ahead"}       have copies of this guest work on `count` items
    {"do": "item"}   {"do": "item_done", "index", "outcome"}    a copy asks for work, and hands it in
    {"do": "end_scopes"}                              forget what ran ahead

Calls and sleeps may carry a "scope": the number of a task that ran ahead in a copy. Where the copy made the same
call, its answer is taken instead of making the call again (see parallel).

An answer is {"ok": value}, {"refused": text} or {"interrupted": true}.
"""

import hashlib
import itertools
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future
from concurrent.futures import wait as wait_for_futures
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from wasm_runtime.errno import Errno
from wasm_runtime.errors import CallRefused

logger = logging.getLogger("wasm_runtime")

Json = object
HostFunction = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Starts:
    """A host function that only starts something and returns its future: many submitted calls need no threads."""

    function: HostFunction

    def __call__(self, *args: Json, **kwargs: Json) -> object:
        """What it has started, as a future."""
        return self.function(*args, **kwargs)


class Errand(Protocol):
    """Where a copy gets its items from, and where it hands in what came of them."""

    def next(self) -> dict[str, Json] | None:
        """Return the next item, or None when there is no more."""

    def done(self, index: int, outcome: dict[str, Json]) -> None:
        """Take what came of an item."""


# What a task did ahead: a key of each call it made, and the call's answer when it comes.
CallLog = list[tuple[str, "Future[object]"]]
# (count, workers, ahead) -> an answer
ForkFunction = Callable[[int, int, bool], dict[str, Json]]

# A message holds a prompt or an answer; a text larger than this belongs into a mounted file.
MESSAGE_BYTES = 256 << 20
# Lists and objects in it; parsed, `[],` is twenty times as large as it was sent.
MESSAGE_PARTS = 1 << 20
TICKETS_AT_MOST = 20_000
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class Channel:
    """The host's end for one session; a `Device`. Used on the guest's thread, `interrupt` from any."""

    def __init__(
        self,
        calls: Mapping[str, HostFunction],
        executor: Callable[[], Executor],
        *,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
        interruption_told: Callable[[], None] = lambda: None,
        fork: ForkFunction | None = None,
    ) -> None:
        """`executor` runs submitted functions; `waiting` is entered while the guest waits for the host's work.

        `interruption_told` is called when an answer tells the guest that it was interrupted; `fork` answers a
        request to work in copies.
        """
        self._calls = calls
        self._executor = executor
        self._waiting = waiting
        self._interruption_told = interruption_told
        self._fork = fork
        self.errand: Errand | None = None
        self.log: CallLog = []
        self._ahead: dict[int, CallLog] = {}
        self._reply = memoryview(b"")
        self._tickets: dict[int, tuple[str, Future[object]]] = {}
        self._settled: set[int] = set()
        self._awaited: set[int] = set()
        self._needed = 0
        self._news = threading.Condition()
        self._numbers = itertools.count(1)
        self._interrupted: Future[None] = Future()
        self._request: dict[str, Json] | None = None
        self.report: dict[str, Json] | None = None

    # the session's side

    def begin(self, request: dict[str, Json]) -> None:
        """Have `request` ready for the guest's `next`."""
        self._request, self.report = request, None
        self._interrupted = Future()

    def interrupt(self) -> None:
        """End the wait the guest is in, or the next one, with {"interrupted": true}."""
        with self._news:
            if not self._interrupted.done():
                self._interrupted.set_result(None)
            self._news.notify_all()

    @property
    def interrupted(self) -> "Future[None]":
        """Done once the guest is to stop waiting."""
        return self._interrupted

    def ran_ahead(self, logs: Mapping[int, CallLog]) -> None:
        """Answer calls of scope `number` from what its task did ahead."""
        self._ahead = dict(logs)

    def cancel_all(self) -> None:
        """Cancel what is in flight; its answers are dropped.

        Here and below the newest goes first: calls that wait for their turn must not begin in the place of others.
        """
        self._ahead.clear()
        for _, future in reversed(self._tickets.values()):
            future.cancel()
        self._tickets.clear()
        self._settled.clear()

    # the guest's side

    def read(self, n: int) -> bytes:
        """The rest of the last answer, as far as n bytes go."""
        part, self._reply = self._reply[:n], self._reply[n:]
        return bytes(part)

    def write(self, data: memoryview) -> int:
        """Answer one message; the write is over when the answer can be read."""
        line = bytes(data) if len(data) <= MESSAGE_BYTES else b""
        if len(data) > MESSAGE_BYTES or _parts_beyond(line, MESSAGE_PARTS):
            return -Errno.EMSGSIZE
        try:
            answer = self._answer(json.loads(line))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
            answer = _refused(f"the host did not understand a message of {len(data)} bytes ({type(error).__name__})")
        if answer == _INTERRUPTED:
            self._interrupted = Future()
            self._interruption_told()
        self._reply = memoryview(answer.encode() + b"\n")
        return len(data)

    def _answer(self, message: dict[str, Json]) -> str:
        """The answer to a message, as JSON."""
        match message:
            case {"do": "call", "name": str(name), "args": list(args), "kwargs": dict(kwargs), **rest}:
                return self._call(name, args, kwargs, rest.get("scope"))
            case {"do": "submit", "name": str(name), "calls": list(calls), **rest}:
                return self._submit(name, calls, rest.get("scope"))
            case {"do": "wait", "tickets": list(tickets), "all": bool(everything), **rest}:
                return self._wait(tickets, everything=everything, seconds=_seconds(rest.get("seconds")))
            case {"do": "cancel", "tickets": list(tickets)}:
                for ticket in reversed(tickets):
                    self._collected(ticket)[1].cancel()
                return _OK
            case {"do": "sleep", "seconds": int() | float() as seconds, **rest}:
                return self._sleep(_seconds(seconds), rest.get("scope"))
            case {"do": "next"} if self._request is not None:
                request, self._request = self._request, None
                return _ok(request)
            case {"do": "done", "report": dict(report)}:
                self.report = report
                return _OK
            case {"do": "fork", "count": int(count), "workers": int(workers), "ahead": bool(ahead)} if self._fork:
                if self.errand is not None:  # its thread would wait for the threads that all copies share
                    return _refused("this runs in a copy already: copies do not make copies")
                with self._waiting():
                    return _encode(self._fork(count, workers, ahead))
            case {"do": "item"} if self.errand is not None:
                self.log = []
                return _ok(self.errand.next())
            case {"do": "item_done", "index": int(index), "outcome": dict(outcome)} if self.errand is not None:
                self.errand.done(index, outcome)
                return _OK
            case {"do": "end_scopes"}:
                self._ahead.clear()
                return _OK
        return _refused("the host has no answer to this message")

    def _call(self, name: str, args: list[Json], kwargs: dict[str, Json], scope: Json) -> str:
        function = self._calls.get(name)
        if function is None:
            return _unknown(name)
        with self._waiting():
            future = self._taken_ahead(scope, name, args, kwargs) or _started(function, args, kwargs)
            self._note(name, args, kwargs, future)
            if not future.done():
                either: list[Future[Any]] = [future, self._interrupted]
                wait_for_futures(either, return_when=FIRST_COMPLETED)
            if not future.done():
                future.cancel()
                return _INTERRUPTED
        return _outcome(name, future)

    def _submit(self, name: str, calls: list[Json], scope: Json) -> str:
        function = self._calls.get(name)
        if function is None:
            return _unknown(name)
        if len(self._tickets) + len(calls) > TICKETS_AT_MOST:
            return _refused(
                f"{len(self._tickets)} calls are in flight and {len(calls)} more would be over {TICKETS_AT_MOST}: "
                "wait for some of them first"
            )
        tickets = []
        for call in calls:
            match call:
                case [list(args), dict(kwargs)]:
                    tickets.append(self._sent(function, name, args, kwargs, scope))
                case _:
                    return _refused("a call to submit is a list of its arguments and an object of its named ones")
        return _ok(tickets)

    def _sent(self, function: HostFunction, name: str, args: list[Json], kwargs: dict[str, Json], scope: Json) -> int:
        """Start one call; -> its ticket."""
        ticket = next(self._numbers)
        future = self._taken_ahead(scope, name, args, kwargs)
        if future is None and isinstance(function, Starts):
            future = _started(function, args, kwargs)
        elif future is None:
            future = _flattened(self._executor().submit(function, *args, **kwargs))
        self._note(name, args, kwargs, future)
        self._tickets[ticket] = (name, future)

        def settled(_: Future[object]) -> None:
            with self._news:
                if ticket not in self._tickets:
                    return
                self._settled.add(ticket)
                if ticket in self._awaited:
                    self._needed -= 1
                    if self._needed <= 0:  # one wake-up for a batch: each costs the guest's thread a turn of the GIL
                        self._news.notify_all()

        future.add_done_callback(settled)
        return ticket

    def _collected(self, ticket: int) -> tuple[str, Future[object]]:
        """Take a ticket out of the books; -> the function it was for, and its answer."""
        with self._news:
            self._settled.discard(ticket)
            return self._tickets.pop(ticket, None) or ("", _finished(None))

    def _note(self, name: str, args: list[Json], kwargs: dict[str, Json], future: Future[object]) -> None:
        if self.errand is not None:
            self.log.append((_key(name, args, kwargs), future))

    def _taken_ahead(self, scope: Json, name: str, args: list[Json], kwargs: dict[str, Json]) -> Future[object] | None:
        """Return the answer that task `scope` got to the same call ahead, once."""
        log = self._ahead.get(scope) if isinstance(scope, int) else None
        if not log:
            return None
        key = _key(name, args, kwargs)
        for position, (logged, future) in enumerate(log):
            if logged == key and not future.cancelled():
                del log[position]
                return future
        return None

    def _wait(self, tickets: list[int], *, everything: bool, seconds: float | None) -> str:
        wanted = set(tickets)
        unknown = wanted - self._tickets.keys()
        if unknown:
            return _refused(f"ticket {unknown.pop()!r} is not in flight")
        with self._waiting() if wanted else nullcontext():
            ready = self._wait_until(wanted, everything=everything, seconds=seconds)
        if ready is None:
            for ticket in sorted(wanted, reverse=True):
                self._collected(ticket)[1].cancel()
            return _INTERRUPTED
        asked = (ticket for ticket in dict.fromkeys(tickets) if ticket in ready)
        outcomes = (f"[{ticket},{_outcome(*self._collected(ticket))}]" for ticket in asked)
        return f'{{"ok":[{",".join(outcomes)}]}}'

    def _wait_until(self, wanted: set[int], *, everything: bool, seconds: float | None) -> set[int] | None:
        """Wait for one or all of `wanted`, at most `seconds`; -> those that are ready, None after an interrupt."""
        ends = None if seconds is None else time.monotonic() + seconds
        with self._news:
            self._awaited = wanted - self._settled
            some_ready = len(self._awaited) < len(wanted)
            self._needed = len(self._awaited) if everything else not some_ready
            while self._needed > 0 and not self._interrupted.done():
                left = None if ends is None else ends - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._news.wait(left)
            self._awaited = set()
            return None if self._interrupted.done() else wanted & self._settled

    def _sleep(self, seconds: float | None, scope: Json) -> str:
        if self._taken_ahead(scope, "time.sleep", [seconds], {}) is not None:
            return _OK
        if self._wait_until(set(), everything=False, seconds=seconds) is None:
            return _INTERRUPTED
        self._note("time.sleep", [seconds], {}, _finished(None))
        return _OK


_encode = json.JSONEncoder(separators=(",", ":")).encode
_OK = _encode({"ok": None})
_INTERRUPTED = _encode({"interrupted": True})


def _ok(value: Json) -> str:
    return _encode({"ok": value})


def _refused(text: str) -> str:
    return _encode({"refused": text})


def _parts_beyond(line: bytes, limit: int) -> bool:
    """Whether a JSON text has more than `limit` commas and opening brackets, those in strings left out."""
    if _parts(line) <= limit:
        return False
    return _parts(_STRING.sub(b"", line)) > limit


def _parts(line: bytes) -> int:
    return line.count(b",") + line.count(b"[") + line.count(b"{")


def _key(name: str, args: list[Json], kwargs: dict[str, Json]) -> str:
    """Return what two calls that ask the same have in common: a digest, for a prompt may be long and logs many."""
    return hashlib.blake2b(json.dumps([name, args, kwargs], sort_keys=True).encode(), digest_size=20).hexdigest()


def _seconds(value: Json) -> float | None:
    """Return a number of seconds that a wait accepts: never negative, at most a day."""
    if isinstance(value, int | float) and value == value:  # not-a-number is not a time
        return float(min(max(value, 0), 86400))
    return None


def _unknown(name: str) -> str:
    return _refused(f"the host has no function {name[:100]!r}")


def _started(function: HostFunction, args: Iterable[Json], kwargs: Mapping[str, Json]) -> Future[object]:
    """Call a host function now; its value, its exception or its own future, as a future."""
    try:
        value = function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - becomes the guest's answer in _outcome
        future: Future[object] = Future()
        future.set_exception(error)
        return future
    return value if isinstance(value, Future) else _finished(value)


def _finished(value: object) -> Future[object]:
    future: Future[object] = Future()
    future.set_result(value)
    return future


def _flattened(outer: Future[object]) -> Future[object]:
    """Return a future of what `outer`'s function returns, or of what the future it returns comes to."""
    result: Future[object] = Future()

    def copy(source: Future[object]) -> None:
        if source.cancelled():
            result.cancel()
        elif (error := source.exception()) is not None:
            _settle(result, error=error)
        elif isinstance(value := source.result(), Future):
            result.add_done_callback(lambda r: value.cancel() if r.cancelled() else None)
            value.add_done_callback(copy)
        else:
            _settle(result, value=value)

    result.add_done_callback(lambda r: outer.cancel() if r.cancelled() else None)
    outer.add_done_callback(copy)
    return result


def _settle(future: Future[object], *, value: object = None, error: BaseException | None = None) -> None:
    if future.set_running_or_notify_cancel() if not future.done() else False:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)


def _outcome(name: str, future: Future[object]) -> str:
    """Turn a finished future into an answer. Only `CallRefused` shows its text: others may hold a secret."""
    try:
        return _ok(future.result())
    except CallRefused as refusal:
        return _refused(str(refusal))
    except CancelledError:
        return _refused("the call was cancelled")
    except Exception as error:  # any failure of a host function, or a value that is not JSON, is an answer
        logger.warning("host function %s raised, or gave a value that is not JSON", name, exc_info=error)
        return _refused(f"the host function {name} failed")

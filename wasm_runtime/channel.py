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

Calls and sleeps may carry a "scope": the number of a task that ran ahead in a copy. If the copy made the same call,
its answer is used instead of making the call again (see parallel).

An answer is {"ok": value}, {"refused": text} or {"interrupted": true}.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from wasm_runtime.errno import Errno
from wasm_runtime.errors import CallRefused
from wasm_runtime.pending_calls import HostFunction, PendingCalls, finished_future, flatten_future, start_call

logger = logging.getLogger("wasm_runtime")

Json = object


@dataclass(frozen=True, slots=True)
class Starts:
    """A host function that only starts something and returns its future: many submitted calls need no threads."""

    function: HostFunction

    def __call__(self, *args: Json, **kwargs: Json) -> object:
        """Start it; -> its future."""
        return self.function(*args, **kwargs)


class ItemSource(Protocol):
    """Gives a copy of a guest the items to work on, and takes their outcomes."""

    def next_item(self) -> dict[str, Json] | None:
        """Return the next item, or None when there are no more."""

    def finish_item(self, index: int, outcome: dict[str, Json]) -> None:
        """Take the outcome of an item."""


# The host calls of a task that ran ahead: a key of each call, and the future of its answer.
CallLog = list[tuple[str, "Future[object]"]]
# (count, workers, ahead) -> an answer
ForkFunction = Callable[[int, int, bool], dict[str, Json]]

# A message holds a prompt or an answer; a larger text belongs in a mounted file.
MESSAGE_BYTES = 256 << 20
# Lists and objects in one message. `[],` takes twenty times as much memory parsed as it does as text.
MESSAGE_PARTS = 1 << 20
TICKETS_AT_MOST = 20_000
# The closing quotation mark may be missing: were it needed, each quotation mark in such a text would be tried anew.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class Channel:
    """The host's end for one session; a `Device`. Used on the guest's thread; `interrupt` may be called from any."""

    def __init__(
        self,
        calls: Mapping[str, HostFunction],
        executor: Callable[[], Executor],
        *,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
        on_interrupted: Callable[[], None] = lambda: None,
        fork: ForkFunction | None = None,
    ) -> None:
        """`executor` runs submitted functions. `waiting` is entered while the guest waits for the host's work.

        `on_interrupted` is called when an answer tells the guest that it was interrupted. `fork` answers a request
        to work in copies.
        """
        self._calls = calls
        self._executor = executor
        self._waiting = waiting
        self._on_interrupted = on_interrupted
        self._fork = fork
        self._pending = PendingCalls()
        self._ahead: dict[int, CallLog] = {}
        self._reply = memoryview(b"")
        self._request: dict[str, Json] | None = None
        self.items: ItemSource | None = None
        self.call_log: CallLog = []
        self.report: dict[str, Json] | None = None

    # called by the session

    def set_request(self, request: dict[str, Json]) -> None:
        """Keep `request` ready for the guest's `next`."""
        self._request, self.report = request, None
        self._pending.clear_interrupt()

    def interrupt(self) -> None:
        """End the guest's current wait, or its next one, with {"interrupted": true}."""
        self._pending.interrupt()

    @property
    def interrupted(self) -> "Future[None]":
        """Done once the guest must stop waiting."""
        return self._pending.interrupted

    def use_ahead_logs(self, logs: Mapping[int, CallLog]) -> None:
        """From now on, answer the calls of scope `number` from the log of that task's copy."""
        self._ahead = dict(logs)

    def cancel_all(self) -> None:
        """Cancel all calls in flight; their results are dropped."""
        self._ahead.clear()
        self._pending.cancel_all()

    # called by the guest

    def read(self, n: int) -> bytes:
        """Return at most n bytes of the rest of the last answer."""
        part, self._reply = self._reply[:n], self._reply[n:]
        return bytes(part)

    def write(self, data: memoryview) -> int:
        """Answer one message. Returns when the answer can be read."""
        line = bytes(data) if len(data) <= MESSAGE_BYTES else b""
        if len(data) > MESSAGE_BYTES or parts_beyond(line, MESSAGE_PARTS):
            return -Errno.EMSGSIZE
        try:
            answer = self._answer(json.loads(line))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
            answer = _refused(f"the host did not understand a message of {len(data)} bytes ({type(error).__name__})")
        if answer == _INTERRUPTED:
            self._pending.clear_interrupt()
            self._on_interrupted()
        self._reply = memoryview(answer.encode() + b"\n")
        return len(data)

    def _answer(self, message: dict[str, Json]) -> str:
        """Return the answer to a message, as JSON."""
        match message:
            case {"do": "call", "name": str(name), "args": list(args), "kwargs": dict(kwargs), **rest}:
                return self._call(name, args, kwargs, rest.get("scope"))
            case {"do": "submit", "name": str(name), "calls": list(calls), **rest}:
                return self._submit(name, calls, rest.get("scope"))
            case {"do": "wait", "tickets": list(tickets), "all": bool(everything), **rest}:
                return self._wait(tickets, everything=everything, seconds=_seconds(rest.get("seconds")))
            case {"do": "cancel", "tickets": list(tickets)}:
                self._pending.cancel(reversed(tickets))
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
                if self.items is not None:  # its thread would wait for the threads that all copies share
                    return _refused("this runs in a copy already: copies do not make copies")
                with self._waiting():
                    return _encode(self._fork(count, workers, ahead))
            case {"do": "item"} if self.items is not None:
                self.call_log = []
                return _ok(self.items.next_item())
            case {"do": "item_done", "index": int(index), "outcome": dict(outcome)} if self.items is not None:
                self.items.finish_item(index, outcome)
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
            future = self._answer_from_ahead(scope, name, args, kwargs) or start_call(function, args, kwargs)
            self._log(name, args, kwargs, future)
            if not self._pending.wait_for_call(future):
                return _INTERRUPTED
        return _outcome(name, future)

    def _submit(self, name: str, calls: list[Json], scope: Json) -> str:
        function = self._calls.get(name)
        if function is None:
            return _unknown(name)
        if len(self._pending) + len(calls) > TICKETS_AT_MOST:
            return _refused(
                f"{len(self._pending)} calls are in flight and {len(calls)} more would be over {TICKETS_AT_MOST}: "
                "wait for some of them first"
            )
        tickets = []
        for call in calls:
            match call:
                case [list(args), dict(kwargs)]:
                    future = self._answer_from_ahead(scope, name, args, kwargs)
                    if future is None:
                        future = self._start_submitted(function, args, kwargs)
                    self._log(name, args, kwargs, future)
                    tickets.append(self._pending.add(name, future))
                case _:
                    return _refused("a call to submit is a list of its arguments and an object of its named ones")
        return _ok(tickets)

    def _start_submitted(self, function: HostFunction, args: list[Json], kwargs: dict[str, Json]) -> Future[object]:
        if isinstance(function, Starts):
            return start_call(function, args, kwargs)
        return flatten_future(self._executor().submit(function, *args, **kwargs))

    def _log(self, name: str, args: list[Json], kwargs: dict[str, Json], future: Future[object]) -> None:
        if self.items is not None:
            self.call_log.append((_key(name, args, kwargs), future))

    def _answer_from_ahead(
        self, scope: Json, name: str, args: list[Json], kwargs: dict[str, Json]
    ) -> Future[object] | None:
        """Return the answer that the copy of task `scope` got to the same call, once."""
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
        unknown = self._pending.unknown(wanted)
        if unknown:
            return _refused(f"ticket {unknown.pop()!r} is not in flight")
        with self._waiting() if wanted else nullcontext():
            finished = self._pending.wait(wanted, everything=everything, seconds=seconds)
        if finished is None:
            self._pending.cancel(sorted(wanted, reverse=True))
            return _INTERRUPTED
        asked = (ticket for ticket in dict.fromkeys(tickets) if ticket in finished)
        outcomes = (f"[{ticket},{_outcome(*self._pending.collect(ticket))}]" for ticket in asked)
        return f'{{"ok":[{",".join(outcomes)}]}}'

    def _sleep(self, seconds: float | None, scope: Json) -> str:
        if self._answer_from_ahead(scope, "time.sleep", [seconds], {}) is not None:
            return _OK
        if self._pending.wait(set(), everything=False, seconds=seconds) is None:
            return _INTERRUPTED
        self._log("time.sleep", [seconds], {}, finished_future(None))
        return _OK


_encode = json.JSONEncoder(separators=(",", ":")).encode
_OK = _encode({"ok": None})
_INTERRUPTED = _encode({"interrupted": True})


def _ok(value: Json) -> str:
    return _encode({"ok": value})


def _refused(text: str) -> str:
    return _encode({"refused": text})


def _unknown(name: str) -> str:
    return _refused(f"the host has no function {name[:100]!r}")


def _outcome(name: str, future: Future[object]) -> str:
    """Turn a finished future into an answer. Only the text of `CallRefused` is shown: others may hold a secret."""
    try:
        return _ok(future.result())
    except CallRefused as refusal:
        return _refused(str(refusal))
    except CancelledError:
        return _refused("the call was cancelled")
    except Exception as error:  # any failure of a host function, or a value that is not JSON, is an answer
        logger.warning("host function %s raised, or returned a value that is not JSON", name, exc_info=error)
        return _refused(f"the host function {name} failed")


def parts_beyond(line: bytes, limit: int) -> bool:
    """Whether a JSON text has more than `limit` commas and opening brackets outside strings."""
    if _parts(line) <= limit:
        return False
    return _parts(_STRING.sub(b"", line)) > limit


def _parts(line: bytes) -> int:
    return line.count(b",") + line.count(b"[") + line.count(b"{")


def _key(name: str, args: list[Json], kwargs: dict[str, Json]) -> str:
    """Return the same text for equal calls. It is a digest, because a prompt may be long and logs may be many."""
    return hashlib.blake2b(json.dumps([name, args, kwargs], sort_keys=True).encode(), digest_size=20).hexdigest()


def _seconds(value: Json) -> float | None:
    """Return a number of seconds that a wait accepts: never negative, at most a day."""
    if isinstance(value, int | float) and value == value:  # not-a-number is not a time
        return float(min(max(value, 0), 86400))
    return None

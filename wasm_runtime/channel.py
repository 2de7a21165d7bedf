"""/dev/host: the one way out of the guest. A line of JSON in, a line of JSON back.

The guest writes a request and the write returns when the answer can be read, so a read never blocks. A new
request drops what was left of the last answer: a guest that was interrupted between write and read starts
clean. Everything a guest sends is data from a stranger: its size, its shape and its names are checked here.

    {"do": "call", "name", "args", "kwargs"}          one host function, waited for
    {"do": "submit", "name", "args", "kwargs"}        the same, answered at once with a ticket
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

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future
from concurrent.futures import wait as wait_for_futures
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from wasm_runtime.errno import Errno
from wasm_runtime.errors import CallRefused

logger = logging.getLogger("wasm_runtime")

Json = object
HostFunction = Callable[..., object]


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
        self._tickets: dict[int, Future[object]] = {}
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
        if not self._interrupted.done():
            self._interrupted.set_result(None)

    @property
    def interrupted(self) -> "Future[None]":
        """Done once the guest is to stop waiting."""
        return self._interrupted

    def ran_ahead(self, logs: Mapping[int, CallLog]) -> None:
        """Answer calls of scope `number` from what its task did ahead."""
        self._ahead = dict(logs)

    def cancel_all(self) -> None:
        """Cancel what is in flight; its answers are dropped."""
        self._ahead.clear()
        for future in self._tickets.values():
            future.cancel()
        self._tickets.clear()

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
            answer = {"refused": f"the host did not understand a message of {len(data)} bytes ({type(error).__name__})"}
        if "interrupted" in answer:
            self._interrupted = Future()
            self._interruption_told()
        self._reply = memoryview(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
        return len(data)

    def _answer(self, message: dict[str, Json]) -> dict[str, Json]:
        match message:
            case {"do": "call", "name": str(name), "args": list(args), "kwargs": dict(kwargs), **rest}:
                return self._call(name, args, kwargs, rest.get("scope"))
            case {"do": "submit", "name": str(name), "args": list(args), "kwargs": dict(kwargs), **rest}:
                return self._submit(name, args, kwargs, rest.get("scope"))
            case {"do": "wait", "tickets": list(tickets), "all": bool(everything), **rest}:
                return self._wait(tickets, everything=everything, seconds=_seconds(rest.get("seconds")))
            case {"do": "cancel", "tickets": list(tickets)}:
                for ticket in tickets:
                    self._tickets.pop(ticket, Future()).cancel()
                return {"ok": None}
            case {"do": "sleep", "seconds": int() | float() as seconds, **rest}:
                return self._sleep(_seconds(seconds), rest.get("scope"))
            case {"do": "next"} if self._request is not None:
                request, self._request = self._request, None
                return {"ok": request}
            case {"do": "done", "report": dict(report)}:
                self.report = report
                return {"ok": None}
            case {"do": "fork", "count": int(count), "workers": int(workers), "ahead": bool(ahead)} if self._fork:
                if self.errand is not None:  # its thread would wait for the threads that all copies share
                    return {"refused": "this runs in a copy already: copies do not make copies"}
                with self._waiting():
                    return self._fork(count, workers, ahead)
            case {"do": "item"} if self.errand is not None:
                self.log = []
                return {"ok": self.errand.next()}
            case {"do": "item_done", "index": int(index), "outcome": dict(outcome)} if self.errand is not None:
                self.errand.done(index, outcome)
                return {"ok": None}
            case {"do": "end_scopes"}:
                self._ahead.clear()
                return {"ok": None}
        return {"refused": "the host has no answer to this message"}

    def _call(self, name: str, args: list[Json], kwargs: dict[str, Json], scope: Json) -> dict[str, Json]:
        function = self._calls.get(name)
        if function is None:
            return _unknown(name)
        with self._waiting():
            key = _key(name, args, kwargs)
            future = self._taken_ahead(scope, key) or _started(function, args, kwargs)
            self._note(key, future)
            if not future.done():
                _wait_for_first([future, self._interrupted])
            if not future.done():
                future.cancel()
                return {"interrupted": True}
        return _outcome(name, future)

    def _submit(self, name: str, args: list[Json], kwargs: dict[str, Json], scope: Json) -> dict[str, Json]:
        function = self._calls.get(name)
        if function is None:
            return _unknown(name)
        if len(self._tickets) >= TICKETS_AT_MOST:
            return {"refused": f"{TICKETS_AT_MOST} calls are in flight already: wait for some of them first"}
        ticket = next(self._numbers)
        key = _key(name, args, kwargs)
        future = self._taken_ahead(scope, key) or _flattened(self._executor().submit(function, *args, **kwargs))
        self._note(key, future)
        self._tickets[ticket] = future
        return {"ok": ticket}

    def _note(self, key: str, future: Future[object]) -> None:
        if self.errand is not None:
            self.log.append((key, future))

    def _taken_ahead(self, scope: Json, key: str) -> Future[object] | None:
        """Return the answer that task `scope` got to the same call ahead, once."""
        log = self._ahead.get(scope, []) if isinstance(scope, int) else []
        for position, (logged, future) in enumerate(log):
            if logged == key and not future.cancelled():
                del log[position]
                return future
        return None

    def _wait(self, tickets: list[int], *, everything: bool, seconds: float | None) -> dict[str, Json]:
        tickets = list(dict.fromkeys(tickets))
        unknown = [ticket for ticket in tickets if ticket not in self._tickets]
        if unknown:
            return {"refused": f"ticket {unknown[0]!r} is not in flight"}
        futures = {self._tickets[ticket] for ticket in tickets}
        with self._waiting() if futures else nullcontext():
            interrupted = self._wait_until(futures, everything=everything, seconds=seconds)
        if interrupted:
            for ticket in tickets:
                self._tickets.pop(ticket).cancel()
            return {"interrupted": True}
        ready = [ticket for ticket in tickets if self._tickets[ticket].done()]
        return {"ok": [[ticket, _outcome("", self._tickets.pop(ticket))] for ticket in ready]}

    def _wait_until(self, futures: set[Future[object]], *, everything: bool, seconds: float | None) -> bool:
        """Wait for one or all of `futures`, at most `seconds`; True when the guest was interrupted instead."""
        pending: set[Future[object]] = {f for f in futures if not f.done()}
        if not everything and len(pending) < len(futures):
            return False
        while pending or not futures:
            done = _wait_for_first([*pending, self._interrupted], seconds)
            if self._interrupted in done:
                return True
            pending -= done
            if not everything or not done:
                return False
        return False

    def _sleep(self, seconds: float | None, scope: Json) -> dict[str, Json]:
        key = _key("time.sleep", [seconds], {})
        if self._taken_ahead(scope, key) is not None:
            return {"ok": None}
        if self._wait_until(set(), everything=False, seconds=seconds):
            return {"interrupted": True}
        self._note(key, _finished(None))
        return {"ok": None}


def _parts_beyond(line: bytes, limit: int) -> bool:
    """Whether a JSON text has more than `limit` commas and opening brackets, those in strings left out."""
    if _parts(line) <= limit:
        return False
    return _parts(_STRING.sub(b"", line)) > limit


def _parts(line: bytes) -> int:
    return line.count(b",") + line.count(b"[") + line.count(b"{")


def _wait_for_first(futures: Iterable[Future[Any]], seconds: float | None = None) -> set[Future[Any]]:
    return wait_for_futures(futures, timeout=seconds, return_when=FIRST_COMPLETED).done


def _key(name: str, args: list[Json], kwargs: dict[str, Json]) -> str:
    return json.dumps([name, args, kwargs], sort_keys=True)


def _seconds(value: Json) -> float | None:
    """Return a number of seconds that a wait accepts: never negative, at most a day."""
    if isinstance(value, int | float) and value == value:  # not-a-number is not a time
        return float(min(max(value, 0), 86400))
    return None


def _unknown(name: str) -> dict[str, Json]:
    return {"refused": f"the host has no function {name[:100]!r}"}


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


def _outcome(name: str, future: Future[object]) -> dict[str, Json]:
    """Turn a finished future into an answer. Only `CallRefused` shows its text: others may hold a secret."""
    try:
        value = future.result()
        json.dumps(value)
    except CallRefused as refusal:
        return {"refused": str(refusal)}
    except CancelledError:
        return {"refused": "the call was cancelled"}
    except (TypeError, ValueError, RecursionError) as error:
        logger.warning("host function %s gave a value that is not JSON, or raised", name, exc_info=error)
        return {"refused": f"the host function {name} failed".replace("  ", " ")}
    except Exception as error:  # any failure of a host function is an answer for the guest
        logger.warning("host function %s raised", name, exc_info=error)
        return {"refused": f"the host function {name} failed".replace("  ", " ")}
    return {"ok": value}

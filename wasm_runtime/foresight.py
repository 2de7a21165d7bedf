"""Calls that a cell will probably make, found out while it waits for an answer.

Theory of operation. Code that calls the host in a plain loop waits for each answer before it makes the next call. While
it waits, two copies of the guest *rehearse* the cell: they start from the state in which the cell started, run the same
code, and get at once the answers that the cell has got. In the place of an answer that is not known they get one that
was given to a call of the same kind, and the two copies get different ones. A call that both copies come to does not
depend on what is not known: the host may make it already, and has the answer when the cell comes to it.

The cell itself runs as it would without copies, and its calls are answered as they would be. So a wrong guess (code
that depends on the time, on random numbers of the system, on what a later answer says) can only cost calls in vain. How
many calls are made ahead is the decision of the host, which is told what is known about each: see `ExpectedCall`.

The first two answers of a cell are only watched. A rehearsal that finds nothing new, as in a loop whose prompts hold
the last answer, is repeated only after as many calls again.
"""

import itertools
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from sys import getsizeof
from typing import Protocol

from wasm_runtime.channel import Json, call_key
from wasm_runtime.errors import OutOfMemoryBudget
from wasm_runtime.held_bytes import Reservable, json_bytes
from wasm_runtime.pending_calls import NOTHING, CallAnswer, KeptOutcome, kept_outcome, outcome_value

logger = logging.getLogger("wasm_runtime")

_WATCHED_ANSWERS = 2
# One copy computes no longer than this, and the copies of one cell no longer than that: what they cost is not the
# cell's time.
_COPY_SECONDS = 2.0
_CELL_SECONDS = 4.0
# What one rehearsal finds: enough to keep any number of calls in flight until the next one.
_CALLS_AT_MOST = 500
_CALL_BYTES_AT_MOST = 8 << 20
# Places of the code at which a call is said to come in between; others are not counted.
_PLACES_AT_MOST = 8
# A guest that tells longer places, or ever new ones, must not fill the memory of the host.
_PLACE_CHARS = 200
_KINDS_AT_MOST = 1_000
# Answers that the host keeps for the copies of one cell.
_ANSWER_BYTES_AT_MOST = 16 << 20
# Calls of one cell that are kept, with their answers: a cell that makes more has nothing foreseen any more.
MADE_AT_MOST = 5_000
_COPIES = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpectedCall:
    """A call that a cell will probably make.

    is_certain       both copies came to it. The others are listed because they come in between, and cost something too
    is_conditional   the guest said that what an earlier answer says may decide whether the call is made at all
    answer           given by the host if it makes the call, for later rehearsals
    """

    name: str
    args: list[Json]
    kwargs: dict[str, Json]
    is_certain: bool
    is_conditional: bool
    answer: "Future[object]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """Has calls found before a cell makes them.

    functions   the functions whose calls are looked for, and which named arguments of each do not decide what kind of
                answer it gives
    readers     functions that only read: copies call them. A copy that comes to any other function ends there
    expect      takes the calls that the running cell is expected to make, in their order, in the place of those it took
                before; an empty list when the cell has ended. Called from several threads, and returns at once
    rehearse    a `module:function` of the guest that is called in a copy before it rehearses
    """

    functions: Mapping[str, frozenset[str]]
    readers: frozenset[str]
    expect: Callable[[Sequence[ExpectedCall]], None]
    rehearse: str | None = None


class RehearsingCopy(Protocol):
    """A copy of the guest in the state in which the running cell started: a `Session`."""

    def rehearse(self, rehearsal: "Rehearsal", function: str | None, seconds: float) -> None:
        """Run the cell until it ends or the rehearsal has stopped."""

    def hold(self, n: int) -> bool:
        """Reserve n bytes that the host holds for the copy until that is closed; False if they do not fit."""

    def abandon(self) -> None:
        """Stop it at once. May be called from any thread."""

    @property
    def stopped_by(self) -> str | None:
        """The reason for which it was asked to stop."""

    def close(self) -> None:
        """End the copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _HeardCall:
    """A call of a copy, after the last answer that is surely known."""

    key: str
    name: str
    args: list[Json]
    kwargs: dict[str, Json]
    place: str
    is_conditional: bool


class Rehearsal:
    """Answers the calls of one copy at once, and keeps them from the first that is not known. A `CallWatcher`."""

    def __init__(
        self,
        foresight: Foresight,
        known: Mapping[str, KeptOutcome],
        *,
        guesses_otherwise: bool,
        copy: RehearsingCopy,
    ) -> None:
        """`known` are settled answers.

        In the place of an answer that is not known, the copy gets the last known one of its kind, or another one if it
        `guesses_otherwise`.
        """
        self._foresight, self._known, self._copy = foresight, known, copy
        self.guesses_otherwise = guesses_otherwise
        self._seen: dict[tuple[str, str], list[Json]] = {}
        self.bytes = 0
        self._has_guessed = False
        self.is_stopped = False
        self.calls: list[_HeardCall] = []
        self.past: dict[str, _HeardCall] = {}
        """a known call at each place of the code, up to _PLACES_AT_MOST"""

    def stop(self) -> None:
        """End the copy: it has nothing more to say. May be called from any thread."""
        self.is_stopped = True
        self._copy.abandon()

    def answer(
        self, name: str, args: list[Json], kwargs: dict[str, Json], about: Mapping[str, Json]
    ) -> KeptOutcome | None:
        """Return the known answer to a call that is looked for, or a guess; a sleep ends at once."""
        if name == "time.sleep":
            return NOTHING
        if name in self._foresight.readers:
            return None
        if name not in self._foresight.functions:
            self.stop()
            return NOTHING
        kind, place = self._kind(name, args, kwargs), str(about.get("place", ""))[:_PLACE_CHARS]
        call = _HeardCall(
            key=call_key(name, args, kwargs),
            name=name,
            args=args,
            kwargs=kwargs,
            place=place,
            is_conditional=about.get("conditional") is True,
        )
        known = self._known.get(call.key)
        if known is not None:
            self._remember(known, (kind, place), (kind, ""))
            if not self.calls:
                self._keep_place(call)
                return known
        # After the first guess, a call that seems to be known may only be one because of a guess: it is kept too.
        answer = known or self._guess(kind, place)
        if answer is None or self.is_stopped or not self._hold(json_bytes(kwargs) + json_bytes(args)):
            self.stop()
            return NOTHING
        self._has_guessed = self._has_guessed or known is None
        self.calls.append(call)
        return answer

    def _hold(self, n: int) -> bool:
        self.bytes += n
        return len(self.calls) < _CALLS_AT_MOST and self.bytes <= _CALL_BYTES_AT_MOST and self._copy.hold(n)

    def _keep_place(self, call: _HeardCall) -> None:
        if (
            call.place not in self.past
            and len(self.past) < _PLACES_AT_MOST
            and self._copy.hold(json_bytes(call.kwargs))
        ):
            self.past[call.place] = call

    def _kind(self, name: str, args: list[Json], kwargs: Mapping[str, Json]) -> str:
        """Return the same text for calls that get answers of the same kind."""
        deciding = {key: value for key, value in kwargs.items() if key not in self._foresight.functions[name]}
        return call_key(name, args, deciding)

    def _remember(self, known: KeptOutcome, *kinds: tuple[str, str]) -> None:
        answer = outcome_value(known)
        if answer.refusal is not None:
            return
        for kind in kinds if len(self._seen) < _KINDS_AT_MOST else ():
            seen = self._seen.setdefault(kind, [])
            if answer.value not in seen[-1:]:
                seen[:] = [*seen[-1:], answer.value]

    def _guess(self, kind: str, place: str) -> KeptOutcome | None:
        """Return an answer that was given at the same place of the code, or else to a call of the same kind."""
        seen = self._seen.get((kind, place)) or self._seen.get((kind, ""))
        if not seen:
            return None
        if not self.guesses_otherwise:
            return kept_outcome(seen[-1])
        return kept_outcome(seen[0] if len(seen) > 1 else unlike(seen[0]))

    def made(self, *_: object) -> None:
        """Do nothing: this is of interest for the calls of the cell only."""

    def has_guessed(self) -> bool:
        """Return whether an answer was a guess since this was last asked."""
        guessed, self._has_guessed = self._has_guessed, False
        return guessed

    def waits(self) -> None:
        """Do nothing, as `made`."""


class CellForesight:
    """Watches the calls of the cells of one session, and has copies rehearse them. A `CallWatcher`.

    Used on the guest's thread; copies report on threads of their own.
    """

    def __init__(
        self,
        foresight: Foresight,
        threads: Callable[[], Executor],
        make_copies: Callable[[int], Iterator[RehearsingCopy]],
        memory: Reservable,
    ) -> None:
        """The facts about a cell that are kept until it ends are reserved in `memory`."""
        self._memory, self._held, self._plan_bytes = memory, 0, 0
        self._foresight, self._threads, self._make_copies = foresight, threads, make_copies
        self._lock = threading.Lock()
        self._jobs: list[_Job] = []
        self._has_told = False
        self._begin()

    def _begin(self) -> None:
        self._memory.release(self._held + self._plan_bytes)
        self._held = self._plan_bytes = 0
        self._made: dict[str, CallAnswer] = {}
        self._unmeasured: deque[CallAnswer] = deque()
        self._expected: dict[str, ExpectedCall] = {}
        self._is_unexpected = False
        self._next_at = 0
        self._answers_used = 0
        self._seconds = 0.0
        self._gave_up = False

    def end_cell(self) -> None:
        """Stop all copies, and have nothing expected any more."""
        with self._lock:
            self._end_jobs()
            self._begin()
            has_told, self._has_told = self._has_told, False
        if has_told:
            self._foresight.expect(())

    def _end_jobs(self) -> None:
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.end()

    # the cell's calls

    def answer(self, *_: object) -> None:
        """Answer nothing: the cell gets real answers only."""

    def made(self, name: str, args: list[Json], kwargs: dict[str, Json]) -> CallAnswer | None:
        """Keep the call, and whether it was expected."""
        if name not in self._foresight.functions or self._gave_up:
            return None
        key = call_key(name, args, kwargs)
        with self._lock:
            answer = None if key in self._made else CallAnswer()
            if answer is not None:
                self._made[key] = answer
                self._unmeasured.append(answer)
            self._measure()
            self._is_unexpected = self._is_unexpected or key not in self._expected
        return answer

    def _measure(self) -> None:
        """Reserve memory for the answers that have come since, or give up."""
        while self._unmeasured and (kept := self._unmeasured[0].kept) is not None:
            self._unmeasured.popleft()
            size = getsizeof(kept)
            if self._held + size > _ANSWER_BYTES_AT_MOST or not self._memory.reserve(size):
                self._give_up()
                return
            self._held += size
        if len(self._made) > MADE_AT_MOST:
            self._give_up()

    def _give_up(self) -> None:
        """Foresee nothing more in this cell, and keep nothing for it."""
        self._end_jobs()
        self._begin()
        self._gave_up = True

    def has_guessed(self) -> bool:
        """Return False: the cell gets no guesses."""
        return False

    def waits(self) -> None:
        """Have the cell rehearsed, if it waits for a call that was not expected and a rehearsal is due."""
        if not self._is_unexpected:
            return
        self._is_unexpected = False
        if self._is_due():
            self._rehearse()

    def _is_due(self) -> bool:
        if self._gave_up or self._jobs or not self._has_watched():
            return False
        return len(self._made) >= self._next_at or self._expected_answers() > self._answers_used

    def _has_watched(self) -> bool:
        return (
            sum(answer.is_settled for answer in itertools.islice(self._made.values(), 2 * _WATCHED_ANSWERS))
            >= _WATCHED_ANSWERS
        )

    def _expected_answers(self) -> int:
        return sum(_is_answered(call.answer) for call in self._expected.values())

    # rehearsing

    def _rehearse(self) -> None:
        known = self._known()
        self._answers_used = self._expected_answers()
        jobs: list[_Job] = []
        try:
            for number, copy in enumerate(self._make_copies(_COPIES)):
                rehearsal = Rehearsal(self._foresight, known, guesses_otherwise=number > 0, copy=copy)
                jobs.append(_Job(copy, rehearsal, self._foresight.rehearse))
            self._jobs = jobs
            for job in jobs:
                job.begin(self._threads(), partial(self._take_report, jobs))
        except (OutOfMemoryBudget, RuntimeError) as error:  # RuntimeError: of an executor that was shut down
            logger.debug("a cell is not rehearsed: %s", error)
            self._gave_up, self._jobs = True, []
            for job in jobs:
                job.end()

    def _known(self) -> dict[str, KeptOutcome]:
        """Return the answers that have come, by call."""
        with self._lock:
            expected = [(key, call.answer) for key, call in self._expected.items() if _is_answered(call.answer)]
            made = {key: answer.kept for key, answer in self._made.items() if answer.is_settled}
        known = {key: kept_outcome(answer.result()) for key, answer in expected}
        return known | {key: kept for key, kept in made.items() if kept is not None}

    def _take_report(self, jobs: "list[_Job]") -> None:
        """Compare what two copies have found, once both have ended."""
        with self._lock:
            if self._jobs is not jobs or not all(job.has_ended for job in jobs):
                return
            self._jobs = []
            self._seconds += max(job.seconds for job in jobs)
            was_cut = any(job.copy.stopped_by is not None for job in jobs)
            self._gave_up = was_cut or self._seconds > _CELL_SECONDS
            plan = self._compare(jobs[0].rehearsal, jobs[1].rehearsal)
            if not self._hold_plan(jobs[0].rehearsal.bytes):
                plan, self._gave_up = {}, True
            certain = {key: call for (key, _), call in plan.items() if call.is_certain}
            self._next_at = 2 * len(self._made) if certain.keys() <= self._expected.keys() else 0
            # Those that are answered stay: later rehearsals use the answers.
            self._expected = {key: call for key, call in self._expected.items() if _is_answered(call.answer)} | certain
            calls = [call for call in plan.values() if not call.answer.done()]
            if calls:  # none would mean that the cell has ended
                self._has_told = True
                self._foresight.expect(calls)  # inside the lock: the end of the cell must come after it

    def _hold_plan(self, size: int) -> bool:
        self._memory.release(self._plan_bytes)
        self._plan_bytes = size if self._memory.reserve(size) else 0
        return self._plan_bytes == size

    def _compare(self, first: Rehearsal, second: Rehearsal) -> dict[tuple[str, int], ExpectedCall]:
        """Return the calls of the first copy that the cell has not made, in order.

        A call that is made twice is answered once. One that only the first copy made contains a guess, so it counts
        each time, also if it was made with that as the answer. At places of the code where the cell has made calls, or
        the other copy, and the first copy makes none, there may be one before any call: answers may decide that.
        """
        also = {call.key: call.is_conditional for call in second.calls}
        heard = {call.place for call in first.calls}
        others = first.past | {call.place: call for call in second.calls}
        maybe = [call for place, call in others.items() if place not in heard][:_PLACES_AT_MOST]
        plan: dict[tuple[str, int], ExpectedCall] = {}
        for number, call in enumerate(first.calls):
            is_certain = call.key in also
            place = call.key, 0 if is_certain else number + 1
            if place in plan or (is_certain and call.key in self._made):
                continue
            if is_certain:
                plan |= {(one.key, number + 1): _expected(one, is_certain=False) for one in maybe}
            is_conditional = call.is_conditional or also.get(call.key, True)
            plan[place] = self._expected.get(call.key) or _expected(
                call, is_certain=is_certain, is_conditional=is_conditional
            )
        return plan


def _expected(call: _HeardCall, *, is_certain: bool, is_conditional: bool = True) -> ExpectedCall:
    return ExpectedCall(
        name=call.name, args=call.args, kwargs=call.kwargs, is_certain=is_certain, is_conditional=is_conditional
    )


class _Job:
    """One copy that rehearses on a thread."""

    def __init__(self, copy: RehearsingCopy, rehearsal: Rehearsal, function: str | None) -> None:
        self.copy, self.rehearsal, self._function = copy, rehearsal, function
        self._future: Future[None] | None = None
        self._lock = threading.Lock()
        self.seconds = 0.0
        self.has_ended = False

    def begin(self, threads: Executor, then: Callable[[], None]) -> None:
        self._future = threads.submit(self._run, then)

    def end(self) -> None:
        """Stop the copy. One that has not begun is closed."""
        if self._future is None or self._future.cancel():
            self.copy.close()
            return
        with self._lock:  # a copy that is closed has no memory to write a stop into
            if not self.has_ended:
                self.rehearsal.stop()

    def _run(self, then: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            if not self.rehearsal.is_stopped:
                self.copy.rehearse(self.rehearsal, self._function, _COPY_SECONDS)
        finally:
            with self._lock:
                self.has_ended = True
            self.copy.close()
            self.seconds = time.monotonic() - began
            then()


def unlike(answer: Json) -> Json:
    """Return another answer of the same shape: code that parses the one can parse the other."""
    match answer:
        case bool():
            return not answer
        case int() | float():
            return answer + 1
        case list():
            return [unlike(value) for value in answer]
        case dict():
            return {key: unlike(value) for key, value in answer.items()}
        case str():
            return _unlike_text(answer)
    return answer


def _unlike_text(text: str) -> str:
    try:
        value = json.loads(text)
        if isinstance(value, bool | int | float | list | dict) and value not in ([], {}):
            return json.dumps(unlike(value))
    except (ValueError, RecursionError):
        pass
    return f"{text} (or not)"


def _is_answered(future: "Future[object]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None

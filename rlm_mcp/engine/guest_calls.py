"""The calls of code in a run's REPL, answered from the record, by the sub-model, or by a child run.

Every answer is recorded before the code gets it, under a key made of the request. So a run that is resumed after a
crash gives the same request the same answer without paying again, and a replay needs no model at all.
"""

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import anyio

from rlm_mcp.concurrency import is_being_cancelled
from rlm_mcp.engine.ahead_calls import AheadCalls, QueryAnswer
from rlm_mcp.engine.budget import Bill, BudgetLeft, Ledger
from rlm_mcp.engine.classify import PACK_SIZES, classify, estimate
from rlm_mcp.engine.coverage import Reading
from rlm_mcp.engine.notes import NOTES_SCHEMA, checked_notes, query_for_notes
from rlm_mcp.engine.packs import Labelling
from rlm_mcp.engine.policy import policy_of
from rlm_mcp.engine.question_words import MAX_QUERY_CHARS
from rlm_mcp.engine.request_keys import call_key
from rlm_mcp.engine.turn import LAST_SHARE
from rlm_mcp.errors import CallsStopped, RlmError, SubCallFailed
from rlm_mcp.models.base import Profile, Usage
from rlm_mcp.records.events import Event, SubAsked, SubFailed, SubReply
from rlm_mcp.records.tape import Tape, TapedRequest
from rlm_mcp.repl.guest_functions import ANSWER_CHARS, ARGUMENT_CHARS, CALL_SECONDS, GuestFunction, in_words
from rlm_mcp.repl.types import ExpectedQuery, StartCall

_FREE = Profile(usd_per_mtok_in=0.0, usd_per_mtok_out=0.0)
_HEAD_CHARS = 300  # of a prompt in the record: enough to recognise it; the key identifies the whole


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildQuery:
    """The query of a child run about a value. With `notes` it answers with findings and their quotes (notes.py)."""

    query: str
    context: object
    notes: bool = False

    @property
    def key(self) -> str:
        """The key of the request; notes are another answer."""
        return call_key("rlm", self.query, self.context, *(["notes"] if self.notes else []))


class AskSub(Protocol):
    """Asks a sub-model and pays from `ledger`: `SubCalls.ask`, with its cache and schemas."""

    async def __call__(
        self,
        ledger: Ledger,
        prompt: str,
        *,
        model: str | None = None,
        schema: object | None = None,
        material: str | None = None,
        mark: bool = False,
        bill: Bill | None = None,
    ) -> object:
        """One sub-call. Raises SubCallFailed; `bill` is filled in then, too."""


async def _nothing(_: Event | None = None) -> None:
    """Does nothing: there is no record."""


class RunCalls:
    """The GuestCalls of one run at one depth. `child` starts a child run over a value; it is None at the last depth."""

    def __init__(
        self,
        *,
        ask: AskSub,
        child: Callable[[ChildQuery, str], Awaitable[object]] | None,
        ledger: Ledger,
        tape: Tape,
        reading: Reading,
        profiles: Mapping[str, Profile],
        record: Callable[[Event], None],
        tell: Callable[[Event], None] = lambda _: None,
        own: Sequence[GuestFunction] = (),
        place: Callable[[], str] = lambda: "",
        announce: Callable[[Event], Awaitable[None]] = _nothing,
        settled: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        """`record` is told to listeners, too; what is announced is not, and is written when `announce` returns.

        `settled` returns once everything recorded is written.
        """
        self._ask = ask
        self._child = child
        self._ledger = ledger
        self._tape = tape
        self._reading = reading
        self._profiles = profiles
        self._sizes: dict[str, int] = {}
        """texts that a model judges in one call, as far as it was measured"""
        self._record = record
        self._tell = tell
        self._own = {function.name: function for function in own}
        self._place = place
        self._calls_here: tuple[str, Counter[str]] = "", Counter()
        """the calls of functions in this place of the run, by what is called with what"""
        self._announce = announce
        self._settled = settled
        self._children: dict[str, QueryAnswer] = {}
        self._ahead = AheadCalls(ledger, profiles, ask=self._ask_expected, key=_expected_key)

    def __repr__(self) -> str:
        return f"<RunCalls, {len(self._children)} children, {'strict tape' if self._tape.strict else 'live'}>"

    async def llm_query(
        self, prompt: str, *, model: str | None = None, schema: object | None = None, material: str | None = None
    ) -> object:
        """The recorded reply to this request, else the reply of the sub-model."""
        key = call_key("llm", prompt, material, model, schema)
        self._reading.add_prompt(prompt if material is None else material)
        ahead = self._ahead.take(key, prompt, material)
        if ahead is not None and await ahead.was_asked():
            return await ahead.value()
        with self._ahead.by_code(prompt, material):
            return await self._ask_llm(key, prompt, model=model, schema=schema, material=material)

    async def _ask_llm(
        self, key: str, prompt: str, *, model: str | None, schema: object | None, material: str | None
    ) -> object:
        return await self._answered(
            key,
            lambda bill: self._ask(self._ledger, prompt, model=model, schema=schema, material=material, bill=bill),
            kind="llm",
            facts={"prompt_chars": len(prompt) + len(material or ""), "prompt_head": prompt[:_HEAD_CHARS]},
            request=partial(TapedRequest, prompt=prompt, material=material, schema=schema),
        )

    async def classify(
        self,
        items: Sequence[str],
        question: str,
        labels: Sequence[str],
        *,
        examples: Sequence[tuple[str, str]] = (),
        model: str | None = None,
        batch: int | None = None,
        votes: int = 1,
        one_by_one: bool = False,
    ) -> dict[str, object]:
        """A label for each item, from sub-calls over many of them. Raises SubCallFailed if the budget is too small."""
        name = model or next(iter(self._profiles))
        profile = self._profiles.get(name, Profile())
        policy = policy_of(profile)
        if policy.packs_by_measure and votes == 1 and batch is None:
            self._refuse_beyond_budget(items, self._sizes.get(name, PACK_SIZES[0]))
        judged = await classify(
            partial(self._judge_pack, model=model),
            items,
            Labelling(question=question, labels=tuple(labels), examples=tuple(examples)),
            by_measure=policy.packs_by_measure,
            one_by_one=one_by_one,
            batch=batch,
            votes=votes,
            sizes=self._sizes,
            model=name,
            seconds=self._seconds_to_judge(),
        )
        for item, label in zip(items, judged.labels, strict=True):
            if label is not None:
                self._reading.add_prompt(item)
        return {
            "labels": list(judged.labels),
            "failed": [[index, reason] for index, reason in judged.failed.items()],
            "uncertain": list(judged.uncertain),
            "calls": judged.calls,
            "size": judged.size,
        }

    def _seconds_to_judge(self) -> float | None:
        """The time after which a block has to go on with the labels that it has, before the block is ended."""
        limit, left = self._ledger.limits.max_seconds, self._ledger.left().seconds
        if limit is None or left is None:
            return None
        # Level ends a block LAST_SHARE / 2 of the limit before the end, and one of the last turn at the end.
        return left - LAST_SHARE * limit * 0.6 if left > LAST_SHARE * limit else left * 0.8

    async def _judge_pack(self, prompt: str, *, schema: object | None = None, model: str | None = None) -> object:
        """The recorded or new reply to a pack, with marks where the provider tells that it was not sure."""
        return await self._answered(
            call_key("pack", prompt, None, model, schema),
            lambda bill: self._ask(self._ledger, prompt, model=model, schema=schema, mark=True, bill=bill),
            kind="llm",
            facts={"prompt_chars": len(prompt), "prompt_head": prompt[:_HEAD_CHARS]},
            request=partial(TapedRequest, prompt=prompt, schema=schema),
        )

    def _refuse_beyond_budget(self, items: Sequence[str], size: int) -> None:
        """Raises SubCallFailed, before anything is sent, if what is left surely does not pay for all items."""
        (calls, tokens), left = estimate(items, size=size), self._ledger.left()
        short = [f"{left.sub_calls} sub-calls"] if left.sub_calls is not None and calls > left.sub_calls else []
        short += [f"{left.tokens:,} tokens"] if left.tokens is not None and tokens > left.tokens else []
        if short:
            raise SubCallFailed(
                f"classify over {len(items):,} items takes about {calls} sub-calls and {tokens:,} tokens, and"
                f" {' and '.join(short)} are left, so nothing was sent: filter the items with code first (dates, words,"
                " regexes), or classify a part of them"
            )

    async def rlm_query(self, query: str, context: object, *, notes: bool = False) -> object:
        """The answer of a child run over `context`; at the last depth of a plain call with `context` as material."""
        asked = ChildQuery(query=query, context=context, notes=notes)
        if self._child is None:
            answer = await self.llm_query(**_plain(asked))
            return checked_notes(answer, context) if notes else answer
        if len(query) > MAX_QUERY_CHARS:
            raise SubCallFailed(
                f"rlm_query takes a query of {MAX_QUERY_CHARS:,} characters, not {len(query):,}: pass text as context"
            )
        key = asked.key
        while (known := self._children.get(key) or self._ahead.take(key)) is not None:
            self._children[key] = known  # before anything is awaited: an equal call waits for the same child
            if await known.was_asked():
                return await known.value()
            if self._children.get(key) is known:
                del self._children[key]
        answer = self._children[key] = QueryAnswer()
        with self._ahead.by_code():
            await answer.fill(self._child_answer(asked))
        return await answer.value()

    @property
    def functions(self) -> Sequence[str]:
        """The names of the caller's functions."""
        return tuple(self._own)

    async def call_function(self, name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """The recorded answer to this call in this place of the run, else that of the caller's function.

        Unlike a model, a function may answer the same call in another way later, so that the place is part of the key.
        """
        if (function := self._own.get(name)) is None:
            raise SubCallFailed(f"there is no function {name!r} here; there are: {', '.join(self._own) or 'none'}")
        shown = ", ".join([*map(_as_json, args), *(f"{key}={_as_json(value)}" for key, value in kwargs.items())])
        if len(shown) > ARGUMENT_CHARS:
            raise SubCallFailed(f"{name} takes {ARGUMENT_CHARS:,} characters, not {len(shown):,}: pass less")
        asked = call_key("tool", name, args, kwargs)
        return await self._answered(
            call_key("tool", self._place(), asked, self._number_here(asked)),
            lambda bill: self._call_own(function, args, kwargs, bill),
            kind="tool",
            facts={"prompt_chars": len(shown), "prompt_head": f"{name}({shown})"[:_HEAD_CHARS]},
        )

    def _number_here(self, asked: str) -> int:
        place, counts = self._calls_here
        if place != self._place():
            self._calls_here = place, counts = self._place(), Counter()
        counts[asked] += 1
        return counts[asked]

    async def _call_own(
        self, function: GuestFunction, args: Sequence[object], kwargs: Mapping[str, object], bill: Bill
    ) -> object:
        """Calls a function within the budget, of which it takes one sub-call; on record before it is called."""
        room = await self._ledger.reserve("sub", prompt_tokens=0, max_tokens=0, profile=_FREE)
        try:
            await bill.announce_request(0)
            left = self._ledger.left().seconds
            seconds = CALL_SECONDS if left is None else min(left, CALL_SECONDS)
            with anyio.move_on_after(seconds) as scope:
                text = _as_json(await function.call(args, kwargs))
        except (RlmError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # the function is the user's own, and may raise any, SystemExit too
            if isinstance(error, anyio.get_cancelled_exc_class()) and is_being_cancelled():
                raise
            raise in_words(function.name, error) from error
        finally:
            room.settle(Usage())
        if scope.cancelled_caught:
            raise _took_too_long(function.name, seconds)
        if len(text) > ANSWER_CHARS:
            raise SubCallFailed(f"{function.name} answered with {len(text):,} characters: ask it for less")
        return json.loads(text)

    def expect(self, queries: Sequence[ExpectedQuery], start: StartCall) -> None:
        """Takes what the running block will probably ask, and asks some of it already; a replay asks nothing."""
        if not self._tape.strict:
            self._ahead.expect([self._made_plain(query) for query in queries], start)

    def _made_plain(self, query: ExpectedQuery) -> ExpectedQuery:
        """The query as it is asked: at the last depth no child runs."""
        if query.function == "llm_query" or self._child is not None or not query.is_certain:
            return query
        return replace(query, function="llm_query", arguments={"model": None} | _plain(_child_query(query)))

    async def _ask_expected(self, query: ExpectedQuery) -> object:
        key, arguments = _expected_key(query), query.arguments
        if query.function == "rlm_query":
            return await self._child_answer(_child_query(query))
        return await self._ask_llm(key, **arguments)

    async def _child_answer(self, asked: ChildQuery) -> object:
        try:
            return await self._answer_of_child(asked)
        finally:
            self._ahead.count_child()

    async def _answer_of_child(self, asked: ChildQuery) -> object:
        child, key = self._child, asked.key
        assert child is not None  # noqa: S101 - checked by rlm_query
        if self._tape.strict:
            # A replay executes the code of children too; only model replies come from the record.
            return await child(asked, key[:8])
        facts = {"prompt_head": asked.query[:_HEAD_CHARS], "child": key[:8]}
        return await self._answered(key, lambda _: child(asked, key[:8]), kind="rlm", facts=facts)

    def budget(self) -> dict[str, object]:
        """The rest of each limit, by the name of the limit; None where there is no limit."""
        left: BudgetLeft = self._ledger.left()
        return {
            "usd": left.usd,
            "tokens": left.tokens,
            "sub_calls": left.sub_calls,
            "seconds": None if left.seconds is None else round(left.seconds, 1),
            "iterations": left.iterations,
        }

    async def _answered(
        self,
        key: str,
        ask: Callable[[Bill], Awaitable[object]],
        *,
        kind: Literal["llm", "rlm", "tool"],
        facts: Mapping[str, Any],
        request: Callable[..., TapedRequest] | None = None,
    ) -> object:
        """The answer to a call. `request` gives what is asked of a model, for the listener of a replay."""
        taped = self._tape.sub_call(key)
        if self._tape.strict:
            if taped is not None and request is not None:
                self._tape.on_request(request(reply=taped))
            return self._from_tape(taped, str(facts["prompt_head"]))
        if isinstance(taped, SubReply):
            return taped.value
        began, asked = time.monotonic(), SubAsked(key=key, kind=kind, **facts)
        bill = Bill(announce=lambda tokens: self._announce(replace(asked, request=bill.requests, prompt_tokens=tokens)))
        self._tell(asked)

        def outcome() -> dict[str, Any]:
            seconds = round(time.monotonic() - began, 3)
            spent = self._ledger.spent_in_all().to_json()
            return {"key": key, "kind": kind, **facts, "seconds": seconds, "spent": spent, **_billed(bill)}

        try:
            value = await ask(bill)
        except (CallsStopped, anyio.get_cancelled_exc_class()):
            if bill.requests or bill.usage != Usage():  # calls that were still waiting are not worth an event
                self._record(SubFailed(error="the run was stopped", **outcome()))
            raise
        except RlmError as error:
            self._record(SubFailed(error=str(error), **outcome()))
            raise
        self._record(SubReply(value=value, **outcome()))
        await self._settled()
        return value

    def _from_tape(self, taped: SubReply | SubFailed | None, prompt: str) -> object:
        if taped is None:
            self._tape.note_difference(f"code made a sub-call that the record does not hold: {prompt[:80]!r}")
            raise SubCallFailed("This is a replay, and its record holds no reply to this prompt.")
        self._record(taped)
        if isinstance(taped, SubFailed):
            raise SubCallFailed(taped.error)
        return taped.value


def _billed(bill: Bill) -> dict[str, Any]:
    """The model that answered and its usage; nothing for a child run, whose own events hold them."""
    if not bill.model:
        return {}
    return {"model": bill.model, "cached": bill.cached, "usage": bill.usage.to_json()}


def _child_query(query: ExpectedQuery) -> ChildQuery:
    given = query.arguments
    return ChildQuery(query=given["query"], context=given["context"], notes=given["notes"])


def _plain(asked: ChildQuery) -> dict[str, Any]:
    """The arguments of the plain call that stands for a child run at the last depth."""
    prompt = query_for_notes(asked.query) if asked.notes else asked.query
    schema = dict(NOTES_SCHEMA) if asked.notes else None
    return {"prompt": prompt, "material": _as_material(asked.context), "schema": schema}


def _as_material(context: object) -> str:
    return context if isinstance(context, str) else json.dumps(context, ensure_ascii=False)


def _expected_key(query: ExpectedQuery) -> str:
    arguments = query.arguments
    if query.function == "rlm_query":
        return _child_query(query).key
    return call_key("llm", *(arguments[name] for name in ("prompt", "material", "model", "schema")))


def _took_too_long(name: str, seconds: float) -> SubCallFailed:
    if seconds < CALL_SECONDS:
        return SubCallFailed(f"{name} took longer than the {seconds:.3g} s that the run had left: give what you have")
    return SubCallFailed(f"{name} took longer than {seconds:.0f} s: ask it for less")


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)

"""One run at one depth: does what `solve` says, first looking whether the record has already done it.

What the tape holds is not asked, run or recorded again (resume), or is asked and recorded again but answered from it
(replay, a strict tape). Blocks up to the saved checkpoint are not executed; the first one after it restores the REPL.
"""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import anyio

from rlm_mcp.concurrency import background_task
from rlm_mcp.engine import citations as evidence
from rlm_mcp.engine import prompts
from rlm_mcp.engine.briefing import brief_of_value, briefs
from rlm_mcp.engine.budget import Ledger, paid_call
from rlm_mcp.engine.grounding import plain
from rlm_mcp.engine.guest_calls import Calls
from rlm_mcp.engine.judge import Judge
from rlm_mcp.engine.prompts import Remaining
from rlm_mcp.engine.reply_schema import complaint
from rlm_mcp.engine.request_keys import prompt_hash
from rlm_mcp.engine.router import Route, route
from rlm_mcp.engine.steps import Again, Ask, Finish, Question, Rules, RunBlock, Step
from rlm_mcp.engine.trajectory import Trajectory
from rlm_mcp.engine.types import RunDeps, RunSpec
from rlm_mcp.errors import BudgetExceeded, PromptOverWindow, ReplayDiffers, RlmError, SubCallFailed
from rlm_mcp.models.base import Completion, Model, bound_prompt
from rlm_mcp.records.events import (
    Cell,
    CellBegun,
    Decided,
    Event,
    RootAsked,
    RootReply,
    Routed,
    ended_event,
    to_json,
)
from rlm_mcp.records.types import Citation, Coverage, Outcome, Status, StoppedBy
from rlm_mcp.repl.types import CellResult, RawCitation, Repl
from rlm_mcp.spending import Spent

RunChild = Callable[[RunSpec, RunDeps, Ledger], Awaitable[Outcome]]

STRONG_TURNS = 20
WEAK_TURNS = 10  # what a small model has not found by then it does not find
STRONG_REPLY_TOKENS = 16_384  # thinking included; the ledger sets this much aside while a call is in flight
WEAK_REPLY_TOKENS = 768  # a small model that writes more than this is repeating itself
CHILD_SHARE = 0.5  # of what is left: two children in a row leave a quarter to the parent
LAST_SHARE = 0.15  # of the seconds: room for the last turn, which is a model call and a short block
FINAL_FORMS = frozenset({"FINAL", "FINAL_VAR", "SUBMIT", "answer"})
_MOST_SHRINKS = 3
_LEAST_REPLY = 256  # tokens: a short block that submits a variable


class Level:
    """One run at one depth. `run_child` is the algorithm again, for `rlm_query`."""

    def __init__(self, spec: RunSpec, deps: RunDeps, ledger: Ledger, *, run_child: RunChild) -> None:
        self.spec, self.deps, self.ledger, self.run_child = spec, deps, ledger, run_child
        self.judge = Judge(Question(query=spec.query))
        self.trajectory = Trajectory(self.judge)
        self.way = Route(mode="rlm", depth=0, reason="")
        self.turn = 0
        self._taped: RootReply | None = None
        self._remaining = Remaining(turn=0, turns=1)
        self._last = ("", "")
        """the limit that makes this turn the last one, and the same in words"""
        self._dearest = (0.0, 0)
        """dollars and tokens that the dearest root call so far made the ledger set aside"""
        self._saved = None if spec.path or deps.tape.strict else deps.record.checkpoint()
        self._is_unsaved = False
        """blocks have run in the REPL that no checkpoint holds"""
        self._children: dict[anyio.CancelScope, anyio.Event] = {}
        self._silence = ""
        self._cited: tuple[RawCitation, ...] = ()
        self._evidence: tuple[tuple[Citation, ...], Coverage] = ((), Coverage())

    def __repr__(self) -> str:
        return f"turn {self.turn}" + (f" of {self.spec.path}" if self.spec.path else "")

    # --- the way ------------------------------------------------------------------------------------------------

    async def choose_way(self) -> Route:
        """Direct or the loop, and how deep; sets up the trajectory for it."""
        spec, root = self.spec, self.deps.root
        if spec.contexts:
            told = await anyio.to_thread.run_sync(briefs, self.deps.store, spec.contexts, spec.query)
            tokens = sum(context.estimated_tokens for context in spec.contexts)
        else:
            told = (brief_of_value(spec.value),)
            tokens = told[0].chars // 3
        taped = self.deps.tape.way(spec.path)
        if taped is not None:
            # What is left of a budget may speak for another way by now; the turns on record took this one.
            self.way = Route(mode=taped.mode, depth=taped.depth, reason=taped.reason)
        else:
            left = self.ledger.left().usd
            self.way = route(
                spec.query, tokens, root=root.profile, mode=spec.mode, max_depth=spec.max_depth, max_usd=left
            )
        schema = spec.output_schema
        question = Question(
            query=spec.query,
            schema=schema,
            check=partial(complaint, schema) if schema is not None else lambda _: None,
        )
        self.judge = Judge(question, _rules(self.deps))
        self.trajectory = Trajectory(self.judge, told)
        if self.deps.tape.strict or taped is None:
            way = self.way
            routed = Routed(mode=way.mode, depth=way.depth, reason=way.reason)
            if spec.path:  # RunStarted has these for the run that a client asked for
                chars = sum(brief.chars for brief in told)
                routed = replace(routed, query=spec.query, chars=chars, model=root.name)
            self._record(routed)
        return self.way

    def open_repl(self) -> AbstractAsyncContextManager[Repl]:
        """The REPL of this level, with what its code may ask."""
        deps, spec = self.deps, self.spec
        calls = Calls(
            ask=deps.ask_sub,
            child=self._run_child if self.way.depth > 0 else None,
            ledger=self.ledger,
            tape=deps.tape,
            reading=deps.reading,
            record=self._record,
            tell=self._tell,
        )
        return deps.open_repl(spec.contexts, calls, value=spec.value)

    async def _run_child(self, query: str, context: object, name: str) -> object:
        """`rlm_query`: a run like this one over a part, with its own ledger and its own place in the record."""
        path = f"{self.spec.path}.{name}" if self.spec.path else name
        child = RunSpec(query=query, value=context, max_depth=self.way.depth - 1, path=path)
        deps = replace(self.deps, root=self.deps.sub)
        outcome: Outcome | None = None
        with anyio.CancelScope() as scope:
            self._children[scope] = anyio.Event()
            try:
                outcome = await self.run_child(child, deps, self.ledger.child(share=CHILD_SHARE))
            finally:
                self._children.pop(scope).set()
        if outcome is None:
            raise SubCallFailed("the run that asked has ended")
        if outcome.status == "failed":
            raise SubCallFailed(
                f"The run over this part ended without an answer: {outcome.message or outcome.stopped_by}"
            )
        return outcome.answer

    # --- one turn -----------------------------------------------------------------------------------------------

    def remaining(self) -> Remaining:
        """Begins a turn: its number, and what is left; from the record where the turn is on record."""
        self.turn += 1
        self._taped = self.deps.tape.root(self.spec.path, self.turn)
        if self._taped is not None:
            self._remaining = Remaining(**self._taped.left)
            return self._remaining
        if self.deps.tape.strict:
            missing = f"the replay needs a {self} that the record does not hold"
            self.deps.tape.differ(missing)
            raise ReplayDiffers(missing)
        left = self.ledger.left()
        self._remaining = Remaining(
            turn=self.turn,
            turns=self.ledger.limits.max_iterations or (WEAK_TURNS if self.judge.rules.is_weak else STRONG_TURNS),
            seconds=left.seconds,
            usd=left.usd,
            sub_calls=left.sub_calls,
            tokens=left.tokens,
        )
        return self._remaining

    def why_last(self) -> str:
        """Why this has to be the last turn: what is left of a limit pays for one call at most. Else empty."""
        if self._taped is not None:
            self._last = self._taped.last[0], self._taped.last[1]
            return self._last[1]
        left, (usd, tokens), seconds = self.ledger.left(), self._dearest, self.ledger.limits.max_seconds
        if left.seconds is not None and seconds is not None and left.seconds < LAST_SHARE * seconds:
            self._last = "seconds", "the time is nearly used up"
        elif left.usd is not None and left.usd < 2 * usd:
            self._last = "usd", "the dollars are nearly used up"
        elif left.tokens is not None and left.tokens < 2 * tokens:
            self._last = "tokens", "the tokens are nearly used up"
        return self._last[1]

    async def ask_root(self, ask: Ask, repl: Repl | None = None) -> str:
        """The root model's reply: from the tape, else from the model, and then on record. Saves the REPL meanwhile."""
        if self._taped is not None:
            return self._reply_on_tape(self._taped, ask)
        self.ledger.take_iteration()
        self._tell(RootAsked(model=self.deps.root.name))
        if repl is None or not self._is_unsaved:
            return await self._reply(ask)
        wait = self.deps.save_after_seconds
        if wait <= 0:
            await self._save(repl, wait)
            return await self._reply(ask)
        async with background_task(self._save, repl, wait):
            return await self._reply(ask)

    async def _save(self, repl: Repl, wait: float) -> None:
        """Keeps what the REPL holds after the last finished turn. Once begun, it is finished."""
        turn = self.turn - 1
        await anyio.sleep(wait)
        with anyio.CancelScope(shield=True):
            data = await repl.checkpoint()
            await anyio.to_thread.run_sync(self.deps.record.save_checkpoint, turn, data)
            self._is_unsaved = False

    async def _reply(self, ask: Ask) -> str:
        for shrinks in range(_MOST_SHRINKS):
            try:
                completion = await self._complete(ask, shrinks)
            except PromptOverWindow:
                ask = self.trajectory.shrink(ask)
                continue
            self.trajectory.measure(completion.usage.prompt_tokens, ask.messages)
            self._silence = "" if completion.text.strip() else _silence(self.deps.root, completion)
            return completion.text
        raise PromptOverWindow(
            f"turn {ask.turn} is over the window of {self.deps.root.name!r} even when shortened: state the model's"
            f" true window_tokens (now {self.judge.rules.window_tokens:,})"
        )

    async def _complete(self, ask: Ask, shrinks: int) -> Completion:
        began = time.monotonic()
        with anyio.move_on_after(self.ledger.left().seconds):
            completion = await paid_call(
                self.ledger,
                self.deps.root,
                ask.messages,
                kind="root",
                max_tokens=self.judge.rules.reply_tokens,
                temperature=ask.temperature,
            )
            self._note_reply(ask, completion, shrinks=shrinks, seconds=round(time.monotonic() - began, 3))
            return completion
        raise BudgetExceeded("the time was used up while the root model was being asked", which="seconds")

    def _note_reply(self, ask: Ask, completion: Completion, *, shrinks: int, seconds: float) -> None:
        # What the ledger will want to set aside for such a call, which is more than it cost.
        tokens = bound_prompt(ask.messages)
        usd = self.deps.root.profile.cost_usd(tokens, _LEAST_REPLY) or 0.0
        self._dearest = max(self._dearest[0], usd), max(self._dearest[1], tokens + _LEAST_REPLY)
        self._record(
            RootReply(
                prompt_hash=prompt_hash(ask.messages),
                told=_told(ask),
                text=completion.text,
                finish_reason=completion.finish_reason,
                model=_without_directory(completion.model),
                temperature=ask.temperature,
                left=asdict(self._remaining),
                last=self._last,
                shrinks=shrinks,
                usage=completion.usage.to_json(),
                seconds=seconds,
                spent=self.ledger.spent_in_all().to_json(),
            )
        )

    def _reply_on_tape(self, taped: RootReply, ask: Ask) -> str:
        for _ in range(taped.shrinks):
            ask = self.trajectory.shrink(ask)
        if self.deps.tape.strict:
            if prompt_hash(ask.messages) != taped.prompt_hash:
                self.deps.tape.differ(f"{self} asked the root model something else than the record says")
            self._record(taped)
        self.trajectory.measure(taped.usage["prompt_tokens"], ask.messages)
        return taped.text

    async def run(self, repl: Repl, step: RunBlock) -> CellResult:
        """What a block did. Blocks up to the checkpoint come from the record; the first one after it restores it."""
        taped = self.deps.tape.cell(self.spec.path, self.turn, step.block)
        known = CellResult.from_json(to_json(taped)) if taped is not None else None
        if known is not None and self._saved is not None and self.turn <= self._saved[0]:
            cell = known
        else:
            await self._restore(repl)
            self._is_unsaved = not self.spec.path and not self.deps.tape.strict
            self._tell(CellBegun(block=step.block, code=step.code))
            cell = await self._run_in_time(repl, step.code)
            if known is None or self.deps.tape.strict:
                self._record(Cell(block=step.block, **cell.to_json()))
            if known is not None and _said(known) != _said(cell):
                self.deps.tape.differ(f"{self} block {step.block} {_difference(known, cell)}")
            if known is not None and not self.deps.tape.strict:
                cell = known
        self._cited += cell.citations
        self.deps.reading.ran(cell)
        self.deps.reading.printed(prompts.output_text(cell, prompts.output_limits(self.judge.rules.strength)))
        return cell

    async def _restore(self, repl: Repl) -> None:
        if self._saved is not None:
            await repl.restore(self._saved[1])
            self._saved = None

    async def _run_in_time(self, repl: Repl, code: str) -> CellResult:
        """Runs a block for as long as leaves the time of a last turn."""
        limit, left = self.ledger.limits.max_seconds, self.ledger.left().seconds
        if limit is None or left is None:
            return await repl.run(code)
        seconds = max(0.0, left if self._last[1] else left - LAST_SHARE * limit / 2)
        with anyio.move_on_after(seconds) as time_left:
            cell = await repl.run(code)
            # A REPL may give back what an interrupted block had printed rather than raise the cancellation.
            return replace(cell, stopped_by="deadline") if time_left.cancel_called else cell
        return CellResult(code=code, stopped_by="deadline", seconds=seconds, variables=await repl.variables())

    def note(self, step: Step) -> None:
        """Puts the decision of a turn on record."""
        if self._taped is not None and not self.deps.tape.strict:
            return
        match step:
            case Again():
                self._record(Decided(step="again", why=step.why, detail=step.detail))
            case Finish():
                self._record(Decided(step="finish", why=step.answered_by, detail=step.doubt))

    # --- the other way ------------------------------------------------------------------------------------------

    async def answer_directly(self) -> Finish:
        """One call that holds everything; under a schema a second one when the first does not satisfy it."""
        spec = self.spec
        texts = await anyio.to_thread.run_sync(_texts, spec, self.deps)
        for text in texts.values():
            self.deps.reading.shown(text)
        messages = prompts.direct(spec.query, texts, spec.output_schema)
        for _ in range(1 if spec.output_schema is None else 2):
            self.remaining()
            said = await self.ask_root(Ask(messages=messages, turn=self.turn, is_last=True))
            finish = self.judge.judge_text(said)
            if finish.answered_by != "invalid":
                break
            messages = prompts.direct_again(messages, said, finish.doubt)
        return finish

    # --- the end ------------------------------------------------------------------------------------------------

    async def weigh_evidence(self, answer: object) -> str:
        """Checks what the answer rests on, and how much of the contexts was read. Says why it could not, if so."""
        if self.spec.path:
            return ""
        store, contexts = self.deps.store, self.spec.contexts
        run_in_thread = anyio.to_thread.run_sync
        try:
            citations = await run_in_thread(evidence.cited, store, contexts, self._cited, answer)
            self._evidence = citations, await run_in_thread(self.deps.reading.coverage, store, contexts)
        except RlmError as error:
            return f"The evidence could not be checked: {error}."
        return ""

    def stopped_by(self, finish: Finish) -> StoppedBy:
        """What ended a run that was not broken off."""
        if finish.answered_by in FINAL_FORMS:
            return "final"
        if self._last[1]:
            return limit_of(self._last[0])
        return "iterations" if self._remaining.turn >= self._remaining.turns else "final"

    def best(self) -> Finish:
        """The best answer so far."""
        return self.judge.best()

    async def end(self, finish: Finish, stopped_by: StoppedBy, *said: str) -> Outcome:
        """Puts the end on record, once all that was under way has been settled; also when it is cancelled."""
        with anyio.CancelScope(shield=True):
            for scope, ended in list(self._children.items()):
                scope.cancel()
                await ended.wait()
            if not self.spec.path:
                await self.deps.stop_calls()
            outcome = self._outcome(finish, stopped_by, said)
            await anyio.to_thread.run_sync(self._write_end, outcome)
        self.deps.on_event(self._placed(ended_event(outcome)))
        return outcome

    def _write_end(self, outcome: Outcome) -> None:
        """On a thread of its own: it waits until the disk has the answer and the end."""
        if not self.spec.path and outcome.answer is not None:
            self.deps.record.write_answer(outcome.answer)
        self.deps.record.append(self._placed(ended_event(outcome)))

    def _outcome(self, finish: Finish, stopped_by: StoppedBy, said: Sequence[str]) -> Outcome:
        citations, coverage = self._evidence
        # A client gets text unless it asked for a type; code that called rlm_query gets the value as it was set.
        as_set = self.spec.path or self.spec.output_schema is not None or finish.answer is None
        answer = finish.answer if as_set else plain(finish.answer)
        spent = Spent.from_json(self.deps.tape.spent) if self.deps.tape.strict else self.ledger.spent()
        return Outcome(
            status=_status(finish, stopped_by),
            answer=answer,
            stopped_by=stopped_by,
            answered_by=finish.answered_by,
            citations=citations,
            coverage=coverage,
            usage=spent,
            iterations=self.turn,
            mode=self.way.mode,
            mode_reason=self.way.reason,
            depth=self.way.depth,
            message=_sentences(*said, self._silence, _marked(finish)),
        )

    def _record(self, event: Event) -> None:
        full = self._placed(event)
        self.deps.record.append(full)
        self.deps.on_event(full)

    def _tell(self, event: Event) -> None:
        self.deps.on_event(self._placed(event))

    def _placed(self, event: Event) -> Event:
        """The event at this turn; one that comes from a record has its place."""
        return event if event.at is not None else replace(event, path=self.spec.path, turn=self.turn)


def _told(ask: Ask) -> str | None:
    """The user message of a prompt that stands alone: the opening, a fresh start, the final step of a weak model.

    Those of other turns are the outputs before them, which are on record already.
    """
    return ask.messages[-1].content if len(ask.messages) == 2 else None


def _without_directory(model: str) -> str:
    """A model's name; local servers report the path of its file, which has no business in a record."""
    return re.split(r"[/\\]", model)[-1] if re.match(r"/|\\|[A-Za-z]:", model) else model


def _rules(deps: RunDeps) -> Rules:
    root, sub = deps.root.profile, deps.sub.profile
    most = WEAK_REPLY_TOKENS if root.strength == "weak" else STRONG_REPLY_TOKENS
    return Rules(
        strength=root.strength,
        window_tokens=root.window_tokens,
        reply_tokens=min(most, root.max_output_tokens, root.window_tokens // 4),
        # Logs and code come to two and a half characters to a token.
        sub_prompt_chars=min(100_000, max(1_000, int(sub.window_tokens * 0.75 * 2.5) // 1_000 * 1_000)),
    )


def _texts(spec: RunSpec, deps: RunDeps) -> dict[str, str]:
    """Everything the contexts hold, by name and path."""
    if not spec.contexts:
        value = spec.value
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {"context": str(value)}
    return {
        context.name if context.kind == "text" else f"{context.name}/{entry.path}": deps.store.text(context, entry.path)
        for context in spec.contexts
        for entry in deps.store.files(context)
    }


def _said(cell: CellResult) -> tuple[Any, ...]:
    return cell.stdout, cell.value, cell.error and (cell.error.type, cell.error.message), cell.final


def _difference(known: CellResult, cell: CellResult) -> str:
    if known.stdout != cell.stdout:
        return f"printed {cell.stdout[:80]!r} where the record has {known.stdout[:80]!r}"
    now, then = cell.value or cell.error or cell.final, known.value or known.error or known.final
    return f"gave {now} where the record has {then}"


def limit_of(which: str) -> StoppedBy:
    """The limit that a BudgetExceeded names, in the words of the result."""
    match which:
        case "usd" | "tokens" | "sub_calls" | "seconds" | "iterations":
            return which
    return "error"


def _status(finish: Finish, stopped_by: StoppedBy) -> Status:
    if stopped_by == "cancelled":
        return "cancelled"
    return "failed" if stopped_by == "error" or finish.answer is None else "completed"


def _silence(model: Model, completion: Completion) -> str:
    """What there is to say of an empty reply, should it be the last one."""
    spent, why = completion.usage.completion_tokens, completion.finish_reason
    if why == "length":
        return (
            f"Model {model.name!r} spent its {spent} tokens on thinking and said nothing: choose one that thinks less."
        )
    return f"Model {model.name!r} replied with nothing ({why}, {spent} tokens): choose another model."


def _sentences(*parts: str) -> str:
    """Those that are not empty, one after the other; errors come without the full stop that the next one needs."""
    *before, last = [part for part in parts if part] or [""]
    return " ".join([*(part if part.endswith(".") else f"{part}." for part in before), last])


def _marked(finish: Finish) -> str:
    """What the caller has to know about an answer that nothing vouches for."""
    if finish.answer is None:
        return "There is no answer."
    if finish.doubt:
        return f"This is the best answer so far, not a confirmed one: {finish.doubt}."
    return ""

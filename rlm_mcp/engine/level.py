"""One run at one depth: carries out the steps of the loop, or takes their results from the record if it holds them.

On resume, replies and cells on the tape are neither asked for, run nor recorded again. A replay (a strict tape) runs
and records everything again, but takes the replies of models from the tape. Each step of a turn gets the `Turn` that
`begin_turn` returned, so the order of calls follows from their arguments.
"""

import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import anyio

from rlm_mcp.concurrency import LONG_CHARS, run_off_loop
from rlm_mcp.engine import cell_display, citations
from rlm_mcp.engine.briefing import brief_contexts, brief_of_value, chars_of_value
from rlm_mcp.engine.budget import Bill, Ledger, paid_call
from rlm_mcp.engine.checkpoints import Checkpoints
from rlm_mcp.engine.guest_calls import ChildQuery, RunCalls
from rlm_mcp.engine.judge import Judge
from rlm_mcp.engine.notes import NOTES_SCHEMA, checked_notes, complaint_about_notes, query_for_notes
from rlm_mcp.engine.outcome import Ending, Evidence, outcome_of, silence_of
from rlm_mcp.engine.policy import policy_of
from rlm_mcp.engine.reply_schema import complaint
from rlm_mcp.engine.request_keys import prompt_hash
from rlm_mcp.engine.router import Route, route
from rlm_mcp.engine.steps import Again, Ask, Finish, Question, Rules, RunBlock
from rlm_mcp.engine.trajectory import Trajectory
from rlm_mcp.engine.turn import LAST_SHARE, Turn, new_turn, turn_on_tape
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
from rlm_mcp.records.tape import TapedRequest
from rlm_mcp.records.types import Outcome
from rlm_mcp.repl.types import CellResult, RawCitation, Repl
from rlm_mcp.spending import Spent

RunChild = Callable[[RunSpec, RunDeps, Ledger], Awaitable[Outcome]]

CHILD_SHARE = 0.5  # of what is left: two children in a row leave a quarter to the parent
_MOST_SHRINKS = 3
_NO_WAY = Route(mode="rlm", depth=0, reason="")  # recorded of a run that was refused before its first turn

log = logging.getLogger(__name__)


class Level:
    """One run at one depth. `run_child` runs the loop for `rlm_query`."""

    def __init__(self, spec: RunSpec, deps: RunDeps, ledger: Ledger, *, run_child: RunChild) -> None:
        self.spec, self.deps, self.ledger = spec, deps, ledger
        self.way, self._refusal = _choose_way(spec, deps, ledger)
        self.judge = Judge(_question(spec), _rules(spec, deps))
        self._run_child = run_child
        self._turns = 0
        self._longest_prompt = 0
        """upper estimate of the tokens of the longest prompt of the root model"""
        self._last_completion: Completion | None = None
        self._cited: tuple[RawCitation, ...] = ()
        self._checkpoints = Checkpoints(
            deps.record, after_seconds=deps.save_after_seconds, enabled=not spec.path and not deps.tape.strict
        )
        self._children: dict[anyio.CancelScope, anyio.Event] = {}

    def __repr__(self) -> str:
        return f"<Level in {self._place}>"

    @property
    def chars_to_check(self) -> int:
        """Characters that the check of an answer reads besides the answer: those in which quotes are looked for.

        A schema counts as many: how long it takes is up to whoever wrote it.
        """
        quoted = _chars(self.spec) if self.spec.takes_notes else 0
        return quoted if self.spec.output_schema is None else quoted + LONG_CHARS

    @property
    def _place(self) -> str:
        return f"turn {self._turns}" + (f" of {self.spec.path}" if self.spec.path else "")

    # --- the beginning ------------------------------------------------------------------------------------------

    def record_way(self) -> None:
        """Puts the way on record. Raises PromptOverWindow if the contexts do not fit the way that was asked for."""
        if self._refusal is not None:
            raise self._refusal
        if self.deps.tape.strict or self.deps.tape.route(self.spec.path) is None:
            spec, way = self.spec, self.way
            routed = Routed(mode=way.mode, depth=way.depth, reason=way.reason)
            if spec.path:  # RunStarted has these for the run that a client asked for
                routed = replace(routed, query=spec.query, chars=_chars(spec), model=self.deps.root.name)
            self._record(routed)

    async def begin_trajectory(self) -> Trajectory:
        """The dialogue with the root model before its first turn. Reads the contexts to brief it."""
        spec = self.spec
        if not spec.contexts:
            return Trajectory(self.judge, (brief_of_value(spec.value),))
        brief = partial(brief_contexts, counts_places=self.judge.rules.policy.counts_places)
        told = await anyio.to_thread.run_sync(brief, self.deps.store, spec.contexts, spec.query, self.deps.imports)
        return Trajectory(self.judge, told)

    @asynccontextmanager
    async def open_repl(self) -> AsyncIterator[Repl]:
        """Opens the REPL of this level with the calls that its code may make; restores it if the run is resumed."""
        deps, spec = self.deps, self.spec
        calls = RunCalls(
            ask=deps.ask_sub,
            child=self._answer_child if self.way.depth > 0 else None,
            ledger=self.ledger,
            tape=deps.tape,
            reading=deps.reading,
            profiles={model.name: model.profile for model in (deps.sub, deps.root)},
            record=self._record,
            tell=self._tell,
            announce=self._announce,
            settled=deps.record.settled,
            own=deps.functions,
            place=lambda: f"{spec.path}:{self._turns}",
        )
        async with deps.open_repl(spec.contexts, calls, value=spec.value) as repl:
            await self._checkpoints.restore(repl, known_blocks=self._blocks_on_record)
            yield repl

    def _blocks_on_record(self, turn: int) -> int | None:
        """How many blocks up to that turn have their result on record; None if one of them cannot be read."""
        taped = [cell for cell in self.deps.tape.cells(self.spec.path) if cell.turn <= turn]
        return len(taped) if all(_result_of(cell) is not None for cell in taped) else None

    async def _answer_child(self, asked: ChildQuery, name: str) -> object:
        """The answer of `rlm_query`: that of a run over a part, with its own ledger and its own path in the record."""
        path = f"{self.spec.path}.{name}" if self.spec.path else name
        child = RunSpec(
            query=query_for_notes(asked.query) if asked.notes else asked.query,
            value=asked.context,
            max_depth=self.way.depth - 1,
            output_schema=NOTES_SCHEMA if asked.notes else None,
            takes_notes=asked.notes,
            summaries=self.spec.summaries,
            path=path,
        )
        deps = replace(self.deps, root=self._root_of_child(path))
        outcome: Outcome | None = None
        with anyio.CancelScope() as scope:
            self._children[scope] = anyio.Event()
            try:
                outcome = await self._run_child(child, deps, self.ledger.child(share=CHILD_SHARE))
            finally:
                self._children.pop(scope).set()
        if outcome is None:
            raise SubCallFailed("the run that asked has ended")
        if outcome.status == "failed":
            raise SubCallFailed(
                f"The run over this part ended without an answer: {outcome.message or outcome.stopped_by}"
            )
        if not asked.notes:
            return outcome.answer
        return await run_off_loop(chars_of_value(asked.context), checked_notes, outcome.answer, asked.context)

    def _root_of_child(self, path: str) -> Model:
        """The root model of a child run: that on record, else the sub-model unless it is too weak for that."""
        root, sub = self.deps.root, self.deps.sub
        if (taped := self.deps.tape.route(path)) is not None:
            return root if taped.model == root.name else sub
        return sub if policy_of(sub.profile).leads_children else root

    # --- a turn -------------------------------------------------------------------------------------------------

    def begin_turn(self) -> Turn:
        """The next turn, as recorded if it is on record. Raises ReplayDiffers if a replay has no such turn."""
        self._turns += 1
        taped = self.deps.tape.root_reply(self.spec.path, self._turns)
        if taped is not None:
            return turn_on_tape(taped)
        if self.deps.tape.strict:
            missing = f"the replay needs a {self._place} that the record does not hold"
            self.deps.tape.note_difference(missing)
            raise ReplayDiffers(missing)
        root, ledger = self.deps.root.profile, self.ledger
        return new_turn(self._turns, ledger.left(), ledger.limits, root, longest_prompt=self._longest_prompt)

    async def ask_root(
        self, turn: Turn, ask: Ask, trajectory: Trajectory | None = None, repl: Repl | None = None
    ) -> str:
        """The root model's reply: from the tape, else from the model, and then on record. Saves the REPL meanwhile.

        Only a `trajectory` can shorten a prompt that the provider refuses as too long. Raises PromptOverWindow.
        """
        if turn.taped is not None:
            return self._reply_on_tape(turn.taped, ask, trajectory)
        self.ledger.count_iteration()
        self._tell(RootAsked(model=self.deps.root.name))
        async with self._checkpoints.saved_meanwhile(repl, turn.number - 1):
            return await self._reply(turn, ask, trajectory)

    async def _reply(self, turn: Turn, ask: Ask, trajectory: Trajectory | None) -> str:
        for shrinks in range(_MOST_SHRINKS):
            try:
                completion = await self._complete(turn, ask, shrinks)
            except PromptOverWindow:
                if trajectory is None:
                    raise
                ask = trajectory.shrink(ask)
                continue
            if trajectory is not None:
                trajectory.measure(completion.usage.prompt_tokens, ask.messages)
            await self.deps.record.settled()
            return completion.text
        raise PromptOverWindow(
            f"turn {turn.number} is over the window of {self.deps.root.name!r} even when shortened: set"
            f" RLM_MCP_WINDOW_TOKENS to the model's true window (now {self.deps.root.profile.window_tokens:,})"
        )

    async def _complete(self, turn: Turn, ask: Ask, shrinks: int) -> Completion:
        began, root = time.monotonic(), self.deps.root.name
        bill = Bill(
            announce=lambda tokens: self._announce(RootAsked(model=root, request=bill.requests, prompt_tokens=tokens))
        )
        with anyio.move_on_after(self.ledger.left().seconds):
            completion = await paid_call(
                self.ledger,
                self.deps.root,
                ask.messages,
                kind="root",
                max_tokens=self.judge.rules.reply_tokens,
                temperature=ask.temperature,
                stop=self.judge.rules.policy.stop,
                bill=bill,
            )
            seconds = round(time.monotonic() - began, 3)
            self._longest_prompt = max(self._longest_prompt, bound_prompt(ask.messages))
            self._last_completion = completion
            self._record_reply(turn, ask, completion, shrinks=shrinks, seconds=seconds)
            return completion
        raise BudgetExceeded("the time was used up while the root model was being asked", which="seconds")

    def _record_reply(self, turn: Turn, ask: Ask, completion: Completion, *, shrinks: int, seconds: float) -> None:
        self._record(
            RootReply(
                prompt_hash=prompt_hash(ask.messages),
                told=_told(ask),
                text=completion.text,
                finish_reason=completion.finish_reason,
                model=_without_directory(completion.model),
                temperature=ask.temperature,
                left=asdict(turn.left),
                last=(turn.limit, turn.why_last),
                shrinks=shrinks,
                usage=completion.usage.to_json(),
                seconds=seconds,
                spent=self.ledger.spent_in_all().to_json(),
            )
        )

    def _reply_on_tape(self, taped: RootReply, ask: Ask, trajectory: Trajectory | None) -> str:
        if trajectory is not None:
            for _ in range(taped.shrinks):
                ask = trajectory.shrink(ask)
            if type(tokens := taped.usage.get("prompt_tokens")) is int:  # not so in a damaged record
                trajectory.measure(tokens, ask.messages)
        if self.deps.tape.strict:
            is_as_sent = prompt_hash(ask.messages) == taped.prompt_hash
            said = tuple((message.role, message.content) for message in ask.messages)
            self.deps.tape.on_request(TapedRequest(reply=taped, messages=said, is_as_sent=is_as_sent))
            if taped.prompt_hash and not is_as_sent:
                self.deps.tape.note_difference(
                    f"{self._place} asked the root model something else than the record says"
                )
            self._record(taped)
        return taped.text

    async def run_block(self, turn: Turn, step: RunBlock, repl: Repl) -> CellResult:
        """The result of a block: from the record if the checkpoint covers it, else the block is run and recorded."""
        taped = self.deps.tape.cell(self.spec.path, turn.number, step.block)
        known = _result_of(taped) if taped is not None else None
        if taped is not None and known is None:
            log.warning("the record of %s block %d is damaged: the block is run again", self._place, step.block)
        if known is not None and self._checkpoints.cover(turn.number):
            cell = known
        else:
            cell = await self._execute(turn, step, repl, known)
        self._cited += cell.citations
        self.deps.reading.add_cell(cell)
        self.deps.reading.add_model_text(
            cell_display.output_text(cell, cell_display.output_limits(self.judge.rules.strength))
        )
        return cell

    async def _execute(self, turn: Turn, step: RunBlock, repl: Repl, known: CellResult | None) -> CellResult:
        """Runs a block. A result that is `known` is compared with; on resume it also stands, and is not recorded."""
        self._checkpoints.note_block()
        self._tell(CellBegun(block=step.block, code=step.code))
        cell = await self._run_in_time(turn, step, repl)
        tape = self.deps.tape
        if known is None or tape.strict:
            self._record(Cell(block=step.block, **cell.to_json()))
        if known is None:
            return cell
        if _said(known) != _said(cell):
            tape.note_difference(f"{self._place} block {step.block} {_difference(known, cell)}")
        return cell if tape.strict else known

    async def _run_in_time(self, turn: Turn, step: RunBlock, repl: Repl) -> CellResult:
        """Runs a block for as long as leaves the time of a last turn."""
        limit, left = self.ledger.limits.max_seconds, self.ledger.left().seconds
        if limit is None or left is None:
            return await repl.run(step.code)
        seconds = max(0.0, left if turn.why_last else left - LAST_SHARE * limit / 2)
        with anyio.move_on_after(seconds) as time_left:
            cell = await repl.run(step.code)
            # A REPL may return the output of an interrupted block instead of raising the cancellation.
            return replace(cell, stopped_by="deadline") if time_left.cancel_called else cell
        return CellResult(code=step.code, stopped_by="deadline", seconds=seconds, variables=await repl.variables())

    def record_decision(self, turn: Turn, step: Again | Finish) -> None:
        """Puts the decision of a turn on record."""
        if turn.taped is not None and not self.deps.tape.strict:
            return
        match step:
            case Again():
                self._record(Decided(step="again", why=step.why, detail=step.detail))
            case Finish():
                self._record(Decided(step="finish", why=step.answered_by, detail=step.doubts))

    # --- the end ------------------------------------------------------------------------------------------------

    async def weigh_evidence(self, answer: object) -> Evidence:
        """Checks the citations and works out how much of the contexts was read. Child runs have no evidence."""
        if self.spec.path:
            return Evidence()
        store, contexts, run_in_thread = self.deps.store, self.spec.contexts, anyio.to_thread.run_sync
        try:
            return Evidence(
                citations=await run_in_thread(
                    partial(citations.collect_citations, query=self.spec.query), store, contexts, self._cited, answer
                ),
                coverage=await run_in_thread(self.deps.reading.coverage, store, contexts),
            )
        except RlmError as error:
            return Evidence(unchecked=f"The evidence could not be checked: {error}.")

    async def end(self, ending: Ending, evidence: Evidence | None = None) -> Outcome:
        """Records the end once everything in flight is settled. Shielded, so that a cancelled run is recorded too."""
        with anyio.CancelScope(shield=True):
            for scope, ended in list(self._children.items()):
                scope.cancel()
                await ended.wait()
            if not self.spec.path:
                await self.deps.stop_calls()
            outcome = self._outcome(ending, evidence or Evidence())
            event = await anyio.to_thread.run_sync(self._write_end, outcome)
        self.deps.on_event(event)
        return outcome

    def _outcome(self, ending: Ending, evidence: Evidence) -> Outcome:
        tape, last = self.deps.tape, self._last_completion
        return outcome_of(
            ending,
            evidence,
            spec=self.spec,
            way=self.way,
            spent=Spent.from_json(tape.spent) if tape.strict else self.ledger.spent(),
            iterations=self._turns,
            silence="" if last is None else silence_of(self.deps.root.name, last),
        )

    def _write_end(self, outcome: Outcome) -> Event:
        """Writes the answer and the end; on a thread of its own, because it waits until the disk has both."""
        event = self._placed(ended_event(outcome))
        if not self.spec.path and outcome.answer is not None:
            self.deps.record.write_answer(outcome.answer)
        self.deps.record.append(event)
        return event

    # --- events -------------------------------------------------------------------------------------------------

    def _record(self, event: Event) -> None:
        placed = self._placed(event)
        self.deps.record.append(placed)
        self.deps.on_event(placed)

    async def _announce(self, event: Event) -> None:
        """Has a request on record before it is sent; listeners were told when its call began.

        Raises LeaseLost where another process may have gone on with the run, which would pay for the request again.
        """
        self.deps.record.append(self._placed(event))
        await self.deps.record.settled()
        self.deps.record.require_lease()

    def _tell(self, event: Event) -> None:
        self.deps.on_event(self._placed(event))

    def _placed(self, event: Event) -> Event:
        """The event in this run and turn; one that comes from a record is there already."""
        return event if event.turn else replace(event, path=self.spec.path, turn=self._turns)


def _choose_way(spec: RunSpec, deps: RunDeps, ledger: Ledger) -> tuple[Route, PromptOverWindow | None]:
    """Direct or the loop, and how deep; with the reason if the way that was asked for cannot be taken."""
    taped = deps.tape.route(spec.path)
    if taped is not None:
        # What is left of a budget may speak for another way by now; the turns on record took this one.
        return Route(mode=taped.mode, depth=taped.depth, reason=taped.reason), None
    tokens = sum(context.estimated_tokens for context in spec.contexts) if spec.contexts else _chars(spec) // 3
    root, usd = deps.root.profile, ledger.left().usd
    needs_code = bool(deps.functions) and spec.mode == "auto" and not spec.path  # only code can call them
    mode = "rlm" if needs_code else spec.mode
    try:
        way = route(
            spec.query,
            tokens,
            root=root,
            mode=mode,
            max_depth=spec.max_depth,
            max_usd=usd,
        )
    except PromptOverWindow as error:
        return _NO_WAY, error
    return replace(way, reason="rlm because code may call functions of the caller") if needs_code else way, None


def _chars(spec: RunSpec) -> int:
    """Characters of all contexts together."""
    return sum(context.chars for context in spec.contexts) if spec.contexts else chars_of_value(spec.value)


def _question(spec: RunSpec) -> Question:
    schema = spec.output_schema
    if schema is None:
        return Question(query=spec.query)
    if spec.takes_notes:
        return Question(query=spec.query, schema=schema, check=partial(complaint_about_notes, context=spec.value))
    return Question(query=spec.query, schema=schema, check=partial(complaint, schema))


def _rules(spec: RunSpec, deps: RunDeps) -> Rules:
    root, sub = deps.root.profile, deps.sub.profile
    policy = policy_of(root)
    return Rules(
        policy=policy,
        sub_errs=policy_of(sub).errs_in_verdicts,
        window_tokens=root.window_tokens,
        reply_tokens=min(policy.reply_tokens, root.max_output_tokens, root.window_tokens // 4),
        # Logs and code come to two and a half characters to a token.
        sub_usd_per_mtok=sub.usd_per_mtok_in,
        sub_prompt_chars=min(100_000, max(1_000, int(sub.window_tokens * 0.75 * 2.5) // 1_000 * 1_000)),
        summarises=spec.summaries,
        imports=deps.imports,
        functions=tuple(function.line for function in deps.functions),
    )


def _told(ask: Ask) -> str | None:
    """The user message of a prompt that stands alone: the opening, a fresh start, the final step of a weak model.

    The user messages of other turns are the outputs before them, which are on record already.
    """
    return ask.messages[-1].content if len(ask.messages) == 2 else None


def _without_directory(model: str) -> str:
    """A model's name; local servers report the path of its file, which has no business in a record."""
    return re.split(r"[/\\]", model)[-1] if re.match(r"/|\\|[A-Za-z]:", model) else model


def _result_of(taped: Cell) -> CellResult | None:
    """The recorded result of a block; None if it is damaged."""
    try:
        return CellResult.from_json(to_json(taped))
    except ValueError:
        return None


def _said(cell: CellResult) -> tuple[Any, ...]:
    return cell.stdout, cell.value, cell.error and (cell.error.type, cell.error.message), cell.final


def _difference(known: CellResult, cell: CellResult) -> str:
    if known.stdout != cell.stdout:
        return f"printed {cell.stdout[:80]!r} where the record has {known.stdout[:80]!r}"
    now, then = cell.value or cell.error or cell.final, known.value or known.error or known.final
    return f"gave {now} where the record has {then}"

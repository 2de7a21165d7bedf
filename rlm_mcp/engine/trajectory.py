"""The state of one run of the loop, without any I/O: what a reply means, what a block's result means, what comes next.

Theory of operation
===================

A run is a dialogue with the root model about a REPL. `loop.py` moves the data and asks here what to do with it:

    ask = trajectory.ask(remaining)                 Ask(messages, temperature, …): send these
    step = trajectory.receive_reply(text)           RunBlock(code) | Again(why) | Finish(answer)
    step = trajectory.receive_cell(result)          RunBlock(code) | Again(why) | Finish(answer)

in that order: `ask`, one `receive_reply`, then one `receive_cell` for each RunBlock it was given, until a step is Again
(then `ask` again) or Finish. Nothing here awaits, reads a clock or draws a random number: the same replies, results
and `Remaining` values always give the same messages. Resume and replay rest on that: they feed the record in here.

Three parts do the work: dialogue.py holds the messages, judge.py accepts and doubts answers, and weak_dialogue.py has
the help that a weak model gets; policy.py says which model gets what. A strong model that repeats itself keeps its
dialogue and gets one sentence more.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlm_mcp.engine import cell_display, prompts
from rlm_mcp.engine.dialogue import Dialogue, row_of
from rlm_mcp.engine.grounding import as_text, is_empty, shown_text, value_of
from rlm_mcp.engine.judge import Judge, real_lines
from rlm_mcp.engine.prompts import Brief, Remaining
from rlm_mcp.engine.reply_parser import Reply, normalise, parse_reply
from rlm_mcp.engine.steps import Again, Ask, Finish, RunBlock, Step
from rlm_mcp.engine.weak_dialogue import WeakDialogue, as_blocks, without_repeats
from rlm_mcp.models.base import Message
from rlm_mcp.repl.types import CellResult, Final, Variable

_LEAST_TURNS_AFTER_SUMMARY = 3  # a summary before the last turns costs more than it saves
MOST_NUDGES = 2  # the third reply in a row without code is judged as it stands
_MATCHED_NOTHING = re.compile(
    r"iterable argument is empty|arg is an empty sequence|'NoneType' object|index out of range|division by zero"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """The outcome of a reply's code: the turn in which it ran, its error in one line or None, and what it showed."""

    turn: int
    failed: str | None
    shown: str


class Trajectory:
    """The state of one run. The judge, which knows the question and the rules, exists before it."""

    def __init__(self, judge: Judge, briefs: Sequence[Brief] = ()) -> None:
        self.judge = judge
        self.turn = 0
        self._briefs = briefs
        self._dialogue = Dialogue(judge.question, briefs, judge.rules)
        self._policy = judge.rules.policy
        self._weak = None if self._policy.runs_same_code else WeakDialogue(judge, briefs)
        self._is_last = self._is_summary = False
        self._turn_of_summary = -1
        self._nudges = 0
        self._blocks: list[str] = []
        """blocks of the current reply that have not been run"""
        self._block = 0
        self._reply_key = ""
        self._tried: dict[str, _Tried] = {}

    def __repr__(self) -> str:
        state = f"{len(self._blocks)} blocks to run" if self._blocks else "last turn" if self._is_last else "asking"
        return f"<Trajectory turn {self.turn}, {len(self.cells)} cells, {state}>"

    @property
    def cells(self) -> Sequence[CellResult]:
        """The results of all blocks so far."""
        return self.judge.cells

    @property
    def compactions(self) -> int:
        """How often the dialogue was shortened."""
        return self._dialogue.compactions

    # --- asking -------------------------------------------------------------------------------------------------

    def ask(self, left: Remaining, *, last: str = "") -> Ask:
        """The next request. `last` says why no further turn can follow ("the time is used up"), if so."""
        if left.turn >= left.turns and not last:
            last = f"turn {left.turn} of {left.turns}"
        self.turn, self._is_last = left.turn, bool(last)
        if self._weak is not None:
            return self._ask_weak(self._weak, left, last)
        if last:
            self._say_last(last)
        self._say_status(left)
        self._is_summary = self._summarises(left) and not last
        if self._is_summary:
            self._turn_of_summary = self.turn
            return self._ask(self._dialogue.with_request(prompts.summarise()))
        self._dialogue.compact()
        return self._ask(self._dialogue.messages())

    def _summarises(self, left: Remaining) -> bool:
        has_turns = left.turns - left.turn >= _LEAST_TURNS_AFTER_SUMMARY
        is_due = self.turn > self._turn_of_summary + 1  # else it was of no use, and the dialogue is shortened
        return self.judge.rules.summarises and has_turns and is_due and self._dialogue.needs_summary(left.tokens)

    def _ask_weak(self, weak: WeakDialogue, left: Remaining, last: str) -> Ask:
        """The next request to a weak model, which may be asked in another form than the dialogue."""
        temperature = self._policy.temperature
        if weak.lines_to_read and not last:
            found = prompts.read_found(self.judge.question.query, weak.lines_to_read)
            return self._ask((found,), temperature=temperature)
        weak.lines_to_read = ()
        if weak.restart_after:
            self._dialogue.start_over(prompts.restart(weak.restart_after))
            weak.restart_after, temperature = "", self._policy.restart_temperature
        is_pressed, weak.is_pressed = bool(self.cells) and (weak.is_pressed or self._is_last), False
        if is_pressed:
            self._say_status(left)
            return self._ask(self._press(), temperature=temperature)
        if last:
            self._say_last(last)
        return self._ask(self._next_messages(left), temperature=temperature)

    def _ask(self, messages: tuple[Message, ...], temperature: float | None = None) -> Ask:
        return Ask(messages=messages, turn=self.turn, is_last=self._is_last, temperature=temperature)

    def _say_last(self, why: str) -> None:
        self._dialogue.say(prompts.last_turn(why, self._variables(), self.judge.question.schema))

    def _say_status(self, left: Remaining) -> None:
        self._dialogue.say(prompts.status(left, self.judge.rules.strength))
        self._dialogue.close_turn()

    def _next_messages(self, left: Remaining) -> tuple[Message, ...]:
        self._say_status(left)
        self._dialogue.compact()
        return self._dialogue.messages()

    def _press(self) -> tuple[Message, ...]:
        """The short prompt of a weak model's final step, in place of the dialogue."""
        question = self.judge.question
        output = next((text for cell in reversed(self.cells) if (text := shown_text(cell))), "")
        return self._dialogue.instead(prompts.press(question.query, self._variables(), output, question.schema))

    def _variables(self) -> tuple[Variable, ...]:
        return self.cells[-1].variables if self.cells else ()

    def measure(self, prompt_tokens: int, messages: Sequence[Message]) -> None:
        """Learns from the provider's count how many tokens this run's text really takes."""
        self._dialogue.measure(prompt_tokens, messages)

    def shrink(self, ask: Ask) -> Ask:
        """The same request, shortened after the provider refused it as too long. A summary is then not asked for."""
        self._is_summary = False
        return replace(ask, messages=self._dialogue.shrink())

    # --- a reply ------------------------------------------------------------------------------------------------

    def receive_reply(self, text: str) -> Step:
        """Decides what to do with a reply of the model."""
        return self._with_reasons(self._receive_reply(text))

    def _receive_reply(self, text: str) -> Step:
        reply = parse_reply(text)
        if self._is_summary:
            return self._receive_summary(reply)
        if self._weak is not None and self._weak.lines_to_read:
            return self._weak.receive_reading(reply.text)
        if not reply.blocks:
            return self._receive_words(reply)
        self._nudges = 0
        if self._policy.keeps_code_only:
            reply = without_repeats(reply)
        said = as_blocks(reply) if self._policy.keeps_code_only else reply.text
        self._dialogue.hear(said, row=row_of(self.turn, reply), cell=len(self.cells))
        self._reply_key = normalise("\n".join(reply.blocks))
        tried = self._tried.get(self._reply_key)
        if tried is not None and self._weak is not None and not self._is_last:
            return self._receive_same_code(self._weak, tried)
        self._blocks, self._block = list(reply.blocks), 0
        return self._next_block()

    def _receive_summary(self, reply: Reply) -> Step:
        """Takes the model's summary; without one the dialogue is shortened as usual in the next turn."""
        self._is_summary = False
        if not reply.text.strip():
            self._dialogue.compact()
            return Again(why="compact", detail="the model wrote no summary")
        self._dialogue.take_summary(reply.text)
        return Again(why="compact", detail=f"the model summed up the turns before, in {len(reply.text):,} characters")

    def _receive_words(self, reply: Reply) -> Step:
        """A reply without code is answered with how to reply; the third one in a row is judged as it stands."""
        self._nudges += 1
        self.judge.note_words(reply.text)
        if self._is_last:
            return self.judge.best(words_first=bool(reply.text))
        if self._nudges > MOST_NUDGES:
            restart = self._weak.restart_without_code() if self._weak is not None else None
            return restart or self.judge.best(words_first=True)
        self._dialogue.hear(reply.text, row=row_of(self.turn, reply))
        self._dialogue.say(
            prompts.no_code(reply.other_language, only_thinking=reply.only_thinking, empty=not reply.text)
        )
        return Again(why="nudge", detail="no code")

    def _receive_same_code(self, weak: WeakDialogue, tried: _Tried) -> Step:
        step = weak.receive_same_code(turn=tried.turn, failed=tried.failed, showed=tried.shown)
        if weak.is_pressed:
            self._dialogue.say(prompts.same_code(tried.turn, failed=None))
        return step

    def _next_block(self) -> RunBlock:
        self._block += 1
        return RunBlock(code=self._blocks.pop(0), block=self._block)

    # --- a cell -------------------------------------------------------------------------------------------------

    def receive_cell(self, cell: CellResult) -> Step:
        """Decides what to do with the result of a block."""
        return self._with_reasons(self._receive_cell(cell))

    def _with_reasons(self, step: Step) -> Step:
        return self.judge.with_reasons(step, self._briefs) if isinstance(step, Finish) else step

    def _receive_cell(self, cell: CellResult) -> Step:
        several = self._block if self._blocks or self._block > 1 else None
        self._dialogue.say(
            cell_display.observation(cell, self.judge.rules.strength, block=several, index=len(self.cells))
        )
        self._dialogue.add_to_row(shown_text(cell) or cell_display.one_line_error(cell))
        self.judge.cells.append(cell)
        failed = cell_display.one_line_error(cell) if cell.error or cell.stopped_by else None
        final = cell.final or self.judge.typed_final(cell, self._briefs)
        if final is None and failed is None and self._blocks:
            return self._next_block()
        self._blocks = []
        if final is not None:
            return self._receive_final(final, cell)
        self._note_outcome(failed, cell)
        if self._policy.shows_real_lines and failed is not None:
            self._explain_failure(failed)
        if self._is_last:
            return self.judge.best()
        if self._policy.shows_real_lines and failed is None:
            self._question_empty_value(cell)
        return Again(why="output", detail=failed or "")

    def _receive_final(self, final: Final, cell: CellResult) -> Step:
        self._tried[self._reply_key] = _Tried(turn=self.turn, failed=None, shown=shown_text(cell))
        verdict = self.judge.judge_final(final, self._briefs, turn=self.turn, is_last=self._is_last)
        if verdict.told:
            self._dialogue.say(verdict.told)
        return verdict.step

    def _note_outcome(self, failed: str | None, cell: CellResult) -> None:
        """Remembers how the reply's code went; a strong model that repeats itself is told so."""
        tried = self._tried.get(self._reply_key)
        now = _Tried(turn=tried.turn if tried else self.turn, failed=failed, shown=shown_text(cell))
        if tried == now:
            self._dialogue.say(prompts.same_code(now.turn, failed=failed))
        self._tried[self._reply_key] = now

    def _explain_failure(self, failed: str) -> None:
        """Shows a weak model real lines when its code failed because nothing matched."""
        lines = real_lines(self._briefs)
        if lines and _MATCHED_NOTHING.search(failed) and self.judge.raise_once("empty"):
            self._dialogue.say(prompts.nothing_matched(lines, self.judge.rules.strength))

    def _question_empty_value(self, cell: CellResult) -> None:
        """Asks a weak model, once, whether an empty result or zero is right."""
        expects_output = shown_text(cell) or not cell.changed or "print(" in cell.code
        value = value_of(cell)
        if expects_output and is_empty(value, zero=True) and self.judge.raise_once("empty"):
            self._dialogue.say(self.judge.ask_about_empty(as_text(value) or "empty", self._briefs))

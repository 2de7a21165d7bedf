"""The state of one run of the loop, without any I/O: what a reply means, what a block's result means, what comes next.

Theory of operation
===================

A run is a dialogue with the root model about a REPL. `algorithm.py` moves the data and asks here what to do with it:

    ask = trajectory.ask(remaining)                 Ask(messages, temperature, …): send these
    step = trajectory.receive_reply(text)           Run(code) | Again(why) | Finish(answer)
    step = trajectory.receive_cell(result)          Run(code) | Again(why) | Finish(answer)

in that order: `ask`, one `receive_reply`, then one `receive_cell` for each Run it was given, until a step is Again
(then `ask` again) or Finish. Nothing here awaits, reads a clock or draws a random number: the same replies, results
and `Remaining` values always give the same messages. Resume and replay rest on that: they feed the record in here.

The history is a list of turns, each a message of the model and the message that answers it. What is to be said to the
model collects in `_said` and becomes the next user message when `ask` closes the turn, together with what is left.
So roles alternate, and a prefix once sent is never changed, except by compaction and by a restart.

An answer is a value that code has set (`CellResult.final`). It is accepted unless one of these doubts applies. Each is
raised at most once in a run; the same answer given again is accepted, and marked where the doubt still holds.

    word      FINAL("total") where `total` is a variable, or a placeholder: the word itself was hardly meant
    typed     a literal, and no block has shown anything yet; for weak models a literal that occurs in no output
    number    weak models: a sentence of the question begins with "How many", and the value is something else
    empty     nothing, or for weak models zero: perhaps the code did not match the format; real lines are shown
    invalid   does not satisfy the output schema (raised as often as it happens)

A weak model is first asked to read the answer in the lines that hold rare words of the question, where there are such
and the question is not about all lines. What it says is the answer if those lines hold it and the question does not;
else it is forgotten, and the dialogue begins.

Weak models also send the same code again and again. Where it failed before, the dialogue starts over from the question
and the one-line error, at a higher temperature. Where it went well it is not run again: its value becomes the
candidate and the model is pressed for the final step in a short fresh prompt, which also serves as a weak model's last
turn. A strong model keeps its dialogue in all these cases and gets one sentence more.

Whatever happens, there is a best answer so far (`best`): an answer that was doubted, else what the last good block
showed, else the model's last words. It is returned, and marked, when turns or budget end first.

Text in outputs decides nothing: it is only searched for literals that the model typed.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlm_mcp.engine import prompts
from rlm_mcp.engine.grounding import (
    PLACEHOLDERS,
    evidence,
    is_empty,
    is_grounded,
    is_typed,
    occurs,
    plain,
    shown,
    value_of,
)
from rlm_mcp.engine.prompts import Brief, Remaining, Strength
from rlm_mcp.engine.reply_parser import Reply, final_text, normalise, parse_reply
from rlm_mcp.models.base import Message, estimate_prompt
from rlm_mcp.repl.types import CellResult, Final, Variable

AnsweredBy = Literal["FINAL", "FINAL_VAR", "SUBMIT", "answer", "value", "text", "invalid"]

MOST_NUDGES = 2  # the third reply in a row without code is judged as it stands
MOST_PRESSES = 2  # a weak model that answers two fresh final prompts with old code has nothing more to give
RESTART_TEMPERATURE = 0.8  # at the temperature of the other turns the same prompt would bring the same reply
COMPACT_ABOVE = 0.7  # of the window: what a turn adds (an output, a long reply) must still fit
COMPACT_TO = 0.4  # far below, so that the prefix cache is lost rarely
_KEPT_TURNS = 2
SUMMARY_SHARE = 0.08  # of the window, for what became of the oldest turns
_CHARS_PER_TOKEN = 3
_MOST_ROW_CHARS = 100
_HOW_MANY = re.compile(r"(?:^|[.:!?]\s)\s*how many\b", re.IGNORECASE)
_A_NUMBER = re.compile(r"[^\d\n]{0,80}\d[\d,.]*[^\d\n]{0,80}|no\b.*|none\b.*", re.IGNORECASE)
_MATCHED_NOTHING = re.compile(
    r"iterable argument is empty|arg is an empty sequence|'NoneType' object|index out of range|division by zero"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the run is about. `check` says in one sentence why a value breaks the output schema, or None."""

    query: str
    briefs: tuple[Brief, ...] = ()
    schema: Mapping[str, Any] | None = None
    check: Callable[[object], str | None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What depends on the model and not on the question."""

    strength: Strength = "strong"
    window_tokens: int = 128_000
    reply_tokens: int = 8_192
    sub_prompt_chars: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Send these messages; whatever comes back ends the run if `is_last`. `temperature` None is the provider's own."""

    messages: tuple[Message, ...]
    turn: int
    is_last: bool
    temperature: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBlock:
    """Run this block in the REPL and hand the result to `receive_cell`. `block` counts in the reply, from 1."""

    code: str
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Ask the model again. `why` names the decision, for the record: output, nudge, doubt, restart, press, read."""

    why: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The run has its answer. `doubt` says what is wrong with it where something is."""

    answer: Any
    answered_by: AnsweredBy
    doubt: str = ""


Step = RunBlock | Again | Finish


@dataclass(slots=True, kw_only=True)
class _Turn:
    """What the model said and what it was told then. `row` is the turn in a line, `cell` its index in `history`."""

    said: str
    told: str = ""
    row: str = ""
    cell: int | None = None
    is_short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """How a reply's code went when it was run: in which turn, its error in a line or None, what it showed."""

    turn: int
    failed: str | None
    shown: str


class Trajectory:
    """One run's state; `repr` tells it."""

    def __init__(self, question: Question, rules: Rules | None = None) -> None:
        self.question = question
        self.rules = rules or Rules()
        self.turn = 0
        self.cells: list[CellResult] = []
        self.compactions = 0
        self._last = ""
        # the dialogue
        self._turns: list[_Turn] = []
        self._said: list[str] = []
        self._summary: list[str] = []
        self._tokens_ratio = 1.0
        # the blocks of the current reply
        self._queue: list[str] = []
        self._block = 0
        self._reply_key = ""
        # what has been tried and doubted
        self._tried: dict[str, _Tried] = {}
        self._raised: set[str] = set()
        self._doubted: Finish | None = None
        self._doubted_at = 0
        self._words = ""
        self._nudges = 0
        self._presses = 0
        self._is_pressed = False
        self._restart = ""
        self._reading = self._lines_to_read()

    def __repr__(self) -> str:
        state = f"{len(self._queue)} blocks to run" if self._queue else "last turn" if self._last else "asking"
        return f"<Trajectory turn {self.turn}, {len(self.cells)} cells, {state}>"

    @property
    def is_weak(self) -> bool:
        """Whether the model gets the short prompt and the help that goes with it."""
        return self.rules.strength == "weak"

    # --- asking -------------------------------------------------------------------------------------------------

    def ask(self, left: Remaining, *, last: str = "") -> Ask:
        """The next request. `last` says why no further turn can follow ("the time is used up"), if so."""
        self.turn = left.turn
        if left.turn >= left.turns and not last:
            last = f"turn {left.turn} of {left.turns}"
        self._last = last
        temperature = 0.0 if self.is_weak else None
        if self._reading and not last:
            messages = (prompts.read_found(self.question.query, self._reading),)
            return Ask(messages=messages, turn=left.turn, is_last=False, temperature=temperature)
        self._reading = ()
        if self._restart:
            self._turns, self._said = [], [prompts.restart(self._restart)]
            self._restart, temperature = "", RESTART_TEMPERATURE
        is_fresh = self.is_weak and bool(self.cells) and (self._is_pressed or bool(last))
        if last and not is_fresh:
            self._said.append(prompts.last_turn(last, self._variables(), self.question.schema))
        self._said.append(prompts.status(left, self.rules.strength))
        self._close_turn()
        self._is_pressed = False
        if is_fresh:
            return Ask(messages=self._fresh(), turn=left.turn, is_last=bool(last), temperature=temperature)
        self._compact()
        return Ask(messages=self._messages(), turn=left.turn, is_last=bool(last), temperature=temperature)

    def _close_turn(self) -> None:
        """Makes what is to be said the answer to the model's last words, or the beginning of the dialogue."""
        told, self._said = "\n\n".join(self._said), []
        if self._turns and not self._turns[-1].told:
            self._turns[-1].told = told
        else:
            self._turns.append(_Turn(said="", told=told))

    def _messages(self) -> tuple[Message, ...]:
        """The dialogue so far. A turn without words of the model (the first, or an empty reply) joins its neighbour."""
        messages = [self._system()]
        user = prompts.opening(self.question.query, self.question.briefs, self.question.schema, self.rules.strength)
        if self._summary:
            rows = self._summary_rows()
            user += "\n\n" + prompts.summary(rows, len(self._summary) - len(rows))
        for turn in self._turns:
            if turn.said:
                messages += [Message(role="user", content=user), Message(role="assistant", content=turn.said)]
                user = turn.told
            else:
                user = f"{user}\n\n{turn.told}"
        return (*messages, Message(role="user", content=user))

    def _summary_rows(self) -> list[str]:
        """The newest rows of the summary that a share of the window holds."""
        room = SUMMARY_SHARE * self.rules.window_tokens * _CHARS_PER_TOKEN
        rows: list[str] = []
        for row in reversed(self._summary):
            room -= len(row)
            if room < 0:
                break
            rows.insert(0, row)
        return rows

    def _fresh(self) -> tuple[Message, ...]:
        """The short prompt of a weak model's final step, in place of the dialogue."""
        output = next((text for cell in reversed(self.cells) if (text := shown(cell))), "")
        text = prompts.press(self.question.query, self._variables(), output, self.question.schema)
        return self._system(), Message(role="user", content=text)

    def _system(self) -> Message:
        return prompts.system(self.rules.strength, sub_prompt_chars=self.rules.sub_prompt_chars)

    def _variables(self) -> tuple[Variable, ...]:
        return self.cells[-1].variables if self.cells else ()

    # --- compaction ---------------------------------------------------------------------------------------------

    def measured(self, prompt_tokens: int, messages: Sequence[Message]) -> None:
        """Learns from the provider's count how many tokens this run's text really takes."""
        guessed = estimate_prompt(messages)
        if guessed and prompt_tokens:
            self._tokens_ratio = max(self._tokens_ratio, prompt_tokens / guessed)

    def shrink(self, ask: Ask) -> Ask:
        """The same request, shortened after the provider refused it as too long."""
        self._tokens_ratio *= 1.5
        self._compact()
        return replace(ask, messages=self._messages())

    def _tokens(self) -> float:
        return estimate_prompt(self._messages()) * self._tokens_ratio + self.rules.reply_tokens

    def _compact(self) -> None:
        """Above a share of the window old outputs become their first lines and a handle, then old turns a summary.

        The summary is made of the turns' own code and first lines of output, not by a model: it costs no call, cannot
        fail, and text from the context cannot argue its way into it.
        """
        if self._tokens() <= COMPACT_ABOVE * self.rules.window_tokens:
            return
        self.compactions += 1
        for turn in self._turns[:-_KEPT_TURNS]:
            if turn.cell is not None and not turn.is_short:
                turn.told, turn.is_short = prompts.shortened(turn.told, turn.cell), True
        while len(self._turns) > _KEPT_TURNS and self._tokens() > COMPACT_TO * self.rules.window_tokens:
            dropped = self._turns.pop(0)
            self._summary += [dropped.row] if dropped.row else []

    # --- a reply ------------------------------------------------------------------------------------------------

    def receive_reply(self, text: str) -> Step:
        """What to do with what the model said."""
        reply = parse_reply(text)
        if self._reading:
            return self._read(reply.text)
        if not reply.blocks:
            return self._without_code(reply)
        self._nudges = 0
        if self.is_weak:
            # At temperature 0 a small model may write the same block until its reply is full.
            reply = replace(reply, blocks=tuple({normalise(block): block for block in reply.blocks}.values()))
        # A weak model repeats what it sees: its history shows the form wanted, and no output that it imagined.
        said = _fenced(reply.blocks) if self.is_weak else reply.text
        self._turns.append(_Turn(said=said, row=_row(self.turn, reply), cell=len(self.cells)))
        self._reply_key = normalise("\n".join(reply.blocks))
        tried = self._tried.get(self._reply_key)
        if tried is not None and self.is_weak and not self._last:
            return self._same_again(tried)
        self._queue, self._block = list(reply.blocks), 0
        return self._next_block()

    def _lines_to_read(self) -> tuple[str, ...]:
        """What a weak model is asked to read before anything else; under a schema code has to make the answer."""
        question = self.question
        is_read = self.is_weak and question.schema is None
        return prompts.found_lines(question.query, question.briefs) if is_read else ()

    def _read(self, said: str) -> Step:
        """The answer that a weak model read in lines that were found, if they hold it and the question does not."""
        lines, self._reading = "\n".join(self._reading), ()
        answer = said.strip(" \n`\"'.")
        if not occurs(answer, lines) or occurs(answer, self.question.query):
            return Again(why="read", detail="the lines that were found do not hold what it said")
        return Finish(answer=answer, answered_by="text")

    def _without_code(self, reply: Reply) -> Step:
        self._nudges += 1
        self._words = reply.text or self._words
        if self._last:
            return self.best(words_first=bool(reply.text))
        if self._nudges > MOST_NUDGES:
            if self.is_weak and not self.cells and self._raise("restart"):
                self._restart = "a reply without any code block"
                return Again(why="restart", detail="no code")
            return self.best(words_first=True)
        self._turns.append(_Turn(said=reply.text, row=f"turn {self.turn}: {_first_line(reply.text)}"))
        self._said.append(
            prompts.no_code(reply.other_language, only_thinking=reply.only_thinking, empty=not reply.text)
        )
        return Again(why="nudge", detail="no code")

    def _same_again(self, tried: _Tried) -> Step:
        """A weak model sent code that has been run before; at temperature 0 it would do so for ever."""
        if tried.failed is not None:
            self._restart = tried.failed
            return Again(why="restart", detail=tried.failed)
        doubted = self._doubted if tried.turn == self._doubted_at else None
        result = plain(doubted.answer) if doubted else tried.shown
        if is_empty(result, zero=True) and (self._raise("empty again") or self._raise("empty once more")):
            self._restart = f"the result {result or 'nothing'}, which is doubtful"
            return Again(why="restart", detail=self._restart)
        if doubted is not None and doubted.answered_by == "invalid":
            self._restart = f"an answer that was refused: {doubted.doubt}"
            return Again(why="restart", detail=doubted.doubt)
        if doubted is not None:
            return doubted
        self._presses += 1
        if self._presses > MOST_PRESSES:
            return self.best()
        self._said.append(prompts.same_code(tried.turn, failed=None))
        self._is_pressed = True
        return Again(why="press", detail=f"same code as in turn {tried.turn}")

    def _next_block(self) -> RunBlock:
        self._block += 1
        return RunBlock(code=self._queue.pop(0), block=self._block)

    # --- a cell -------------------------------------------------------------------------------------------------

    def receive_cell(self, cell: CellResult) -> Step:
        """What to do with what a block did."""
        several = self._block if self._queue or self._block > 1 else None
        self._said.append(prompts.observation(cell, self.rules.strength, block=several))
        self._turns[-1].row += f" → {_first_line(shown(cell) or prompts.one_line_error(cell))}"
        self.cells.append(cell)
        failed = prompts.one_line_error(cell) if cell.error or cell.stopped_by else None
        final = cell.final or self._typed_final(cell)
        if final is None and failed is None and self._queue:
            return self._next_block()
        self._queue = []
        if final is not None:
            self._tried[self._reply_key] = _Tried(turn=self.turn, failed=None, shown=shown(cell))
            return self._judge(final, cell)
        self._note_outcome(failed, cell)
        samples = self._samples()
        if self.is_weak and failed is not None and samples and _MATCHED_NOTHING.search(failed) and self._raise("empty"):
            self._said.append(prompts.nothing_matched(samples, self.rules.strength))
        if self._last:
            return self.best()
        expects_output = shown(cell) or not cell.changed or "print(" in cell.code
        if failed is None and self.is_weak and expects_output and is_empty(value_of(cell), zero=True):
            self._question_empty(plain(value_of(cell)))
        return Again(why="output", detail=failed or "")

    def _note_outcome(self, failed: str | None, cell: CellResult) -> None:
        """Remembers how the reply's code went; a strong model that repeats itself is told so."""
        tried = self._tried.get(self._reply_key)
        now = _Tried(turn=tried.turn if tried else self.turn, failed=failed, shown=shown(cell))
        if tried == now:
            self._said.append(prompts.same_code(now.turn, failed=failed))
        self._tried[self._reply_key] = now

    def _typed_final(self, cell: CellResult) -> Final | None:
        """FINAL(trunk-275): bare text in a FINAL that ran and failed on it is a string, if an output holds it."""
        if cell.error is None or cell.error.type not in {"NameError", "SyntaxError"}:
            return None
        text = final_text(cell.code)
        known = {variable.name for variable in cell.variables}
        if not text or text[0] in "\"'" or not known.isdisjoint(re.findall(r"\w+", text)):
            return None
        return Final(value=text) if occurs(text, self._evidence()) else None

    # --- judging an answer --------------------------------------------------------------------------------------

    def _judge(self, final: Final, cell: CellResult) -> Step:
        """Accepts an answer, or raises a doubt about it for the first time."""
        value = self._read_as_json(final.value)
        problem = self.question.check(value)
        if problem is not None:
            doubt = f"it does not satisfy the output schema: {problem}"
            return self._doubt(
                Finish(answer=final.value, answered_by="invalid", doubt=doubt), prompts.invalid_answer(problem)
            )
        if value is None and self.question.schema is None:
            if self._last:
                return self.best()
            self._said.append(self._empty_question("None"))
            return Again(why="doubt", detail="it is None")
        is_repeated = self._doubted is not None and self._doubted.answer == value
        for kind, doubt, told in self._doubts(value, cell):
            finish = Finish(answer=value, answered_by=final.via, doubt=doubt)
            if self._raise(kind) and not is_repeated:
                return self._doubt(finish, told)
            if self._last or kind != "empty":  # nothing found twice is a finding; a guess stays a guess
                return finish
        return Finish(answer=value, answered_by=final.via)

    def _doubt(self, finish: Finish, told: str) -> Step:
        if self._last:
            return finish
        self._doubted, self._doubted_at = finish, self.turn
        self._said.append(told)
        return Again(why="doubt", detail=finish.doubt)

    def _doubts(self, value: object, cell: CellResult) -> Iterator[tuple[str, str, str]]:
        """What speaks against an answer: a kind that is raised once, the doubt in words, what the model is told."""
        names = {variable.name for variable in cell.variables}
        has_looked = any(shown(earlier) for earlier in self.cells[:-1])
        if is_typed([earlier.code for earlier in self.cells]):
            if isinstance(value, str) and value in names:
                yield "word", "it is the name of a variable", prompts.names_a_variable(value)
            elif isinstance(value, str) and value.strip().lower() in PLACEHOLDERS:
                yield "word", "it is a placeholder", prompts.ungrounded(value, looked=has_looked)
            elif not has_looked and not is_grounded(value, self._evidence()):
                yield "typed", "no code had looked at the context", prompts.ungrounded(value, looked=False)
            elif self.is_weak and not is_grounded(value, self._evidence()):
                yield "typed", "it was typed and occurs in no output", prompts.ungrounded(value, looked=True)
        if self.is_weak and _HOW_MANY.search(self.question.query) and not _A_NUMBER.fullmatch(plain(value).strip()):
            yield "number", "the question asks for a number", prompts.not_a_number(value, self._last_number())
        if is_empty(value, zero=self.is_weak):
            yield "empty", "it is empty", self._empty_question(plain(value))

    def _question_empty(self, result: str) -> None:
        if self._raise("empty"):
            self._said.append(self._empty_question(result or "empty"))

    def _raise(self, kind: str) -> bool:
        """Whether a doubt of this kind is raised for the first time; the second time it is not raised."""
        first = kind not in self._raised
        self._raised.add(kind)
        return first

    def _last_number(self) -> str:
        """The number that the newest block showed, of those that showed nothing else."""
        values = (value_of(cell).strip() for cell in reversed(self.cells[:-1]))
        return next((value for value in values if re.fullmatch(r"\d[\d,.]*", value)), "")

    def _empty_question(self, result: str) -> str:
        return prompts.questioned_empty(result, self._samples(), self.rules.strength)

    def _samples(self) -> tuple[str, ...]:
        """Real lines to check code against: those that hold words of the question, then the others."""
        found = [line for brief in self.question.briefs[:1] for line in (*brief.hits, *brief.samples)]
        return tuple(found)

    def _evidence(self) -> str:
        """What the model has seen before its last block, without what its code only repeated.

        Lines found by the words of the question count; the samples do not: a word of theirs is easily guessed.
        """
        told = [line for brief in self.question.briefs for line in brief.hits]
        seen = [CellResult(code="", stdout="\n".join(told)), *self.cells[:-1]]
        return "\n".join(evidence(cell) for cell in seen)

    def _read_as_json(self, value: object) -> object:
        """Under a schema that wants no string, a string that holds JSON is read."""
        schema = self.question.schema
        if schema is None or not isinstance(value, str) or schema.get("type") == "string":
            return value
        try:
            return json.loads(value)
        except ValueError:
            return value

    def take_text(self, text: str) -> Finish:
        """The answer of a direct call: the reply itself, under a schema read as JSON and checked."""
        said = parse_reply(text).text
        value = self._read_as_json(_unfenced(said))
        problem = self.question.check(value)
        if problem is not None:
            self._doubted = Finish(answer=said, answered_by="invalid", doubt=f"it breaks the output schema: {problem}")
            return self._doubted
        self._words = said
        answer = value if self.question.schema is not None else said
        return Finish(answer=answer or None, answered_by="text", doubt="" if said else "the reply was empty")

    # --- ending without an answer -------------------------------------------------------------------------------

    def best(self, *, words_first: bool = False) -> Finish:
        """The best answer so far, for a run that ends without an accepted one; `doubt` marks it."""
        if words_first and self._words:
            return Finish(answer=self._words, answered_by="text", doubt="it was said, not submitted by code")
        found = [(index, text) for index, cell in enumerate(self.cells) if (text := value_of(cell)) and not cell.error]
        if self._doubted is not None and not (found and found[-1][0] > self._index_of_doubt()):
            return self._doubted
        if found:
            return Finish(answer=found[-1][1], answered_by="value", doubt="it is what the last block showed")
        if self._words:
            return Finish(answer=self._words, answered_by="text", doubt="it was said, not submitted by code")
        return Finish(answer=None, answered_by="text", doubt="nothing was found out")

    def _index_of_doubt(self) -> int:
        """The cell that set the doubted answer; a typed answer yields to anything computed later."""
        if self._doubted is not None and self._doubted.doubt.startswith("it is empty"):
            return len(self.cells)
        return max((i for i, cell in enumerate(self.cells) if cell.final is not None), default=-1)


def _fenced(blocks: Sequence[str]) -> str:
    return "\n".join(f"```repl\n{block}\n```" for block in blocks)


def _unfenced(text: str) -> str:
    """JSON without the fence that models put around it."""
    found = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", text, re.DOTALL)
    return found.group(1) if found else text


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.split("\n") if line.strip()), "")
    return line if len(line) <= _MOST_ROW_CHARS else line[: _MOST_ROW_CHARS - 1] + "…"


def _row(turn: int, reply: Reply) -> str:
    """A turn in one line, for the summary: its first words and the first line of its code."""
    code = next((line for line in reply.blocks[0].split("\n") if line.strip() and not line.startswith("#")), "")
    words = _first_line(reply.prose)
    return f"turn {turn}: {words + ' | ' if words else ''}{_first_line(code)}"

"""Judging of answers: which one is accepted, which one is doubted, and the best one so far. No I/O.

An answer is a value that code has set (`CellResult.final`). It is accepted unless one of these doubts applies. Each is
raised at most once in a run; the same answer given again is accepted, and marked where the doubt still holds.

    word      FINAL("total") where `total` is a variable, or a placeholder: the word itself was hardly meant
    typed     a literal, and no block has shown anything yet; for weak models a literal that occurs in no output
    number    weak models: a sentence of the question begins with "How many", and the value is something else
    empty     nothing, or for weak models zero: perhaps the code did not match the format; real lines are shown
    invalid   does not satisfy the output schema (raised as often as it happens)

There is always a best answer so far (`best`): an answer that was doubted, else what the last good block showed, else
the model's last words. It is returned, and marked, when turns or budget end first.

Text in outputs decides nothing: it is only searched for literals that the model typed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rlm_mcp.engine import prompts
from rlm_mcp.engine.answer_checks import reasons_to_doubt
from rlm_mcp.engine.grounding import (
    PLACEHOLDERS,
    as_text,
    evidence_text,
    is_empty,
    is_grounded,
    is_typed,
    occurs,
    shown_text,
    value_of,
)
from rlm_mcp.engine.prompts import Brief
from rlm_mcp.engine.reply_parser import final_text, parse_reply, unfenced
from rlm_mcp.engine.steps import Again, Finish, Question, Rules
from rlm_mcp.repl.types import CellResult, Final

_HOW_MANY = re.compile(r"(?:^|[.:!?]\s)\s*how many\b", re.IGNORECASE)
_A_NUMBER = re.compile(r"[^\d\n]{0,80}\d[\d,.]*[^\d\n]{0,80}|no\b.*|none\b.*", re.IGNORECASE)
_SAID = "it was said, not submitted by code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision about an answer, and what the model is told about it if it is asked again."""

    step: Again | Finish
    told: str = ""


class Judge:
    """The cells and answers of one run, and the doubts raised. Methods that need the briefs get them as an argument."""

    def __init__(self, question: Question, rules: Rules | None = None) -> None:
        self.question = question
        self.rules = rules or Rules()
        self.cells: list[CellResult] = []
        self._raised: set[str] = set()
        self._doubted: Finish | None = None
        self._turn_of_doubt = 0
        self._words = ""

    def __repr__(self) -> str:
        return f"<Judge of {len(self.cells)} cells, best so far {self.best()}>"

    def raise_once(self, kind: str) -> bool:
        """Whether a doubt of this kind is raised for the first time; from then on it is not raised."""
        first = kind not in self._raised
        self._raised.add(kind)
        return first

    def note_words(self, text: str) -> None:
        """Keeps a reply without code, which is the answer if nothing better comes."""
        self._words = unfenced(text) or self._words

    def doubted_in(self, turn: int) -> Finish | None:
        """The doubted answer, if the doubt was raised in this turn."""
        return self._doubted if turn == self._turn_of_doubt else None

    # --- answers ------------------------------------------------------------------------------------------------

    def judge_final(self, final: Final, briefs: Sequence[Brief], *, turn: int, is_last: bool) -> Verdict:
        """Accepts the answer that the newest cell has set, or raises a doubt about it for the first time."""
        value = self._read_as_json(final.value)
        problem = self.question.check(value)
        if problem is not None:
            doubt = f"it does not satisfy the output schema: {problem}"
            finish = Finish(answer=final.value, answered_by="invalid", doubt=doubt)
            return self._doubt(finish, prompts.invalid_answer(problem), turn=turn, is_last=is_last)
        if value is None and self.question.schema is None:
            if is_last:
                return Verdict(step=self.best())
            return Verdict(step=Again(why="doubt", detail="it is None"), told=self.ask_about_empty("None", briefs))
        is_repeated = self._doubted is not None and self._doubted.answer == value
        typed = self.cells[-1].final is None or is_typed([cell.code for cell in self.cells])  # None: see typed_final
        for kind, doubt, told in self._doubts(value, briefs, typed=typed):
            finish = Finish(answer=value, answered_by=final.via, doubt=doubt, is_typed=typed)
            if self.raise_once(kind) and not is_repeated:
                return self._doubt(finish, told, turn=turn, is_last=is_last)
            if is_last or kind != "empty":  # nothing found twice is a finding; a guess stays a guess
                return Verdict(step=finish)
        return Verdict(step=Finish(answer=value, answered_by=final.via, is_typed=typed))

    def judge_text(self, text: str) -> Finish:
        """The answer of a direct call: the reply itself; under a schema it is read as JSON and checked."""
        said = unfenced(parse_reply(text).text)
        value = self._read_as_json(said)
        problem = self.question.check(value)
        if problem is not None:
            self._doubted = Finish(answer=said, answered_by="invalid", doubt=f"it breaks the output schema: {problem}")
            return self._doubted
        self._words = said
        answer = value if self.question.schema is not None else said
        return Finish(answer=answer or None, answered_by="text", doubt="" if said else "the reply was empty")

    def typed_final(self, cell: CellResult, briefs: Sequence[Brief]) -> Final | None:
        """FINAL(trunk-275): bare text in a FINAL that ran and failed on it is a string, if an output holds it."""
        if cell.error is None or cell.error.type not in {"NameError", "SyntaxError"}:
            return None
        text = final_text(cell.code)
        known = {variable.name for variable in cell.variables}
        if not text or text[0] in "\"'" or not known.isdisjoint(re.findall(r"\w+", text)):
            return None
        return Final(value=text) if occurs(text, self._evidence(briefs)) else None

    def ask_about_empty(self, result: str, briefs: Sequence[Brief]) -> str:
        """The words in which an empty result is questioned, with real lines to check the code against."""
        return prompts.questioned_empty(result, real_lines(briefs), self.rules.strength)

    def best(self, *, words_first: bool = False) -> Finish:
        """The best answer so far, for a run that ends without an accepted one; `doubt` marks it."""
        if words_first and self._words:
            return Finish(answer=self._words, answered_by="text", doubt=_SAID)
        found = [(index, text) for index, cell in enumerate(self.cells) if (text := value_of(cell)) and not cell.error]
        if self._doubted is not None and not (found and found[-1][0] > self._index_of_doubt()):
            return self._doubted
        if found:
            return Finish(answer=found[-1][1], answered_by="value", doubt="it is what the last block showed")
        if self._words:
            return Finish(answer=self._words, answered_by="text", doubt=_SAID)
        return Finish(answer=None, answered_by="text", doubt="nothing was found out")

    def with_reasons(self, finish: Finish, briefs: Sequence[Brief]) -> Finish:
        """The answer with the reasons that code finds against it."""
        if finish.answer is None or finish.answered_by == "invalid":
            return finish
        found = reasons_to_doubt(
            self.question.query,
            finish.answer,
            self.cells,
            briefs,
            judged_weakly=self.rules.sub_errs,
            uses_names=self.rules.policy.uses_names,
        )
        return replace(finish, reasons=tuple(found))

    # --- doubts -------------------------------------------------------------------------------------------------

    def _doubt(self, finish: Finish, told: str, *, turn: int, is_last: bool) -> Verdict:
        if is_last:
            return Verdict(step=finish)
        self._doubted, self._turn_of_doubt = finish, turn
        return Verdict(step=Again(why="doubt", detail=finish.doubt), told=told)

    def _doubts(self, value: object, briefs: Sequence[Brief], *, typed: bool) -> Iterator[tuple[str, str, str]]:
        """Reasons against an answer: a kind that is raised once, the doubt in words, what the model is told."""
        policy = self.rules.policy
        names = {variable.name for variable in self.cells[-1].variables}
        has_looked = any(shown_text(earlier) for earlier in self.cells[:-1])
        if typed:
            if isinstance(value, str) and value in names:
                yield "word", "it is the name of a variable", prompts.names_a_variable(value)
            elif isinstance(value, str) and value.strip().lower() in PLACEHOLDERS:
                yield "word", "it is a placeholder", prompts.ungrounded(value, looked=has_looked)
            elif not has_looked and not is_grounded(value, self._evidence(briefs)):
                yield "typed", "no code had looked at the context", prompts.ungrounded(value, looked=False)
            elif policy.looks_up_typed and not is_grounded(value, self._evidence(briefs)):
                yield "typed", "it was typed and occurs in no output", prompts.ungrounded(value, looked=True)
        if (
            policy.wants_number
            and _HOW_MANY.search(self.question.query)
            and not _A_NUMBER.fullmatch(as_text(value).strip())
        ):
            yield "number", "the question asks for a number", prompts.not_a_number(value, self._last_number())
        if is_empty(value, zero=policy.doubts_zero):
            yield "empty", "it is empty", self.ask_about_empty(as_text(value), briefs)

    def _last_number(self) -> str:
        """The number that the newest block showed, among the blocks that showed nothing but a number."""
        values = (value_of(cell).strip() for cell in reversed(self.cells[:-1]))
        return next((value for value in values if re.fullmatch(r"\d[\d,.]*", value)), "")

    def _evidence(self, briefs: Sequence[Brief]) -> str:
        """Everything the model has seen before its last block, except what its code only repeated.

        Lines found by the words of the question count; the samples do not: a word of theirs is easily guessed.
        """
        told = [line for brief in briefs for line in brief.hits]
        seen = [CellResult(code="", stdout="\n".join(told)), *self.cells[:-1]]
        return "\n".join(evidence_text(cell) for cell in seen)

    def _read_as_json(self, value: object) -> object:
        """The JSON value of a string, under a schema that asks for something other than a string."""
        schema = self.question.schema
        if schema is None or not isinstance(value, str) or schema.get("type") == "string":
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value

    def _index_of_doubt(self) -> int:
        """The cell that set the doubted answer; a typed answer yields to anything computed later."""
        if self._doubted is not None and self._doubted.doubt.startswith("it is empty"):
            return len(self.cells)
        return max((i for i, cell in enumerate(self.cells) if cell.final is not None), default=-1)


def real_lines(briefs: Sequence[Brief]) -> tuple[str, ...]:
    """Lines of the first context to check code against: first those that hold words of the question."""
    return tuple(line for brief in briefs[:1] for line in (*brief.hits, *brief.samples))

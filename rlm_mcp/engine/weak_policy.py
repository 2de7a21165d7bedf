"""The help that a weak (small, local) model gets beyond the dialogue. No I/O.

It is first asked to read the answer in the lines that hold rare words of the question, where there are such lines and
the question is not about all lines. What it says is the answer if those lines hold it and the question does not; else
it is forgotten, and the dialogue begins.

Weak models send the same code again and again. Where it failed before, the dialogue starts over from the question and
the one-line error, at a higher temperature. Where it went well it is not run again: its value becomes the candidate and
the model is pressed for the final step in a short fresh prompt, which also serves as a weak model's last turn.
"""

from collections.abc import Sequence
from dataclasses import replace

from rlm_mcp.engine import prompts
from rlm_mcp.engine.grounding import as_text, is_empty, occurs
from rlm_mcp.engine.judge import Judge
from rlm_mcp.engine.prompts import Brief
from rlm_mcp.engine.reply_parser import Reply, normalise
from rlm_mcp.engine.steps import Again, Finish

MOST_PRESSES = 2  # a weak model that answers two fresh final prompts with old code has nothing more to give
TEMPERATURE = 0.0
RESTART_TEMPERATURE = 0.8  # at the temperature of the other turns the same prompt would bring the same reply


class WeakPolicy:
    """The form of the next prompt of a weak model: lines to read, a restart, a press for the end, or the dialogue."""

    def __init__(self, judge: Judge, briefs: Sequence[Brief]) -> None:
        self._judge = judge
        question = judge.question
        # Under a schema code has to make the answer.
        self.lines_to_read = prompts.found_lines(question.query, briefs) if question.schema is None else ()
        self.restart_after = ""
        """the failure after which the dialogue starts over, if it does"""
        self.is_pressed = False
        self._presses = 0

    def __repr__(self) -> str:
        return f"<WeakPolicy, {self._presses} presses>"

    def receive_reading(self, said: str) -> Again | Finish:
        """The answer that the model read in the lines that were found, if they hold it and the question does not."""
        lines, self.lines_to_read = "\n".join(self.lines_to_read), ()
        answer = said.strip(" \n`\"'.")
        if not occurs(answer, lines) or occurs(answer, self._judge.question.query):
            return Again(why="read", detail="the lines that were found do not hold what it said")
        return Finish(answer=answer, answered_by="text")

    def restart_without_code(self) -> Again | None:
        """Starts over, once, with a model that has never written any code."""
        if self._judge.cells or not self._judge.raise_once("restart"):
            return None
        self.restart_after = "a reply without any code block"
        return Again(why="restart", detail="no code")

    def receive_same_code(self, *, turn: int, failed: str | None, showed: str) -> Again | Finish:
        """The model sent code that was run in `turn` before; at temperature 0 it would do so for ever."""
        if failed is not None:
            self.restart_after = failed
            return Again(why="restart", detail=failed)
        judge, doubted = self._judge, self._judge.doubted_in(turn)
        result = as_text(doubted.answer) if doubted else showed
        if is_empty(result, zero=True) and (judge.raise_once("empty again") or judge.raise_once("empty once more")):
            self.restart_after = f"the result {result or 'nothing'}, which is doubtful"
            return Again(why="restart", detail=self.restart_after)
        if doubted is not None and doubted.answered_by == "invalid":
            self.restart_after = f"an answer that was refused: {doubted.doubt}"
            return Again(why="restart", detail=doubted.doubt)
        if doubted is not None:
            return doubted
        self._presses += 1
        if self._presses > MOST_PRESSES:
            return judge.best()
        self.is_pressed = True
        return Again(why="press", detail=f"same code as in turn {turn}")


def without_repeats(reply: Reply) -> Reply:
    """The reply with each block once: at temperature 0 a small model may write one block until its reply is full."""
    return replace(reply, blocks=tuple({normalise(block): block for block in reply.blocks}.values()))


def as_blocks(reply: Reply) -> str:
    """The reply as a weak model finds it in its history: the form wanted, and no output that it imagined.

    A weak model repeats what it sees.
    """
    return "\n".join(f"```repl\n{block}\n```" for block in reply.blocks)

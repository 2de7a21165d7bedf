"""The help that a weak (small, local) model gets beyond the dialogue. No I/O.

It is first asked to read the answer in the lines that hold rare words of the question, where there are such lines and
the question is not about all lines. What it says is the answer if those lines hold it and the question does not; else
it is forgotten, and the dialogue begins.

Weak models send the same code again and again. Where it failed before, the dialogue starts over from the question and
the one-line error, at a higher temperature, a few times; then the run ends, which saves the turns that would not help.
Where it went well it is not run again: its value becomes the candidate and
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


class WeakDialogue:
    """The form of the next prompt of a weak model: lines to read, a restart, a press for the end, or the dialogue."""

    def __init__(self, judge: Judge, briefs: Sequence[Brief]) -> None:
        self._judge = judge
        self._policy = judge.rules.policy
        question = judge.question
        # Under a schema code has to make the answer.
        reads_first = self._policy.reads_lines_first and question.schema is None
        self.lines_to_read = prompts.found_lines(question.query, briefs) if reads_first else ()
        self.restart_after = ""
        """the failure after which the dialogue starts over, if it does"""
        self.is_pressed = False
        self._restarts = self._presses = 0

    def __repr__(self) -> str:
        return f"<WeakDialogue, {self._restarts} restarts, {self._presses} presses>"

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
            return self._restart(failed)
        judge, doubted = self._judge, self._judge.doubted_in(turn)
        result = as_text(doubted.answer) if doubted else showed
        if is_empty(result, zero=True) and (judge.raise_once("empty again") or judge.raise_once("empty once more")):
            return self._restart(f"the result {result or 'nothing'}, which is doubtful")
        if doubted is not None and doubted.answered_by == "invalid":
            return self._restart(f"an answer that was refused: {doubted.doubt}", detail=doubted.doubt)
        if doubted is not None:
            return doubted
        self._presses += 1
        if self._presses > self._policy.presses:
            return judge.best()
        self.is_pressed = True
        return Again(why="press", detail=f"same code as in turn {turn}")

    def _restart(self, failure: str, *, detail: str = "") -> Again | Finish:
        """Starts over after a failure; where that was done often enough, the run ends with what it has."""
        self._restarts += 1
        if self._restarts > self._policy.restarts:
            best = self._judge.best()
            return replace(best, doubt=f"{best.doubt}; the model sent the same code after every new start")
        self.restart_after = failure
        return Again(why="restart", detail=detail or failure)


def without_repeats(reply: Reply) -> Reply:
    """The reply with each block once: at temperature 0 a small model may write one block until its reply is full."""
    return replace(reply, blocks=tuple({normalise(block): block for block in reply.blocks}.values()))


def as_blocks(reply: Reply) -> str:
    """The reply as a weak model finds it in its history: the form wanted, and no output that it imagined.

    A weak model repeats what it sees.
    """
    return "\n".join(f"```repl\n{block}\n```" for block in reply.blocks)

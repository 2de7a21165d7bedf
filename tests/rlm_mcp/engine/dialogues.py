"""A model and a REPL played against a trajectory, and the questions and results that tests of it share."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlm_mcp.engine import policy
from rlm_mcp.engine.judge import Judge
from rlm_mcp.engine.prompts import Brief, Remaining
from rlm_mcp.engine.steps import Ask, Question, Rules, RunBlock, Step
from rlm_mcp.engine.trajectory import Trajectory
from rlm_mcp.repl.types import CellError, CellResult, Final

BRIEF = Brief(name="app.log", kind="text", chars=1000, lines=20, samples=("10:01 INFO start", "10:02 ERROR disk"))
BRIEFS = (BRIEF,)
QUESTION = Question(query="Which component fails?")
WEAK = Rules(policy=policy.WEAK, window_tokens=16_384, reply_tokens=512)
STRONG = Rules()
NAME_ERROR = CellError(type="NameError", message="name 'linez' is not defined", line=1)
FOUND = (replace(BRIEF, hits=("zephyr: trunk-275",)),)
ZEPHYR = Question(query="What is the code of zephyr?")


class PlayedDialogue:
    """Plays a model and a REPL against a trajectory, and keeps what was asked."""

    def __init__(
        self, rules: Rules = STRONG, question: Question = QUESTION, *, briefs: Sequence[Brief] = BRIEFS, turns: int = 20
    ) -> None:
        self.trajectory = Trajectory(Judge(question, rules), briefs)
        self.turns = turns
        self.asked: list[Ask] = []

    def reply(self, text: str, *cells: CellResult, last: str = "") -> Step:
        """One turn: the model says `text`, its blocks do `cells`."""
        left = Remaining(turn=len(self.asked) + 1, turns=self.turns, seconds=60.0)
        self.asked.append(self.trajectory.ask(left, last=last))
        step = self.trajectory.receive_reply(text)
        for cell in cells:
            assert isinstance(step, RunBlock), f"nothing to run: {step}"
            step = self.trajectory.receive_cell(replace(cell, code=step.code))
        return step

    def code(self, code: str, cell: CellResult, last: str = "") -> Step:
        return self.reply(f"```repl\n{code}\n```", cell, last=last)

    def next_prompt(self, last: str = "") -> str:
        """What the model would be told now."""
        left = Remaining(turn=len(self.asked) + 1, turns=self.turns, seconds=60.0)
        return self.trajectory.ask(left, last=last).messages[-1].content


def printed(text: str, **more: Any) -> CellResult:
    return CellResult(code="", stdout=text, stdout_chars=len(text), **more)


def final(value: Any, **more: Any) -> CellResult:
    return CellResult(code="", final=Final(value=value), **more)

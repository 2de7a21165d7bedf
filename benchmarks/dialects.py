"""How a scripted root model writes programs for this engine, `rlms` and dspy.RLM, told apart by the model's name.

A program is a list of code cells and the variable that is the answer; a turn of the model is a cell, and the last one
submits the variable.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from tests.peers.openai_server import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """`mark` is in every request to a root model and in none to a sub-model."""

    mark: str
    turn: Callable[[Request], int]
    """the number of the turn that is asked for, from 1"""
    cell: Callable[[str], str]
    """a reply that runs code"""
    final: Callable[[str], str]
    """a reply that submits a variable"""

    def is_root(self, request: Request) -> bool:
        """Whether a request is one to the root model."""
        return self.mark in request.text

    def reply(self, request: Request, cells: list[str], variable: str) -> str:
        """The turn of the program that a request asks for."""
        turn = self.turn(request)
        return self.cell(cells[turn - 1]) if turn <= len(cells) else self.final(variable)


def _dspy_turn(request: Request) -> int:
    return int(re.findall(r"(\d+)/\d+", request.last)[-1])


def _fenced(code: str) -> str:
    return f"```repl\n{code}\n```"


def _dspy_cell(code: str) -> str:
    return f"[[ ## reasoning ## ]]\nGo on.\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n[[ ## completed ## ]]"


DIALECTS: Mapping[str, Dialect] = {
    "scripted": Dialect(
        mark="FINAL", turn=attrgetter("turn"), cell=_fenced, final=lambda variable: _fenced(f"FINAL({variable})")
    ),
    "rlms": Dialect(
        mark='answer["ready"]',
        turn=attrgetter("turn"),
        cell=_fenced,
        final=lambda variable: _fenced(f'answer["content"] = str({variable})\nanswer["ready"] = True'),
    ),
    "dspy": Dialect(
        mark="SUBMIT(", turn=_dspy_turn, cell=_dspy_cell, final=lambda variable: _dspy_cell(f"SUBMIT(str({variable}))")
    ),
}
"""by the name of the model"""

"""What a task is. Pure; the seed decides everything, and the name of a template function is part of its seed."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A question, its context and the only right answer. `others` are wrong answers of the same kind."""

    kind: str
    template: str
    question: str
    context: str
    answer: str
    others: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Kind and template, for a table."""
        return f"{self.kind}/{self.template}"


Template = Callable[[random.Random], Task]


def make_task(
    kind: str, made_by: Template, question: str, context: str, answer: object, others: Iterable[str] = ()
) -> Task:
    """The task that a template makes; the right answer may be among `others`."""
    said = str(answer)
    wrong = frozenset(others) - {said}
    name = made_by.__name__
    return Task(kind=kind, template=name, question=question, context=context, answer=said, others=wrong)

"""Whether an answer is right: exact, and without a model."""

import re

from benchmarks.tasks.types import Task

_MOST_ANSWER_CHARS = 200  # a longer reply may contain the right answer by chance


def is_right(task: Task, answer: object) -> bool:
    """Whether an answer contains the right word or number and no other, alone or in one short sentence."""
    if answer is None:
        return False
    text = _plain(str(answer))
    if len(text) > _MOST_ANSWER_CHARS:
        return False
    if re.fullmatch(r"-?\d+(\.\d+)?", task.answer):
        numbers = {float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)}
        return numbers == {float(task.answer)}
    return _holds(text, task.answer) and not any(_holds(text, other) for other in task.others)


def _plain(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).strip().casefold()


def _holds(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(word.casefold())}(?![\w-]|\.\w)", text) is not None

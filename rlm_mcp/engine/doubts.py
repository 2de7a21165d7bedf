"""Marks of doubt in replies: a model's words that were not much likelier than others, by their log-probabilities.

The mark stands behind the word. It is a sign that no model writes, so it can be taken out again, and a reply keeps its
form in the cache and in the record.
"""

import math
import re
from collections.abc import Mapping, Sequence

from rlm_mcp.records.events import DOUBT

_WORD = re.compile(r"[^\W\d]++")
LEAST_SURE = 0.8
"""A probability. Labels that a model gives with less are wrong several times as often as the others."""


def mark_doubts(text: str, logprobs: Sequence[tuple[str, float]]) -> str:
    """The text with a mark behind each word of which a token was less probable than LEAST_SURE.

    Numbers are not marked: they are copied. Tokens that do not make up the text are of another one.
    """
    if "".join(token for token, _ in logprobs) != text:
        return text
    unsure: list[int] = []
    at = 0
    for token, logprob in logprobs:
        if math.exp(min(0.0, logprob)) < LEAST_SURE:
            unsure += [at + place for place, char in enumerate(token) if char.isalpha()]
        at += len(token)
    unsure.append(len(text))  # so that there is always a next one
    places = iter(unsure)
    place = next(places)

    def marked(word: re.Match[str]) -> str:
        nonlocal place
        while place < word.start():
            place = next(places)
        return word.group() + (DOUBT if place < word.end() else "")

    return _WORD.sub(marked, text)


def without_marks(text: str) -> str:
    """The text as the model wrote it."""
    return text.replace(DOUBT, "")


def marked_like(value: object, marked: object) -> object:
    """The value with the marks that `marked`, the same value read from the marked text, has in its texts."""
    if isinstance(value, str) and isinstance(marked, str):
        return marked if without_marks(marked) == value else value
    if isinstance(value, Mapping) and isinstance(marked, Mapping):
        return {key: marked_like(part, marked.get(key)) for key, part in value.items()}
    return value

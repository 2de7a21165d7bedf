"""Notes of child runs: findings with the words that they rest on, checked against the text that the child was given.

`rlm_query(…, notes=True)` asks for them. The quotes that the text holds count as cited by the parent's code, so that
they are evidence of its answer. No I/O.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rlm_mcp.engine.reply_schema import complaint
from rlm_mcp.redact import ellipsize

NOTES_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "notes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"note": {"type": "string"}, "quote": {"type": "string"}},
                "required": ["note", "quote"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["notes"],
    "additionalProperties": False,
}

MOST_NOTES = 100
"""Each quote is looked for in all of the text."""


def query_for_notes(query: str) -> str:
    """The query of a child that is to answer with notes."""
    return (
        f"{query}\nAnswer with notes: each is a finding in a sentence, and as quote the words of the text that it rests"
        " on, copied exactly. What the text does not say is no note."
    )


def complaint_about_notes(value: object, context: object) -> str | None:
    """Why this answer is not accepted as notes about the context, in a sentence; None if it is."""
    problem = complaint(NOTES_SCHEMA, value)
    if problem is not None or not isinstance(value, Mapping):
        return problem
    if len(value["notes"]) > MOST_NOTES:
        return f"these are {len(value['notes']):,} notes: give the {MOST_NOTES} that matter most"
    text = _folded("\n".join(_texts(context)))
    missing = [note["quote"] for note in value["notes"] if not _is_in(note["quote"], text)]
    if not missing:
        return None
    return f"the context does not hold the quote {ellipsize(repr(missing[0]), 120)}: copy the words exactly"


def checked_notes(answer: object, context: object) -> list[dict[str, object]]:
    """The first MOST_NOTES notes in an answer, each with `verified`: whether the context holds its quote.

    An answer that is not made of notes is one note without a quote.
    """
    if complaint(NOTES_SCHEMA, answer) is not None or not isinstance(answer, Mapping):
        return [] if answer is None else [{"note": str(answer), "quote": "", "verified": False}]
    text = _folded("\n".join(_texts(context)))
    return [
        {"note": note["note"], "quote": note["quote"], "verified": _is_in(note["quote"], text)}
        for note in answer["notes"][:MOST_NOTES]
    ]


def _is_in(quote: str, folded_text: str) -> bool:
    quote = _folded(quote)
    return quote != "" and quote in folded_text


def _folded(text: str) -> str:
    return " ".join(text.split())


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for part in value.values():
                yield from _texts(part)
        case list() | tuple():
            for part in value:
                yield from _texts(part)
        case _:
            yield str(value)

"""How two runs differ: in what they were asked, answered, cited, read and spent, and turn by turn in their code."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from rlm_mcp.viewer.story import Cut

MOST_WORDS = 6_000  # of both answers; beyond this lines are compared, since the time grows with the square
MOST_LINES = 6_000

Difference = tuple[str, str]
"""`both`, `first` or `second`, and the text that stands in both answers or in one of them."""


def compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a comparison. Both arguments are what `page_data` returns."""
    one, other = first["head"], second["head"]
    texts = [_text(head["answer"]["text"]) if head["answer"] else "" for head in (one, other)]
    return {
        "runs": [summary(first), summary(second)],
        "same": {
            "query": one["query"] == other["query"],
            "contexts": _ids(one) == _ids(other),
            "answer": bool(one["answer"]) == bool(other["answer"]) and texts[0] == texts[1],
        },
        "answer": differences(*texts),
        "citations": citations(one["citations"], other["citations"]),
        "turns": aligned(_turns(first["rows"]), _turns(second["rows"])),
    }


def summary(data: Mapping[str, Any]) -> dict[str, Any]:
    """One run in the figures that are compared."""
    head, coverage = data["head"], data["coverage"]
    states = [citation["state"] for citation in head["citations"]]
    return {
        **{name: head[name] for name in ("id", "status", "created_at", "query", "models", "mode", "depth")},
        **{name: head[name] for name in ("stopped_by", "answered_by", "turns", "usage")},
        "answer_chars": head["answer"]["chars"] if head["answer"] else 0,
        "citations": {state: states.count(state) for state in ("verified", "corrected", "unverified")},
        "coverage": {name: coverage[name] for name in ("total", "code", "model")} if coverage else None,
    }


def differences(first: str, second: str) -> list[Difference] | None:
    """What must be taken out of the first text and put into it to make the second; None where both are too long."""
    if first == second:
        return [("both", first)] if first else []
    for pattern, most in ((r"\s+|\w+|[^\w\s]", MOST_WORDS), (r"[^\n]*\n|[^\n]+", MOST_LINES)):
        old, new = re.findall(pattern, first), re.findall(pattern, second)
        if len(old) + len(new) <= most:
            return _differences(old, new)
    return None


def _differences(old: Sequence[str], new: Sequence[str]) -> list[Difference]:
    found: list[Difference] = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            found.append(("both", "".join(old[i:j])))
            continue
        found += [("first", "".join(old[i:j]))] if j > i else []
        found += [("second", "".join(new[k:m]))] if m > k else []
    return found


def citations(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every cited place once, with what became of it in either run: its state, or None where it was not cited."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for side, cited in (("first", first), ("second", second)):
        for one in cited:
            quote = _text(one["quote"])
            key = (one["context_id"], one["path"], one["start_line"], one["end_line"], " ".join(quote.split()))
            place = {name: one[name] for name in ("path", "start_line", "end_line", "quote")}
            found.setdefault(key, {**place, "first": None, "second": None})[side] = one["state"]
    return list(found.values())


def aligned(first: Sequence[tuple[int, str]], second: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """Turns of both runs in pairs: those with the same code together, what lies between them in order."""
    matcher = SequenceMatcher(None, [code for _, code in first], [code for _, code in second], autojunk=False)
    return [
        {
            "first": first[i + step][0] if i + step < j else None,
            "second": second[k + step][0] if k + step < m else None,
            "same_code": kind == "equal",
        }
        for kind, i, j, k, m in matcher.get_opcodes()
        for step in range(max(j - i, m - k))
    ]


def _turns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """The turns of the run itself by number, each with its code, blanks evened out."""
    code: dict[int, list[str]] = {}
    for row in rows:
        if row["path"]:
            continue
        if row["kind"] == "reply":
            code.setdefault(row["turn"], [])
        elif row["kind"] == "cell":
            code.setdefault(row["turn"], []).append(" ".join(_text(row["code"]).split()))
    return [(turn, "\n".join(blocks)) for turn, blocks in sorted(code.items())]


def _ids(head: Mapping[str, Any]) -> list[str]:
    return sorted(str(context["context_id"]) for context in head["contexts"])


def _text(cut: Cut) -> str:
    return cut if isinstance(cut, str) else f"{cut['head']}\n…\n{cut['tail']}"

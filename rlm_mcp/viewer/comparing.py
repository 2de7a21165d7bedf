"""The differences of two runs: questions, answers, citations, coverage, spending, and the code turn by turn."""

import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from rlm_mcp.viewer.story import Cut

MOST_WORDS = 6_000  # of both answers; above this, lines are compared, since the time grows with the square
MOST_LINES = 6_000
LEAST_SAME_CHARS = 10
MOST_PAIRS = 900  # of turns whose code is compared by similarity; in longer runs, only by equality
MOST_ALIKE_CHARS = 1_500
LEAST_ALIKE = 0.6  # blocks of Python that do different things have a similarity of about a half

Difference = tuple[str, str]
"""`both`, `first` or `second`: which answers hold a piece of text; and the text."""


def compare_runs(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison of two runs, given what `page_data` returns for each."""
    one, other = first["head"], second["head"]
    texts = [_text(head["answer"]["text"]) if head["answer"] else "" for head in (one, other)]
    return {
        "runs": [run_summary(first), run_summary(second)],
        "same": {
            "query": one["query"] == other["query"],
            "contexts": _ids(one) == _ids(other),
            "answer": bool(one["answer"]) == bool(other["answer"]) and texts[0] == texts[1],
        },
        "answer": diff_texts(*texts),
        "citations": merge_citations(one["citations"], other["citations"]),
        "turns": align_turns(_turns(first["rows"]), _turns(second["rows"])),
    }


def run_summary(data: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one run that are compared."""
    head, coverage = data["head"], data["coverage"]
    states = [citation["state"] for citation in head["citations"]]
    return {
        **{name: head[name] for name in ("id", "status", "created_at", "query", "models", "mode", "depth")},
        **{name: head[name] for name in ("stopped_by", "answered_by", "turns", "usage")},
        "answer_chars": head["answer"]["chars"] if head["answer"] else 0,
        "citations": {state: states.count(state) for state in ("verified", "corrected", "unverified")},
        "coverage": {name: coverage[name] for name in ("total", "code", "model")} if coverage else None,
    }


def diff_texts(first: str, second: str) -> list[Difference] | None:
    """The edits that turn the first text into the second; None if the texts are too long."""
    if first == second:
        return [("both", first)] if first else []
    for pattern, most in ((r"\s+|\w+|[^\w\s]", MOST_WORDS), (r"[^\n]*\n|[^\n]+", MOST_LINES)):
        old, new = re.findall(pattern, first), re.findall(pattern, second)
        if len(old) + len(new) <= most:
            return _diff_pieces(old, new)
    return None


def _diff_pieces(old: Sequence[str], new: Sequence[str]) -> list[Difference]:
    """The same for texts in pieces. Fewer than LEAST_SAME_CHARS between two changes count as chance."""
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    found: list[Difference] = []
    i = j = 0
    for block in blocks:
        same = "".join(old[block.a : block.a + block.size])
        is_between = i + j > 0 and block.a + block.size < len(old) and block.b + block.size < len(new)
        if block.size and is_between and len(same) < LEAST_SAME_CHARS:
            continue
        found += [("first", "".join(old[i : block.a]))] if block.a > i else []
        found += [("second", "".join(new[j : block.b]))] if block.b > j else []
        found += [("both", same)] if same else []
        i, j = block.a + block.size, block.b + block.size
    return found


def merge_citations(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every cited place once, with its state in each run; None where a run did not cite it."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for side, cited in (("first", first), ("second", second)):
        for one in cited:
            quote = _text(one["quote"])
            key = (one["context_id"], one["path"], one["start_line"], one["end_line"], " ".join(quote.split()))
            place = {name: one[name] for name in ("path", "start_line", "end_line", "quote")}
            found.setdefault(key, {**place, "first": None, "second": None})[side] = one["state"]
    return list(found.values())


def align_turns(first: Sequence[tuple[int, str]], second: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """The turns of both runs in order: those with the most similar code in pairs, the others alone."""
    if len(first) * len(second) > MOST_PAIRS:
        return _align_equal_turns(first, second)
    gain = [[max(0.0, _similarity(one, other) - LEAST_ALIKE) for _, other in second] for _, one in first]
    # The best total from each pair of positions on; then the path through it.
    best = [[0.0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i in reversed(range(len(first))):
        for j in reversed(range(len(second))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], gain[i][j] + best[i + 1][j + 1])
    pairs: list[dict[str, Any]] = []
    i = j = 0
    while i < len(first) or j < len(second):
        both = i < len(first) and j < len(second)
        if both and gain[i][j] > 0 and best[i][j] == gain[i][j] + best[i + 1][j + 1]:
            pairs.append({"first": first[i][0], "second": second[j][0], "same_code": first[i][1] == second[j][1]})
            i, j = i + 1, j + 1
        elif i < len(first) and (not both or best[i][j] == best[i + 1][j]):
            pairs.append({"first": first[i][0], "second": None, "same_code": False})
            i += 1
        else:
            pairs.append({"first": None, "second": second[j][0], "same_code": False})
            j += 1
    return pairs


def _align_equal_turns(first: Sequence[tuple[int, str]], second: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """The same for long runs, in linear time: pairs are turns of equal code, in order, each with the next one."""
    places: dict[str, deque[int]] = defaultdict(deque)
    for at, (_, code) in enumerate(second):
        places[code].append(at)
    pairs: list[dict[str, Any]] = []
    done = 0
    for number, code in first:
        there = places[code]
        while there and there[0] < done:
            there.popleft()
        if not there:
            pairs.append({"first": number, "second": None, "same_code": False})
            continue
        pairs += [{"first": None, "second": other, "same_code": False} for other, _ in second[done : there[0]]]
        pairs.append({"first": number, "second": second[there[0]][0], "same_code": True})
        done = there[0] + 1
    return pairs + [{"first": None, "second": other, "same_code": False} for other, _ in second[done:]]


def _similarity(one: str, other: str) -> float:
    if one == other:
        return 1.0
    return SequenceMatcher(None, one[:MOST_ALIKE_CHARS], other[:MOST_ALIKE_CHARS], autojunk=False).ratio()


def _turns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """The number and the code of each turn of the run itself, with white space collapsed."""
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

"""The generated questions: one truth, found by brute force, and a score that falls where a part is lost."""

import re
from collections import Counter

import pytest

from benchmarks.quality import Result, fault_for, figures_of, grep, measure
from benchmarks.quality_tasks import (
    COMMON,
    FAMILIES,
    PHRASES,
    Case,
    Opinions,
    make_case,
    program_of,
    read_prompt,
    reduce_replies,
    score,
)
from tests.peers.openai_server import OpenAIServer, Request

SIZE = 6_000


def kinds_in(case: Case) -> list[tuple[str, str, str]]:
    """Name, user and kind of each line, by a search for every phrase."""
    found = []
    for line in case.context.splitlines():
        name, _, user, text = line.split(" | ", 3)
        found += [(name, user, kind) for kind, phrases in PHRASES.items() if any(one in text for one in phrases)]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_truth_is_what_a_search_for_the_phrases_finds_and_the_oracle_reads(family: str) -> None:
    case = make_case(family, SIZE, 3)
    assert case == make_case(family, SIZE, 3)
    assert case.context != make_case(family, SIZE, 4).context
    asked = (re.findall(r"kind (\w+)", case.question) or [""])[0]
    hits = [(name, user) for name, user, kind in kinds_in(case) if kind == asked]
    counts = Counter(user for _, user in hits)
    users = sorted(counts)
    expected = {
        "count": str(len(hits)),
        "rare": hits[0][0] if hits else "",
        "join": min(users, key=lambda user: (-counts[user], user), default=""),
        "pairs": ", ".join(f"{a}-{b}" for at, a in enumerate(users) for b in users[at + 1 :]),
        "none": "NONE",
        "needle": (re.findall(rf"{case.question.split()[-1][:-1]} is (\d+)", case.context) or [""])[0],
    }
    assert case.truth == expected[family]
    assert score(case, read_prompt(f"{case.context}\n\nQuestion: {case.question}", noise=0)) == 1.0


def test_no_line_names_its_kind() -> None:
    assert not any(kind in make_case("count", SIZE, 0).context.split() for kind in PHRASES)


@pytest.mark.parametrize("family", ["count", "rare", "pairs", "needle"])
def test_a_dropped_part_costs_score(family: str) -> None:
    case = make_case(family, SIZE, 1)
    lines = case.context.splitlines()
    halves = ("\n".join(lines[: len(lines) // 2]), "\n".join(lines[len(lines) // 2 :]))
    said = [read_prompt(f"{half}\n\nQuestion: {case.question}", noise=0) for half in halves]
    assert sum(score(case, one) for one in said) < 2
    assert min(score(case, one) for one in said) < 1


def test_the_oracle_errs_as_often_as_it_is_told_to_and_more_in_long_prompts() -> None:
    texts = [f"{PHRASES[kind][0]} the lamp no. {n}" for kind in COMMON for n in range(500)]
    wrong = sum(Opinions(100)[text] != Opinions()[text] for text in texts)
    assert 100 <= wrong <= 200
    case = make_case("count", 40_000, 0)
    assert score(case, read_prompt(f"{case.context}\n\nQuestion: {case.question}", noise=0)) == 0.0


def test_replies_over_parts_are_added_joined_or_voted_on() -> None:
    assert reduce_replies("How many …?", ["2", "", "3"]) == "5"
    assert reduce_replies("Which pairs …?", ["u1-u2", "NONE"]) == "u1-u2"
    assert reduce_replies("Which user …?", ["u1", "u2", "u2"]) == "u2"


def test_this_engine_answers_every_kind_of_program_through_http() -> None:
    case = make_case("join", SIZE, 0)
    result = measure("own", case, SIZE, noise=0)
    assert (result.score, result.family) == (1.0, "join")
    assert result.calls >= 2
    assert result.tokens > 0
    assert "classify" in program_of(case.question)


def test_a_search_for_words_of_the_question_finds_no_meaning() -> None:
    with OpenAIServer(lambda request: read_prompt(request.last, 0)).run_in_thread() as server:
        assert grep(make_case("rare", SIZE, 0), server.base_url) == "NONE"


def test_one_request_in_29_fails() -> None:
    requests = [Request(number=n, path="/", headers={}, body={}) for n in range(58)]
    assert sum(fault_for(request) is not None for request in requests) == 2


def test_figures_are_means_with_their_range_for_each_contender_and_size() -> None:
    one = Result(contender="own", family="count", size=1 << 20, score=1.0, tokens=9, usd=0.1, seconds=2.0, calls=3)
    two = Result(contender="own", family="rare", size=1 << 20, score=0.0, tokens=9, usd=0.1, seconds=2.0, calls=3)
    figure, *others = figures_of([one, two])
    assert figure == {
        "name": "score at 1,024 KiB",
        "unit": "%",
        "value": 50.0,
        "low": 0.0,
        "high": 100.0,
        "n": 2,
        "better": "higher",
        "contender": "own",
    }
    assert len(others) == 4

"""Routing: direct or the loop, how deep, and the reason that is given."""

from dataclasses import replace
from importlib.resources import as_file, files

import pytest

from rlm_mcp.engine.router import Route, estimate, route
from rlm_mcp.errors import PromptOverWindow
from rlm_mcp.models.base import Profile
from rlm_mcp.records.events import Routed, RunEnded, RunStarted
from rlm_mcp.records.reading import read_events

STRONG = Profile(usd_per_mtok_in=1.0, usd_per_mtok_out=4.0)
WEAK = Profile(strength="weak", window_tokens=16_384)


def test_a_small_context_and_an_easy_question_go_to_one_call() -> None:
    assert route("Who is the author?", 9_000, root=STRONG) == Route(
        mode="direct",
        depth=0,
        reason="direct because 9,000 tokens of context are at most 16,384 (where one call does as well as a run)",
    )


def test_a_question_that_counts_goes_to_the_loop() -> None:
    way = route("How many errors are there?", 9_000, root=STRONG)

    assert (way.mode, way.depth) == ("rlm", 1)
    assert "the question counts or compares: 'How many'" in way.reason


def test_a_long_context_goes_to_the_loop_and_a_very_long_one_deeper() -> None:
    assert route("Who is the author?", 20_000, root=STRONG).depth == 1
    assert route("Who is the author?", 2_000_000, root=STRONG).depth == 2
    assert route("Who is the author?", 2_000_000, root=STRONG, max_depth=0).depth == 0


def test_a_weak_model_writes_code_at_depth_0_and_reads_only_very_short_texts() -> None:
    assert route("Who is the author?", 190, root=WEAK).mode == "direct"
    assert route("How many of the remarks are complaints?", 120, root=WEAK).mode == "rlm"
    way = route("Who is the author?", 2_000, root=WEAK)
    assert (way.mode, way.depth) == ("rlm", 0)


def test_the_caller_overrides() -> None:
    assert route("Who?", 10, root=STRONG, mode="rlm").mode == "rlm"
    assert route("How many?", 100_000, root=STRONG, mode="direct").mode == "direct"


def test_a_direct_call_that_cannot_fit_is_refused_with_both_sizes() -> None:
    with pytest.raises(PromptOverWindow, match=r"needs about 200,000 tokens and the root model takes 125,952"):
        route("Who?", 200_000, root=STRONG, mode="direct")


def test_a_small_budget_pays_one_call_rather_than_no_run() -> None:
    way = route("Who is the author?", 18_000, root=Profile(usd_per_mtok_in=0.05, usd_per_mtok_out=4.0), max_usd=0.002)

    assert way == Route(mode="direct", depth=0, reason=way.reason)
    assert "max_usd=0.002 pays one call" in way.reason


WAYS = [
    Route(mode="direct", depth=0, reason=""),
    Route(mode="rlm", depth=0, reason=""),
    Route(mode="rlm", depth=1, reason=""),
    Route(mode="rlm", depth=2, reason=""),
]


@pytest.mark.parametrize("model", [STRONG, WEAK, Profile(window_tokens=4_096, max_output_tokens=256)])
@pytest.mark.parametrize("tokens", [0, 1, 900, 100_000, 30_000_000])
@pytest.mark.parametrize("way", WAYS)
def test_an_estimate_is_a_range_from_low_to_high(way: Route, tokens: int, model: Profile) -> None:
    guess = estimate(way, [tokens], root=model, sub=STRONG)

    assert guess.route == way
    assert 1 <= guess.calls[0] <= guess.calls[1]
    assert guess.calls[0] <= guess.tokens[0] <= guess.tokens[1]
    assert (guess.usd is None) == (not model.priced)
    if guess.usd is not None:
        assert 0 < guess.usd[0] <= guess.usd[1]


def test_an_estimate_is_higher_for_more_text_and_for_more_depth() -> None:
    by_size = [estimate(WAYS[2], [size], root=STRONG, sub=STRONG) for size in (10_000, 1_000_000, 10_000_000)]
    by_depth = [estimate(way, [500_000], root=STRONG, sub=STRONG) for way in WAYS[1:]]

    for guesses in (by_size, by_depth):
        assert [guess.calls[1] for guess in guesses] == sorted({guess.calls[1] for guess in guesses})
        assert [guess.tokens[1] for guess in guesses] == sorted({guess.tokens[1] for guess in guesses})
        assert len({guess.calls[0] for guess in guesses}) == 1  # code alone may find the answer, whatever the size


def test_a_direct_call_is_one_call_and_with_a_schema_at_most_two() -> None:
    assert estimate(WAYS[0], [1_000, 2_000], root=STRONG, sub=STRONG).calls == (1, 1)
    assert estimate(WAYS[0], [3_000], root=STRONG, sub=STRONG).tokens == (3_051, 8_500)
    assert estimate(WAYS[0], [3_000], root=STRONG, sub=STRONG, has_schema=True).calls == (1, 2)


def test_dollars_are_estimated_only_where_every_model_has_a_price() -> None:
    unknown, free = Profile(), Profile(usd_per_mtok_in=0.0, usd_per_mtok_out=0.0)

    assert estimate(WAYS[1], [100_000], root=STRONG, sub=unknown).usd is None
    assert estimate(WAYS[1], [100_000], root=unknown, sub=STRONG).usd is None
    assert estimate(WAYS[0], [100_000], root=STRONG, sub=unknown).usd is not None  # a direct call asks no sub-model
    assert estimate(WAYS[1], [100_000], root=free, sub=free).usd == (0.0, 0.0)


def test_children_are_estimated_at_the_price_of_the_model_that_leads_them() -> None:
    free = Profile(usd_per_mtok_in=0.0, usd_per_mtok_out=0.0)
    weak = replace(WEAK, usd_per_mtok_in=0.0, usd_per_mtok_out=0.0)
    by_strong, by_root = (estimate(WAYS[2], [100_000], root=STRONG, sub=sub).usd for sub in (free, weak))
    assert by_strong is not None
    assert by_root is not None
    assert by_root[0] == by_strong[0]
    assert by_root[1] > by_strong[1]


def test_the_recorded_run_of_a_weak_model_lies_within_its_estimate() -> None:
    with as_file(files("rlm_mcp.cli.demo_data").joinpath("small.jsonl")) as path:
        events = list(read_events(path))
    started = next(event for event in events if isinstance(event, RunStarted))
    routed = next(event for event in events if isinstance(event, Routed))
    usage = next(event.usage for event in events if isinstance(event, RunEnded))
    way = Route(mode=routed.mode, depth=routed.depth, reason="")
    tokens = started.contexts[0]["chars"] // 4

    guess = estimate(way, [tokens], root=WEAK, sub=WEAK)

    assert guess.calls[0] <= usage["root_calls"] + usage["sub_calls"] <= guess.calls[1]
    assert guess.tokens[0] <= usage["prompt_tokens"] + usage["completion_tokens"] <= guess.tokens[1]

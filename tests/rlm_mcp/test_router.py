"""Which way a question goes, and why."""

import pytest

from rlm_mcp.errors import PromptOverWindow
from rlm_mcp.models.base import Profile
from rlm_mcp.router import Route, estimate, route

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
    assert route("Who is the author?", 900, root=WEAK).mode == "direct"
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


def test_an_estimate_is_a_range_and_has_dollars_only_with_prices() -> None:
    way = route("How many errors?", 100_000, root=STRONG)

    priced = estimate(way, [100_000], root=STRONG, sub=STRONG)
    assert priced.calls[0] < priced.calls[1]
    assert priced.usd is not None
    assert priced.usd[0] < priced.usd[1]
    assert estimate(way, [100_000], root=STRONG, sub=Profile()).usd is None

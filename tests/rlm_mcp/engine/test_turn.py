"""A turn as a value: what is left before it, and which limit makes it the last one."""

from typing import Any, Literal

import pytest

from rlm_mcp.engine.budget import BudgetLeft
from rlm_mcp.engine.prompts import Remaining
from rlm_mcp.engine.turn import Turn, new_turn, turn_on_tape
from rlm_mcp.models.base import Profile
from rlm_mcp.records.events import RootReply, event_from_json
from rlm_mcp.spending import RunLimits

ALL_LEFT: dict[str, Any] = {"usd": 1.0, "tokens": 50_000, "sub_calls": 9, "seconds": 60.0, "iterations": None}
PRICED = Profile(usd_per_mtok_in=10.0, usd_per_mtok_out=40.0)


def turn(*, longest_prompt: int = 4_000, root: Profile = PRICED, **left: Any) -> Turn:
    limits = RunLimits(max_seconds=100.0)
    return new_turn(2, BudgetLeft(**(ALL_LEFT | left)), limits, root, longest_prompt=longest_prompt)


def test_a_turn_says_what_is_left() -> None:
    assert turn() == Turn(left=Remaining(turn=2, turns=20, seconds=60.0, usd=1.0, sub_calls=9, tokens=50_000))


@pytest.mark.parametrize(
    ("left", "limit", "why"),
    [
        ({"seconds": 14.9}, "seconds", "the time is nearly used up"),
        ({"usd": 0.1}, "usd", "the dollars are nearly used up"),
        ({"tokens": 8_000}, "tokens", "the tokens are nearly used up"),
        ({"seconds": None, "usd": None, "tokens": None}, "", ""),
    ],
)
def test_a_limit_that_has_room_for_one_call_makes_a_turn_the_last(left: dict[str, Any], limit: str, why: str) -> None:
    last = turn(**left)

    assert (last.limit, last.why_last) == (limit, why)


def test_before_the_first_call_only_the_time_makes_a_turn_the_last() -> None:
    assert turn(longest_prompt=0, usd=0.0001, tokens=10).why_last == ""


@pytest.mark.parametrize(("strength", "turns"), [("strong", 20), ("weak", 10)])
def test_a_weak_model_gets_fewer_turns(strength: Literal["strong", "weak"], turns: int) -> None:
    assert turn(root=Profile(strength=strength)).left.turns == turns


def test_a_turn_on_record_is_what_it_was() -> None:
    left = {"turn": 3, "turns": 9, "seconds": 1.5, "usd": None, "sub_calls": None, "tokens": None}
    last = ["seconds", "the time is nearly used up"]
    taped = event_from_json({"event": "root_reply", "left": left, "last": last, "text": "FINAL(n)"})
    assert isinstance(taped, RootReply)

    assert turn_on_tape(taped) == Turn(
        left=Remaining(turn=3, turns=9, seconds=1.5),
        limit="seconds",
        why_last="the time is nearly used up",
        taped=taped,
    )

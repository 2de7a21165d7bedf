"""Which way to answer a question: one direct call, or the loop, and how deep; and roughly what that will cost.

Measured by the paper and every later study: below about 2^14 tokens a single call is as right, faster and cheaper,
unless the question has to count or compare over the whole text, which models do badly and code does exactly. Depth is
the number of levels of child runs: at depth 0 `rlm_query` is a plain call. One level helps strong models; a second pays
only where the pieces themselves are too long, and hurts models that over-use it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlm_mcp.errors import PromptOverWindow
from rlm_mcp.models.base import Profile

Mode = Literal["auto", "direct", "rlm"]

DIRECT_TOKENS = 1 << 14  # the paper's break-even point for strong models
DIRECT_AGGREGATE_TOKENS = 1_500  # what a model can still count or compare by reading
WEAK_DIRECT_TOKENS = 1_000  # small models read even short texts badly and write code for them well
WEAK_DIRECT_AGGREGATE_TOKENS = 200
DEEP_TOKENS = 1 << 20  # a piece of a tenth of this is still more than one prompt should hold
_ROOM_FOR_REPLY = 2_048
_AGGREGATE = re.compile(
    r"\b(how (many|much|often)|count|number of|total|sum|average|mean|median|most|least|fewest|largest|smallest|longest"
    r"|every|each|all|list|rank|sort|order|unique|distinct|percent\w*|share|ratio|frequen\w+|compare|per)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way taken, and the reason in a sentence."""

    mode: Literal["direct", "rlm"]
    depth: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will probably take, as ranges (low, high). Dollars are None where a price is unknown."""

    route: Route
    calls: tuple[int, int]
    tokens: tuple[int, int]
    usd: tuple[float, float] | None


def route(
    query: str,
    context_tokens: int,
    *,
    root: Profile,
    mode: Mode = "auto",
    max_depth: int | None = None,
    max_usd: float | None = None,
) -> Route:
    """Chooses the way. Raises PromptOverWindow where `mode` is "direct" and the contexts do not fit the root model."""
    room = root.window_tokens - _ROOM_FOR_REPLY
    if mode == "direct":
        if context_tokens > room:
            raise PromptOverWindow(
                f"mode='direct' needs about {context_tokens:,} tokens and the root model takes {room:,}: use mode='rlm'"
            )
        return Route(mode="direct", depth=0, reason="direct because the caller asked for it")
    depth, why_depth = _depth(context_tokens, root, max_depth)
    if mode == "rlm":
        return Route(mode="rlm", depth=depth, reason=f"rlm because the caller asked for it; {why_depth}")
    limit, what = _direct_limit(query, root)
    if context_tokens <= min(limit, room):
        reason = f"direct because {context_tokens:,} tokens of context are at most {limit:,} ({what})"
        return Route(mode="direct", depth=0, reason=reason)
    if max_usd is not None and context_tokens <= room:
        cheapest = root.cost_usd(_ROOT_CALLS[0] * _ROOT_PROMPT[0], _ROOT_CALLS[0] * _ROOT_REPLY[0])
        once = root.cost_usd(context_tokens, _DIRECT_REPLY[0])
        if cheapest is not None and once is not None and once <= max_usd < cheapest:
            reason = (
                f"direct because max_usd={max_usd:g} pays one call (${once:.4f}) and no run (${cheapest:.4f} or more)"
            )
            return Route(mode="direct", depth=0, reason=reason)
    reason = f"rlm because {context_tokens:,} tokens of context are more than {limit:,} ({what}); {why_depth}"
    return Route(mode="rlm", depth=depth, reason=reason)


def _direct_limit(query: str, root: Profile) -> tuple[int, str]:
    aggregates = _AGGREGATE.search(query)
    is_weak = root.strength == "weak"
    if aggregates is not None:
        limit = WEAK_DIRECT_AGGREGATE_TOKENS if is_weak else DIRECT_AGGREGATE_TOKENS
        return limit, f"the question counts or compares: {aggregates.group()!r}"
    if is_weak:
        return WEAK_DIRECT_TOKENS, "the limit for a weak model"
    return DIRECT_TOKENS, "where one call does as well as a run"


def _depth(context_tokens: int, root: Profile, max_depth: int | None) -> tuple[int, str]:
    if root.strength == "weak":
        depth, why = 0, "depth 0 for a weak model"
    elif context_tokens > DEEP_TOKENS:
        depth, why = 2, f"depth 2 above {DEEP_TOKENS:,} tokens"
    else:
        depth, why = 1, "depth 1"
    if max_depth is not None and max_depth < depth:
        return max_depth, f"depth {max_depth} by max_depth"
    return depth, why


# Ranges over runs of published traces: calls of the root, tokens of one prompt, tokens of one reply.
_ROOT_CALLS = (3, 12)
_ROOT_PROMPT = (2_000, 12_000)
_ROOT_REPLY = (150, 800)
_SUB_REPLY = (50, 1_000)
_DIRECT_REPLY = (200, 2_000)


def estimate(way: Route, context_tokens: Sequence[int], *, root: Profile, sub: Profile) -> Estimate:
    """Low: code alone finds the answer. High: many turns, and sub-calls read every context once."""
    total = sum(context_tokens)
    if way.mode == "direct":
        prompt, reply = (total, total + 1_000), _DIRECT_REPLY
        usd = _usd(root, prompt, reply)
        return Estimate(route=way, calls=(1, 1), tokens=(prompt[0] + reply[0], prompt[1] + reply[1]), usd=usd)
    piece = max(2_000, min(25_000, sub.window_tokens // 2))
    sub_calls = (0, -(-total // piece) * (1 + way.depth))
    root_prompt = (_ROOT_CALLS[0] * _ROOT_PROMPT[0], _ROOT_CALLS[1] * _ROOT_PROMPT[1])
    root_reply = (_ROOT_CALLS[0] * _ROOT_REPLY[0], _ROOT_CALLS[1] * _ROOT_REPLY[1])
    sub_prompt = (0, total * (1 + way.depth))
    sub_reply = (0, sub_calls[1] * _SUB_REPLY[1])
    of_root, of_sub = _usd(root, root_prompt, root_reply), _usd(sub, sub_prompt, sub_reply)
    return Estimate(
        route=way,
        calls=(_ROOT_CALLS[0], _ROOT_CALLS[1] + sub_calls[1]),
        tokens=(root_prompt[0] + root_reply[0], root_prompt[1] + root_reply[1] + sub_prompt[1] + sub_reply[1]),
        usd=None if of_root is None or of_sub is None else (of_root[0] + of_sub[0], of_root[1] + of_sub[1]),
    )


def _usd(profile: Profile, prompt: tuple[int, int], reply: tuple[int, int]) -> tuple[float, float] | None:
    low, high = profile.cost_usd(prompt[0], reply[0]), profile.cost_usd(prompt[1], reply[1])
    return None if low is None or high is None else (low, high)

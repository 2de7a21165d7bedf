"""Routing: whether one direct call or the loop answers a question, how deep the loop goes, and a rough cost estimate.

Measured by the paper and every later study: below about 2^14 tokens a single call is as accurate, faster and cheaper,
unless the question has to count or compare over the whole text, which models do badly and code does exactly. Depth is
the number of levels of child runs: at depth 0 `rlm_query` is a plain call. One level helps strong models; a second one
pays only if the pieces themselves are too long, and hurts models that overuse it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlm_mcp.engine.policy import policy_of
from rlm_mcp.engine.prompts import AGGREGATES
from rlm_mcp.errors import PromptOverWindow
from rlm_mcp.models.base import Profile

Mode = Literal["auto", "direct", "rlm"]

DEEP_TOKENS = 1 << 20  # a piece of a tenth of this is still more than one prompt should hold
_ROOM_FOR_REPLY = 2_048
_LEAST_RUN = (6_000, 450)  # tokens in and out of a run of three turns
_LEAST_REPLY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way to answer, and the reason in a sentence."""

    mode: Literal["direct", "rlm"]
    depth: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The probable cost of a run, as ranges (low, high). Dollars are None if a price is unknown."""

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
    """Chooses the way. Raises PromptOverWindow if `mode` is "direct" and the contexts do not fit the root model."""
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
        cheapest = root.cost_usd(*_LEAST_RUN)
        once = root.cost_usd(context_tokens, _LEAST_REPLY)
        if cheapest is not None and once is not None and once <= max_usd < cheapest:
            reason = (
                f"direct because max_usd={max_usd:g} pays one call (${once:.4f}) and no run (${cheapest:.4f} or more)"
            )
            return Route(mode="direct", depth=0, reason=reason)
    reason = f"rlm because {context_tokens:,} tokens of context are more than {limit:,} ({what}); {why_depth}"
    return Route(mode="rlm", depth=depth, reason=reason)


def _direct_limit(query: str, root: Profile) -> tuple[int, str]:
    policy = policy_of(root)
    if (aggregates := AGGREGATES.search(query)) is not None:
        return policy.direct_aggregate_tokens, f"the question counts or compares: {aggregates.group().strip()!r}"
    why = "where one call does as well as a run" if policy.strength == "strong" else "the limit for a weak model"
    return policy.direct_tokens, why


def _depth(context_tokens: int, root: Profile, max_depth: int | None) -> tuple[int, str]:
    if not policy_of(root).runs_children:
        depth, why = 0, "depth 0 for a weak model"
    elif context_tokens > DEEP_TOKENS:
        depth, why = 2, f"depth 2 above {DEEP_TOKENS:,} tokens"
    else:
        depth, why = 1, "depth 1"
    if max_depth is not None and max_depth < depth:
        return max_depth, f"depth {max_depth} by max_depth"
    return depth, why


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """Typical figures of runs with one kind of model: nine of ten runs lie within these ranges (low, high)."""

    root_calls: tuple[int, int]
    root_prompt: tuple[int, int]
    root_reply: tuple[int, int]
    sub_piece: int
    """tokens of context in one sub-call"""
    sub_reply: tuple[int, int]


# Strong: from published traces; the longest replies are mostly thinking. Weak: from runs of a 1.5B model, which judges
# lines eight at a time. A prompt of the root model is the system prompt and the outputs so far.
_STRONG = _Figures(
    root_calls=(2, 20), root_prompt=(1_200, 16_000), root_reply=(50, 2_000), sub_piece=25_000, sub_reply=(10, 1_000)
)
_WEAK = _Figures(root_calls=(1, 10), root_prompt=(250, 1_500), root_reply=(2, 400), sub_piece=400, sub_reply=(2, 200))
_DIRECT_PROMPT = (50, 500)  # beside the material
_DIRECT_REPLY = (1, 2_000)
_TOKENS_OF_ESTIMATED = 2  # logs and figures take two bytes a token, prose takes four
_MOST_SUB_CALLS = 1_000  # the default limit
_CHILD_TOKENS = 100_000  # of context in one child run


def estimate(
    way: Route, context_tokens: Sequence[int], *, root: Profile, sub: Profile, has_schema: bool = False
) -> Estimate:
    """The probable cost of a run that takes this `way`, before anything is spent. Pure: call `route` first.

    `context_tokens` are the `estimated_tokens` of its contexts, `root` and `sub` the profiles of its models. Low: code
    alone finds the answer, in few turns. High: many turns, sub-calls read every context once at each depth, and text
    takes two bytes a token. `tokens` are prompts and replies together. `usd` is None unless the price of each model
    that may be asked is known; (0.0, 0.0) means free of charge. The limits of a run are not considered: a limit below
    the high end is the most that the run can take.
    """
    total = sum(context_tokens)
    if way.mode == "direct":
        most = 2 if has_schema else 1  # a reply that breaks the schema is asked for a second time
        fits = root.window_tokens  # what does not fit is refused before it is paid for
        prompt = min(fits, total + _DIRECT_PROMPT[0]), most * min(fits, _most(total) + _DIRECT_PROMPT[1])
        reply = _DIRECT_REPLY[0], most * min(_DIRECT_REPLY[1], root.max_output_tokens)
        return _estimate(way, (1, most), [(root, prompt, reply)])
    usual = _WEAK if root.strength == "weak" else _STRONG
    reads = 1 + way.depth  # high: each level has every context read once
    piece = max(1, min(usual.sub_piece, sub.window_tokens // 2))
    sub_calls = min(_MOST_SUB_CALLS, reads * -(-_most(total) // piece))
    children = way.depth * -(-_most(total) // _CHILD_TOKENS)
    calls = usual.root_calls[0], usual.root_calls[1] * (1 + children) + sub_calls
    of_root = (
        _root_tokens(usual.root_prompt, usual.root_calls),
        _root_tokens(usual.root_reply, usual.root_calls),
    )
    turns_of_children = usual.root_calls[1] * children
    of_children = (0, turns_of_children * usual.root_prompt[1]), (0, turns_of_children * usual.root_reply[1])
    of_sub = (
        (0, min(reads * _most(total), sub_calls * piece) + sub_calls * 200),
        (0, sub_calls * usual.sub_reply[1]),
    )
    leads = sub if policy_of(sub).leads_children else root
    return _estimate(way, calls, [(root, *of_root), (leads, *of_children), (sub, *of_sub)])


_LowHigh = tuple[int, int]


def _estimate(way: Route, calls: _LowHigh, paid: Sequence[tuple[Profile, _LowHigh, _LowHigh]]) -> Estimate:
    """Sums prompts and replies, each at the prices of its model."""
    low, high = (sum(prompt[end] + reply[end] for _, prompt, reply in paid) for end in (0, 1))
    costs = [[profile.cost_usd(prompt[end], reply[end]) for profile, prompt, reply in paid] for end in (0, 1)]
    known = [[cost for cost in at_end if cost is not None] for at_end in costs]
    is_priced = all(len(priced) == len(paid) for priced in known)
    usd = (sum(known[0]), sum(known[1])) if is_priced else None
    return Estimate(route=way, calls=calls, tokens=(low, high), usd=usd)


def _most(tokens: int) -> int:
    return tokens * _TOKENS_OF_ESTIMATED


def _root_tokens(each: _LowHigh, calls: _LowHigh) -> _LowHigh:
    return each[0] * calls[0], each[1] * calls[1]

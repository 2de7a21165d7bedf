"""Decides whether the usage that a provider reports is believed, or our own count is charged instead.

A limit on dollars or tokens holds only if a provider cannot report less than it was sent. Tokens are counted exactly by
the model's own tokeniser alone, so only what no tokeniser can produce is doubted. `least_tokens` was compared with
gpt2, cl100k_base and o200k_base on prose in seven languages, code, logs, tables and runs of one character. None makes
fewer tokens than there are words, but a fixed share of `estimate_tokens` would not do: 3,000 blanks are 0.03 times the
estimate, and Russian prose is 0.21 times.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlm_mcp.models.base import Message, Profile, Usage, bound_prompt, bound_tokens, estimate_prompt, estimate_tokens
from rlm_mcp.models.reply_body import ProviderReply

# How far a count may be below or above what our own count suggests.
TOLERANCE = 4
# Tokens that a gateway may add to a prompt, and a model may think without showing it.
HIDDEN_PROMPT_TOKENS, HIDDEN_COMPLETION_TOKENS = 10_000, 200_000
# Gateways give discounts; none charges less than a quarter of a price that is known.
LEAST_SHARE_OF_PRICE = 0.25

_COMPARED_BYTES = 1 << 14  # which fit into the cache of a processor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """One count: the tokens to charge, whether they are our own, and the report if it was not believed."""

    tokens: int
    estimated: bool
    doubted: str = ""


def usage_of(reply: ProviderReply, messages: Sequence[Message], max_tokens: int | None, profile: Profile) -> Usage:
    """Returns the usage to charge for a reply. `Usage.doubt` says what the provider reported instead, if doubted."""
    said = reply.reasoning + reply.text
    longest = max(max_tokens or profile.max_output_tokens, bound_tokens(said))
    prompt = _check_prompt(reply.prompt_tokens, messages)
    completion = _check_completion(reply.completion_tokens, said, longest)
    cached = min(max(0, reply.cached_prompt_tokens), prompt.tokens)
    usage = Usage(
        prompt_tokens=prompt.tokens,
        completion_tokens=completion.tokens,
        cached_prompt_tokens=cached,
        estimated=prompt.estimated or completion.estimated,
    )
    counted = reply.prompt_tokens is not None and reply.completion_tokens is not None
    price = profile.cost_usd(prompt.tokens, completion.tokens, cached)
    most = profile.cost_usd(bound_prompt(messages), max(longest, completion.tokens))
    cost, doubted_cost = _check_cost(reply.cost_usd, price, most)
    if reply.cost_usd is None and not counted:
        cost = None  # the ledger computes it
    doubts = [doubt for doubt in (prompt.doubted, completion.doubted, doubted_cost) if doubt]
    doubt = f"the provider reported {' and '.join(doubts)}" if doubts else ""
    return replace(usage, cost_usd=cost, doubt=doubt)


def least_tokens(text: str) -> float:
    """Returns fewer tokens than any tokeniser makes of `text`.

    A token is at most a word; languages without blanks have a token for each three characters or fewer; and a token of
    more than 16 characters repeats one of them.
    """
    wide = len(text) - len(text.encode("ascii", "ignore"))
    return max(len(text.split()), wide / 8, _changes(text) / 16) / 2


def _changes(text: str) -> int:
    """Counts the characters that differ from the one before, all characters beyond Latin-1 being equal.

    It compares thousands of them at once, as the bytes of two large integers, which takes 3 ms for a million.
    """
    data = text.encode("latin-1", "replace")
    changes = min(len(data), 1)
    for start in range(0, len(data) - 1, _COMPARED_BYTES):
        piece, after = data[start : start + _COMPARED_BYTES], data[start + 1 : start + 1 + _COMPARED_BYTES]
        differences = int.from_bytes(piece[: len(after)], "little") ^ int.from_bytes(after, "little")
        changes += len(after) - differences.to_bytes(len(after), "little").count(0)
    return changes


def _check_prompt(reported: int | None, messages: Sequence[Message]) -> _Checked:
    estimate = estimate_prompt(messages)
    if reported is None:
        return _Checked(tokens=estimate, estimated=True)
    doubted = f"{_digits(reported)} prompt tokens"
    if reported > TOLERANCE * bound_prompt(messages) + HIDDEN_PROMPT_TOKENS:
        return _Checked(tokens=bound_prompt(messages), estimated=True, doubted=doubted)
    if reported < estimate / 2 and reported < sum(least_tokens(message.content) for message in messages):
        return _Checked(tokens=estimate, estimated=True, doubted=doubted)
    return _Checked(tokens=max(0, reported), estimated=False)


def _check_completion(reported: int | None, said: str, longest: int) -> _Checked:
    estimate = estimate_tokens(said)
    if reported is None:
        return _Checked(tokens=estimate, estimated=True)
    doubted = f"{_digits(reported)} completion tokens"
    if reported > TOLERANCE * longest + HIDDEN_COMPLETION_TOKENS:
        return _Checked(tokens=longest, estimated=True, doubted=doubted)
    if reported < estimate / 2 and reported < least_tokens(said):
        return _Checked(tokens=estimate, estimated=True, doubted=doubted)
    return _Checked(tokens=max(0, reported), estimated=False)


def _check_cost(reported: float | None, price: float | None, most: float | None) -> tuple[float | None, str]:
    """Returns the dollars to charge, and the report if it was not believed."""
    if reported is None or price is None or most is None:
        return (price if reported is None else reported), ""
    doubted = f"a cost of ${reported:g}"
    if reported < price * LEAST_SHARE_OF_PRICE:
        return price, doubted
    if reported > TOLERANCE * most:
        return most, doubted
    return reported, ""


def _digits(number: int) -> str:
    return f"{number:,}" if abs(number) < 10**15 else "10^15 or more"

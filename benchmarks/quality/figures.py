"""Results of cases and what they come to: means over families, ranges over seeds, for each contender and size."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Price = tuple[float, float]
"""Dollars for a million tokens in and out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a contender did on a case. `usd` is None where a model has no known price; `ended` says why it failed."""

    contender: str
    family: str
    size: int
    seed: int
    score: float
    tokens: int
    usd: float | None
    seconds: float
    calls: int
    ended: str = "answered"


def dollars(tokens_of: Mapping[str, Sequence[int]], prices: Mapping[str, Price]) -> float | None:
    """The price of tokens in and out by model; None if a model is not in the table."""
    if not set(tokens_of) <= set(prices):
        return None
    return sum((given * prices[name][0] + got * prices[name][1]) / 1e6 for name, (given, got) in tokens_of.items())


def size_name(size: int) -> str:
    """A size in KiB or MiB."""
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def figures_of(results: Sequence[Result]) -> list[dict[str, object]]:
    """Score, tokens, dollars, seconds and calls of each contender that has all families of a size, then each family.

    A value is the mean over families and seeds; low, high and variance are those of the seeds. `text` says the same; of
    a family it also has what its score cost.
    """
    figures: list[dict[str, object]] = []
    for size in sorted({one.size for one in results}):
        of_size = [one for one in results if one.size == size]
        families = {one.family for one in of_size}
        for contender in dict.fromkeys(one.contender for one in of_size):
            group = [one for one in of_size if one.contender == contender]
            if {one.family for one in group} != families:
                continue  # the mean of some families compares with nothing
            for what, better in _MEASURES.items():
                figures += _figure(f"{size_name(size)}: {what}", what, better, contender, group)
        for family in dict.fromkeys(one.family for one in of_size):
            for contender in dict.fromkeys(one.contender for one in of_size if one.family == family):
                group = [one for one in of_size if (one.family, one.contender) == (family, contender)]
                (score,) = _figure(f"{size_name(size)}: {family}", "score", "higher", contender, group)
                rest = [one["text"] for what in list(_MEASURES)[1:] for one in _figure("", what, "", "", group)]
                figures.append(score | {"text": ", ".join(map(str, [score["text"], *rest]))})
    return figures


_MEASURES = {"score": "higher", "tokens": "lower", "dollars": "lower", "seconds": "lower", "calls": "lower"}
_UNITS = {"score": "%", "tokens": "tokens", "dollars": "$", "seconds": "s", "calls": "calls"}


def _values(what: str, one: Result) -> float | None:
    match what:
        case "score":
            return 100 * one.score
        case "tokens":
            return float(one.tokens)
        case "dollars":
            return one.usd
        case "seconds":
            return one.seconds
    return float(one.calls)


def _figure(name: str, what: str, better: str, contender: str, group: Sequence[Result]) -> list[dict[str, object]]:
    by_seed: dict[int, list[float]] = defaultdict(list)
    for one in group:
        if (value := _values(what, one)) is not None:
            by_seed[one.seed].append(value)
    if not by_seed:
        return []
    means = [statistics.fmean(of_seed) for of_seed in by_seed.values()]
    value, low, high = statistics.fmean(means), min(means), max(means)
    text = _shown(what, value)
    if len(means) > 1 and low != high:
        text += f" ({_shown(what, low)} to {_shown(what, high)})"
    figure = {"name": name, "unit": _UNITS[what], "value": value, "low": low, "high": high}
    figure |= {"variance": statistics.pvariance(means), "n": len(means), "better": better}
    return [figure | {"contender": contender, "text": text}]


def _shown(what: str, value: float) -> str:
    match what:
        case "score":
            return f"{value:.1f} %"
        case "tokens":
            return f"{value / 1000:,.0f}k tokens"
        case "dollars":
            return f"${value:.4f}"
        case "seconds":
            return f"{value:.1f} s"
    return f"{value:,.0f} calls"

"""The contrasts of the page, computed from its list of tokens: WCAG AA in light and in dark."""

import re
from pathlib import Path

import pytest

CSS = Path("rlm_mcp/viewer/static/page.css").read_text()
TOKENS = {name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", CSS)}

GROUNDS = ("paper", "wash", "hover", "accent-wash")
TEXTS = [(text, ground) for text in ("ink", "soft", "accent") for ground in GROUNDS]
TEXTS += [(text, "paper") for text in ("good", "warn", "bad")]
TEXTS += [("good", "wash"), ("warn", "wash"), ("bad", "wash"), ("good", "good-wash"), ("warn", "warn-wash")]
TEXTS += [("bad", "bad-wash"), ("ink", "mark"), ("ink", "bad-wash"), ("soft", "bad-wash"), ("ink", "good-wash")]
# What tells something without being text: edges of fields, bars, marks.
SHAPES = [("edge", "paper"), ("code", "paper"), ("accent", "paper"), ("bad", "paper"), ("edge", "accent-wash")]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXTS)
def test_text_stands_out_from_its_ground(text: str, ground: str, side: int) -> None:
    assert contrast(TOKENS[text][side], TOKENS[ground][side]) >= 4.5


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("shape", "ground"), SHAPES)
def test_shapes_that_tell_something_stand_out(shape: str, ground: str, side: int) -> None:
    assert contrast(TOKENS[shape][side], TOKENS[ground][side]) >= 3


def test_no_colour_is_used_but_the_tokens() -> None:
    rules = CSS.partition("}")[2]
    assert re.findall(r":[^;{}]*#[0-9a-fA-F]{3,8}\b", rules) == []
    assert re.findall(r"\brgb\([^)]*\)|\bhsl\(", rules) == ["rgb(0 0 0 / 40%)"]  # behind an open dialog

"""Whole screens as text: the notes that are printed, and what is drawn at the bottom."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from rlm_mcp.cli.console.renderer import render_note, render_present
from rlm_mcp.cli.console.view_model import RunView
from rlm_mcp.records.events import event_from_json

Event = dict[str, Any]
SCREENS = Path(__file__).parent / "screens"
PROMPT = "Would a customer notice this?\n2026-10-14 14:07:12.741 ERROR [payments] charge order=71306 failed"
HOSTILE = "\x1b[2J\x1b]0;title\x07[bold red]x[/] \u202eleft\u2069 \x9b31m a\rb\x00\u200b\ud800 :smile: http://x"
STARTED: Event = {
    "event": "run_started",
    "query": "Which errors would a customer notice, and which of the components do they come from?",
    "contexts": [{"name": "shop.log", "kind": "text", "files": 1, "lines": 3098, "chars": 264229}],
    "models": {"root": {"name": "gpt-5"}, "sub": {"name": "gpt-5-mini"}},
    "limits": {"max_seconds": 300.0, "max_usd": 0.5, "max_sub_calls": 60, "max_tokens": None},
}
SPENT = {"sub_calls": 30, "prompt_tokens": 12_345, "completion_tokens": 678, "cost_usd": 0.0123, "seconds": 9.0}
CODE = "\n".join(f"answer_{n} = llm_query(prompts[{n}])" for n in range(20))


def asked(key: str, **facts: Any) -> Event:
    return {"event": "sub_asked", "turn": 2, "key": key, "kind": "llm", "prompt_head": PROMPT, **facts}


def answered(key: str, value: str, **facts: Any) -> Event:
    return asked(key, **facts) | {"event": "sub_reply", "value": value}


BEFORE: list[Event] = [
    STARTED,
    {"event": "routed", "path": "", "turn": 0, "mode": "rlm", "depth": 1, "reason": "rlm because it is long; depth 1"},
    {"event": "root_asked", "turn": 1},
    {
        "event": "root_reply",
        "turn": 1,
        "text": "I look at its shape first.\n\n```repl\nprint(len(context))\n```",
        "left": {"turns": 20},
        "usage": {"prompt_tokens": 900, "completion_tokens": 69},
        "seconds": 1.52,
    },
    {"event": "cell_begun", "turn": 1, "code": "print(len(context))"},
    {
        "event": "cell",
        "turn": 1,
        "code": "print(len(context))",
        "stdout": "264229\n" + "a line of an output that is so long that no terminal shows it in one row " * 6,
        "value": "3098",
        "stdout_chars": 7,
        "error": None,
        "final": None,
    },
]
DURING: list[Event] = [
    {"event": "root_asked", "turn": 2},
    {"event": "root_reply", "turn": 2, "text": f"```repl\n{CODE}\n```", "left": {"turns": 20}, "spent": SPENT},
    {"event": "cell_begun", "turn": 2, "code": CODE},
    *(asked(f"k{n}") for n in range(8)),
    asked("r", kind="rlm", prompt_head="What went wrong in payments?", child="ab12"),
    {"event": "routed", "path": "ab12", "turn": 0, "mode": "rlm", "depth": 0, "reason": "rlm"},
    {"event": "root_asked", "path": "ab12", "turn": 1},
    answered("k0", "yes"),
    asked("k1") | {"event": "sub_failed", "error": "no such key"},
]
AFTER: list[Event] = [
    {"event": "run_ended", "path": "ab12", "answer": "time-outs", "iterations": 2},
    answered("r", "time-outs", kind="rlm", child="ab12"),
    {"event": "cell", "turn": 2, "code": "f()", "stdout": "", "error": {"type": "KeyError", "message": "'x'"}},
    {"event": "root_asked", "turn": 3},
    {"event": "root_reply", "turn": 3, "text": "```repl\nFINAL('payments')\n```"},
    {"event": "cell", "turn": 3, "code": "FINAL('payments')", "final": {"via": "FINAL", "value": "payments"}},
    {"event": "run_ended", "path": "", "answer": "payments", "usage": SPENT},
]


def view_after(events: Sequence[Event]) -> RunView:
    """A second passes between two events."""
    view = RunView()
    for second, event in enumerate(events):
        view.apply(event_from_json(event), float(second))
    return view


def printed(events: Sequence[Event], width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, highlight=False)
    for one in view_after(events).notes:
        console.print(render_note(one, width=width))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def now(events: Sequence[Event], width: int, height: int = 16, **how: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, highlight=False)
    console.print(render_present(view_after(events), float(len(events)), width=width, height=height, **how))
    return out.getvalue().rstrip("\n")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_screen_of_a_run_in_its_second_turn(width: int) -> None:
    expected = (SCREENS / f"running-{width}.txt").read_text("utf-8")
    assert f"{printed(BEFORE, width)}\n{now([*BEFORE, *DURING], width)}\n" == expected


@pytest.mark.parametrize("width", [40, 80, 120])
def test_what_scrolled_by_when_the_run_is_over(width: int) -> None:
    assert f"{printed([*BEFORE, *DURING, *AFTER], width)}\n" == (SCREENS / f"over-{width}.txt").read_text("utf-8")


@pytest.mark.parametrize("height", [4, 8, 12, 24])
@pytest.mark.parametrize("width", [1, 20, 40])
def test_the_bottom_never_takes_more_than_it_may(height: int, width: int) -> None:
    lines = now([*BEFORE, *DURING], width, height).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= max(height, 6) or width < 20


def test_a_run_without_limits_and_prices_shows_what_was_spent() -> None:
    events: list[Event] = [
        {**STARTED, "limits": {}},
        {"event": "root_reply", "turn": 1, "spent": SPENT | {"cost_usd": None}},
    ]
    assert now(events, 80).splitlines()[1] == "2 s · 30 sub-calls · 12,345 tokens in, 678 out · price unknown"


def test_a_run_that_is_being_stopped_says_so() -> None:
    assert now(BEFORE[:3], 80, stopping=True).splitlines()[-1].startswith("stopping, keeps what it has")


def test_before_its_first_event_a_run_is_starting() -> None:
    assert now([], 80).splitlines()[0] == "⠋ starting"


def test_texts_of_models_and_contexts_are_shown_and_not_obeyed() -> None:
    failed = {"type": HOSTILE, "message": HOSTILE}
    before: list[Event] = [
        {"event": "run_started", "query": HOSTILE, "models": {"root": {"name": HOSTILE}, "sub": {"name": HOSTILE}}},
        {"event": "routed", "reason": HOSTILE},
        {"event": "root_reply", "turn": 1, "text": f"{HOSTILE}\n```repl\n{HOSTILE}\n```"},
        {"event": "cell_begun", "turn": 1, "code": HOSTILE},
        asked("k", prompt_head=HOSTILE),
        asked("r", kind="rlm", prompt_head=HOSTILE, child="ab"),
        {"event": "root_asked", "path": "ab", "turn": 1},
        answered("x", HOSTILE, prompt_head=HOSTILE),
    ]
    after: list[Event] = [
        {"event": "run_ended", "path": "ab", "answer": HOSTILE},
        {"event": "cell", "turn": 1, "code": HOSTILE, "stdout": HOSTILE, "value": HOSTILE, "error": failed},
        {"event": "cell", "turn": 2, "code": "", "final": {"via": "FINAL", "value": HOSTILE}},
    ]
    out = io.StringIO()
    console = Console(file=out, width=300, force_terminal=True, color_system="truecolor")
    console.print(render_present(view_after(before), 9.0, width=300, height=30))
    for one in view_after([*before, *after]).notes:
        console.print(render_note(one, width=300))
    shown = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
    assert {character for character in shown if not character.isprintable()} == {"\n"}
    assert "[bold red]x[/]" in shown
    assert ":smile:" in shown

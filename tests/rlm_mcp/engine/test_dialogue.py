"""The messages of a run, and how they are kept within the model's window."""

import re
from dataclasses import replace

import pytest

from rlm_mcp.engine.judge import Judge
from rlm_mcp.engine.prompts import Remaining
from rlm_mcp.engine.steps import Again, Question, Rules, RunBlock
from rlm_mcp.engine.trajectory import Trajectory
from tests.rlm_mcp.engine.dialogues import BRIEFS, QUESTION, WEAK, PlayedDialogue, printed


def test_roles_alternate_and_earlier_messages_never_change() -> None:
    dialogue = PlayedDialogue()
    dialogue.code("print(1)", printed("1"))
    dialogue.reply("no code")
    dialogue.reply("")
    dialogue.code("print(2)", printed("2"))
    dialogue.code("print(3)", printed("3"))

    for earlier, later in zip(dialogue.asked, dialogue.asked[1:], strict=False):
        roles = [message.role for message in later.messages]
        assert roles == ["system"] + ["user", "assistant"] * (len(roles) // 2 - 1) + ["user"]
        assert later.messages[: len(earlier.messages) - 1] == earlier.messages[:-1]


@pytest.mark.parametrize("rules", [Rules(window_tokens=20_000, reply_tokens=2_000), replace(WEAK, window_tokens=6_000)])
def test_two_hundred_turns_stay_under_the_window(rules: Rules) -> None:
    dialogue = PlayedDialogue(rules, turns=300)
    for turn in range(200):
        dialogue.code(f"print(page({turn}))", printed(f"page {turn}: " + "lorem ipsum " * 900))

    sizes = [sum(len(message.content) for message in ask.messages) / 4 for ask in dialogue.asked]
    assert max(sizes) + rules.reply_tokens < rules.window_tokens
    assert dialogue.trajectory.compactions < 100
    summary = dialogue.asked[-1].messages[1].content
    assert re.search(r"turn (1\d\d): print\(page\(1\d\d\)\) → page 1\d\d: lorem ipsum", summary)


def test_old_outputs_become_their_first_lines_and_a_handle() -> None:
    dialogue = PlayedDialogue(Rules(window_tokens=30_000, reply_tokens=1_000))
    for turn in range(9):
        dialogue.code(f"print(page({turn}))", printed(f"page {turn}: " + "lorem ipsum " * 900))

    texts = [message.content for message in dialogue.asked[-1].messages]
    assert any("print(history[0]) shows it again" in text for text in texts)


@pytest.mark.parametrize("supposed", [30_000, 128_000])
def test_a_request_refused_as_too_long_is_shortened_whatever_window_was_supposed(supposed: int) -> None:
    dialogue = PlayedDialogue(Rules(window_tokens=supposed, reply_tokens=1_000))
    for turn in range(6):
        dialogue.code(f"print(page({turn}))", printed(f"page {turn}: " + "lorem ipsum " * 900))
    ask = dialogue.asked[-1]

    shorter = dialogue.trajectory.shrink(ask)
    assert sum(len(m.content) for m in shorter.messages) < sum(len(m.content) for m in ask.messages) / 2


def test_an_output_that_is_over_the_window_by_itself_is_halved() -> None:
    dialogue = PlayedDialogue(Rules(window_tokens=128_000, reply_tokens=1_000))
    dialogue.code("print(page(1))", printed("page 1: " + "lorem ipsum " * 900))
    refused = dialogue.next_prompt()

    shorter = dialogue.trajectory.shrink(dialogue.asked[-1]).messages[-1].content
    assert "page 1: lorem ipsum" in shorter
    assert "[half left out; print smaller pieces of history[0]]" in shorter
    assert len(shorter) < len(refused) * 0.55


def test_the_weak_prompt_is_short_and_the_fixed_part_is_the_same_for_every_question() -> None:
    one = Trajectory(Judge(QUESTION, WEAK), BRIEFS).ask(Remaining(turn=1, turns=9)).messages
    other = Trajectory(Judge(Question(query="Another?"), WEAK)).ask(Remaining(turn=1, turns=9)).messages

    assert one[0] == other[0]
    assert sum(len(message.content) for message in one) / 4 < 800


SUMS_UP = Rules(window_tokens=20_000, reply_tokens=1_000, summarises=True)


def long_dialogue(rules: Rules, turns: int = 99) -> PlayedDialogue:
    """A dialogue that has just got too long for its window."""
    dialogue = PlayedDialogue(rules, turns=turns)
    for n in range(5):
        dialogue.code(f"n{n} = {n}\nprint(n{n})", printed(f"fact {n}\n" + "x" * 11_000))
    return dialogue


def test_a_model_that_is_asked_to_sums_its_dialogue_up_and_goes_on_from_there() -> None:
    dialogue = long_dialogue(SUMS_UP)

    step = dialogue.reply("Facts 0 to 4 are known.\n```repl\nprint('not run')\n```")
    asked = dialogue.asked[-1].messages[-1].content
    assert asked.startswith("<output>\nfact 4")
    assert "Write no code. Sum up for yourself" in asked
    assert step == Again(why="compact", detail="the model summed up the turns before, in 52 characters")
    messages = dialogue.trajectory.ask(Remaining(turn=7, turns=99)).messages
    assert "Your own summary of the earlier turns:\n<output>\nFacts 0 to 4 are known." in messages[1].content
    assert [message.role for message in messages][:3] == ["system", "user", "assistant"]
    assert "fact 4" in messages[-1].content
    assert "Sum up" not in messages[-1].content


@pytest.mark.parametrize(
    ("rules", "left", "last"),
    [
        (replace(SUMS_UP, summarises=False), Remaining(turn=6, turns=99), ""),
        (SUMS_UP, Remaining(turn=6, turns=8), ""),
        (SUMS_UP, Remaining(turn=6, turns=99, tokens=20_000), ""),
        (SUMS_UP, Remaining(turn=6, turns=99), "the time is nearly used up"),
    ],
)
def test_where_a_summary_is_not_wanted_or_cannot_be_afforded_old_turns_become_lines(
    rules: Rules, left: Remaining, last: str
) -> None:
    messages = long_dialogue(rules).trajectory.ask(left, last=last).messages

    assert "Sum up for yourself" not in messages[-1].content
    assert "[shortened; print(history[0])" in messages[3].content


def test_a_summary_that_did_not_come_or_is_refused_leaves_the_lines() -> None:
    empty = long_dialogue(SUMS_UP)
    empty.next_prompt()
    assert empty.trajectory.receive_reply(" ") == Again(why="compact", detail="the model wrote no summary")

    refused = long_dialogue(SUMS_UP)
    ask = refused.trajectory.shrink(refused.trajectory.ask(Remaining(turn=6, turns=99)))
    assert "Sum up for yourself" not in ask.messages[-1].content
    assert refused.trajectory.receive_reply("```repl\nprint(1)\n```") == RunBlock(code="print(1)", block=1)

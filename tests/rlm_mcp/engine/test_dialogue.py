"""The messages of a run, and how they are kept within the model's window."""

import re
from dataclasses import replace

import pytest

from rlm_mcp.engine.judge import Judge
from rlm_mcp.engine.prompts import Remaining
from rlm_mcp.engine.steps import Question, Rules
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

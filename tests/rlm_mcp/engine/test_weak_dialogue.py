"""The help that a weak model gets: lines to read, restarts, and a press for the final step."""

from dataclasses import replace

import pytest

from rlm_mcp.engine.prompts import Remaining
from rlm_mcp.engine.steps import Again, Finish, Question
from rlm_mcp.repl.types import CellResult, Variable
from tests.rlm_mcp.engine.dialogues import (
    FOUND,
    NAME_ERROR,
    QUESTION,
    STRONG,
    WEAK,
    ZEPHYR,
    PlayedDialogue,
    final,
    printed,
)


def test_a_weak_model_that_never_writes_code_starts_over_before_it_is_judged() -> None:
    dialogue = PlayedDialogue(WEAK)
    dialogue.reply("I think")
    dialogue.reply("I think so")

    assert dialogue.reply("I do think so") == Again(why="restart", detail="no code")
    assert dialogue.trajectory.ask(Remaining(turn=4, turns=9)).temperature == 0.8


def test_a_weak_model_first_reads_the_answer_in_the_lines_that_were_found() -> None:
    dialogue = PlayedDialogue(WEAK, ZEPHYR, briefs=FOUND)

    assert dialogue.next_prompt().startswith(
        "Lines of a text:\nzephyr: trunk-275\n\nQuestion: What is the code of zephyr?"
    )
    assert dialogue.reply("`trunk-275`.") == Finish(answer="trunk-275", answered_by="text")


@pytest.mark.parametrize("said", ["not there", "kestrel-1", "zephyr", "trun", ""])
def test_what_was_read_is_forgotten_unless_the_lines_hold_it_and_the_question_does_not(said: str) -> None:
    dialogue = PlayedDialogue(WEAK, ZEPHYR, briefs=FOUND)

    assert dialogue.reply(said) == Again(why="read", detail="the lines that were found do not hold what it said")
    assert dialogue.next_prompt().startswith("Question: What is the code of zephyr?\n\n`context` is")


def test_neither_a_strong_model_nor_a_question_about_all_lines_nor_a_last_turn_reads_first() -> None:
    strong = PlayedDialogue(STRONG, ZEPHYR, briefs=FOUND)
    counting = PlayedDialogue(WEAK, Question(query="How many codes are there?"), briefs=FOUND)
    for dialogue in (strong, counting):
        assert dialogue.next_prompt().startswith("Question: ")


def test_code_that_gave_nothing_twice_is_started_over_once() -> None:
    dialogue = PlayedDialogue(WEAK)
    dialogue.code("FINAL(context.count('X'))", final(0))

    assert dialogue.reply("```repl\nFINAL(context.count('X'))\n```") == Again(
        why="restart", detail="the result 0, which is doubtful"
    )


def test_a_weak_model_that_insists_on_an_invalid_answer_starts_over() -> None:
    dialogue = PlayedDialogue(WEAK, replace(QUESTION, schema={"type": "integer"}, check=lambda _: "it is no integer"))
    dialogue.code("FINAL(find())", final("many"))

    step = dialogue.reply("```repl\nFINAL(find())\n```")
    assert step == Again(why="restart", detail="it does not satisfy the output schema: it is no integer")


def test_a_weak_model_that_repeats_failing_code_starts_over_warmer() -> None:
    dialogue = PlayedDialogue(WEAK)
    dialogue.code("linez", CellResult(code="", error=NAME_ERROR))

    step = dialogue.reply("```python\nlinez  # again\n```")
    assert step == Again(why="restart", detail="NameError: name 'linez' is not defined")
    ask = dialogue.trajectory.ask(Remaining(turn=3, turns=9))
    assert ask.temperature == 0.8
    assert [message.role for message in ask.messages] == ["system", "user"]
    assert "A first attempt failed with NameError: name 'linez' is not defined." in ask.messages[-1].content


def test_a_weak_model_that_repeats_good_code_is_pressed_for_the_final_step() -> None:
    dialogue = PlayedDialogue(WEAK)
    n = Variable(name="n", type="int", preview="17")
    dialogue.code("n = 17 + 0\nprint(n)", printed("17", variables=(n,)))

    step = dialogue.reply("```repl\nn = 17 + 0\nprint(n)\n```")
    assert step == Again(why="press", detail="same code as in turn 1")
    ask = dialogue.trajectory.ask(Remaining(turn=3, turns=9))
    assert [message.role for message in ask.messages] == ["system", "user"]
    assert "n (int) = 17" in ask.messages[-1].content
    assert "Last output:\n<output>\n17\n</output>" in ask.messages[-1].content


def test_a_weak_model_that_goes_on_repeating_gets_its_value_as_the_answer() -> None:
    dialogue = PlayedDialogue(WEAK)
    dialogue.code("print(count())", printed("17"))
    dialogue.reply("```repl\nprint(count())\n```")
    dialogue.reply("```repl\nprint(count())\n```")

    assert dialogue.reply("```repl\nprint(count())\n```") == Finish(
        answer="17", answered_by="value", doubt="it is what the last block showed"
    )


def test_a_block_that_a_weak_model_wrote_many_times_in_one_reply_is_run_once() -> None:
    dialogue = PlayedDialogue(WEAK)

    assert dialogue.reply("```repl\nn = 1\n```\n" * 9 + "```repl\nprint(n)\n```", printed(""), printed("1")) == Again(
        why="output"
    )
    assert [cell.code for cell in dialogue.trajectory.cells] == ["n = 1", "print(n)"]


def test_the_last_turn_of_a_weak_model_is_a_short_fresh_prompt() -> None:
    dialogue = PlayedDialogue(WEAK)
    dialogue.code("print(count())", printed("17"))

    ask = dialogue.trajectory.ask(Remaining(turn=2, turns=9), last="the time is used up")
    assert [message.role for message in ask.messages] == ["system", "user"]
    assert ask.messages[-1].content.startswith("Question: Which component fails?\n\nLast output:")


def test_a_weak_model_that_repeats_failing_code_after_every_new_start_is_not_asked_again() -> None:
    dialogue = PlayedDialogue(WEAK)
    failed = CellResult(code="", error=NAME_ERROR)
    dialogue.code("print(1)", printed("1"))
    dialogue.code("linez", failed)
    for _ in range(2):
        assert dialogue.reply("```repl\nlinez\n```") == Again(
            why="restart", detail="NameError: name 'linez' is not defined"
        )

    assert dialogue.reply("```repl\nlinez\n```") == Finish(
        answer="1",
        answered_by="value",
        doubt="it is what the last block showed; the model sent the same code after every new start",
    )


def test_what_code_finds_against_an_answer_is_told_with_it_and_not_asked_again() -> None:
    dialogue = PlayedDialogue(WEAK, replace(QUESTION, query="How many are spam?"))
    notes = ("pick asked of each text 'Is it spam?': yes for 24 of 25.",)

    assert dialogue.code("FINAL(len(pick(lines, q)))", final(24, notes=notes)) == Finish(
        answer=24, answered_by="FINAL", reasons=("a model said yes to 24 of 25 texts",)
    )

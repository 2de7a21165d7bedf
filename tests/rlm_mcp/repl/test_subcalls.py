"""The functions of the guest that ask a sub-model: batches, classify, pick and read."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from rlm_mcp.errors import SubCallFailed
from rlm_mcp.repl.types import CellResult
from tests.rlm_mcp.repl.opener import LINES, Opener, Sub, value_of

pytestmark = pytest.mark.anyio


async def test_a_failed_sub_call_of_a_batch_says_so_in_its_place(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run(
        "r = llm_query_batched(['a', 'fail', 'b'])\nprint(bool(r[1]), r[1].error, '|'.join(r))\n[x for x in r if x]"
    )
    assert cell.stdout == "False the model said no answer to a|the model said no|answer to b\n"
    assert cell.value == "['answer to a', 'answer to b']"


async def test_a_single_failed_sub_call_raises(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("llm_query('fail')")
    assert cell.error is not None
    assert (cell.error.type, cell.error.message) == ("RuntimeError", "the model said no")


async def test_classify_gives_every_item_a_label(opened: Opener) -> None:
    sub = Sub()
    repl = await opened.text(sub=sub)
    assert await value_of(repl, "classify(context.splitlines()[:20], 'Is it bad?', ['bad', 'good'])") == repr(
        ["bad" if "ERROR" in line else "good" for line in LINES[:20]]
    )
    assert len(sub.prompts) == 3


@pytest.mark.parametrize(
    ("asked", "single"),
    [
        ("'Is it bad?', ['yes', 'no']", True),
        ("'Does this say that a disk is full?', ['No', 'Yes']", True),
        ("'Which of them are bad?', ['yes', 'no']", False),
        ("'Is it bad?', ['bad', 'good']", False),
        ("'Is it bad?', ['yes', 'no'], examples=[('a disk failed', 'yes')]", False),
        ("'Is it bad?', ['yes', 'no'], batch=4", False),
    ],
)
async def test_a_small_model_is_asked_yes_or_no_of_one_text_a_call(opened: Opener, asked: str, single: bool) -> None:
    sub = Sub()
    repl = await opened.text(sub=sub)
    await repl.run(f"classify([f'text {{n}}' for n in range(16)], {asked})")
    assert sum(prompt.startswith("Text: text") for prompt in sub.prompts) == 16 * single
    assert (len(sub.prompts) == 16) == single


async def test_a_text_given_to_classify_or_pick_is_judged_by_its_lines(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("list(classify('a ERROR\\n\\nb', 'Is it bad?', ['bad', 'good']))")
    assert cell.value == "['bad', 'good']"
    assert cell.notes == (
        "classify was given one text and judged its 2 lines that are not blank.",
        "classify judged 2 items; 'bad' 1, 'good' 1.",
    )
    for code, problem in {
        "classify({'a': 1}, 'Is it bad?', ['bad', 'good'])": "takes a list of texts, and got a mapping",
        "classify(['a'], 'Is it bad?', ['bad'])": "needs two labels or more",
        "classify(['a'], 'Is it bad?', 'bad')": "needs two labels or more",
    }.items():
        failed = await repl.run(code)
        assert failed.error is not None
        assert problem in failed.error.message


async def test_labels_tell_which_items_are_uncertain_and_which_have_none(opened: Opener) -> None:
    class Doubting(Sub):
        async def classify(self, items: Sequence[str], *_: object, **__: object) -> dict[str, object]:
            return {"labels": ["good", None], "failed": [[1, "it timed out"]], "uncertain": [0], "calls": 1, "size": 2}

    repl = await opened.text(sub=Doubting())
    cell = await repl.run("r = classify(['a', 'b'], 'Is it bad?', ['bad', 'good'])\n(r, r.uncertain, r.failed)")
    assert cell.value == "(['good', 'no label for item 1: it timed out'], [0], [1])"
    assert cell.notes == (
        (
            "classify judged 1 items; 1 of them uncertain (.uncertain has their indices); 1 without a label (.failed);"
            " all of them 'good'."
        ),
    )


class Reader(Sub):
    """Judges each text by its content, and rewrites a question about many texts as one about a single text."""

    async def llm_query(
        self, prompt: str, *, model: str | None = None, schema: Any = None, material: str | None = None
    ) -> object:
        self.prompts.append(prompt)
        if schema is None:
            return "Yes." if "ERROR" in prompt else "No, it is not."
        match list(schema["properties"]):
            case ["one"]:
                return {"one": "Is this line broken?"}
            case ["quote", "answer"]:
                held = [line for line in (material or "").splitlines() if "ERROR" in line]
                # One that is in the text and one that is not.
                return {"quote": held[-1] if held else "line 7 says so", "answer": "disk"}
            case ["number"]:
                return {"number": "2"}
        texts = prompt.split("Texts:\n")[1].split("\n\n", maxsplit=1)[0].splitlines()
        return {str(n): "broken" if "ERROR" in text else "whole" for n, text in enumerate(texts, 1)}


async def test_pick_takes_the_items_that_count_for_a_question_about_all(opened: Opener) -> None:
    sub = Reader()
    repl = await opened.text(sub=sub)
    cell = await repl.run("len(pick(context.splitlines()[:10], 'How many are broken?')), pick([], 'How many?')")
    count = sum("ERROR" in line for line in LINES[:10])
    assert cell.value == repr((count, []))
    assert cell.notes == (f"pick asked of each text 'Is this line broken?': yes for {count} of 10.",)
    assert f"Text: {LINES[0]}\n\nIs this line broken? Answer yes or no." in sub.prompts
    assert len(sub.prompts) == 11


async def test_pick_asks_a_question_about_one_text_as_it_is_and_says_how_many_it_could_not_judge(
    opened: Opener,
) -> None:
    class Broken(Sub):
        async def llm_query(
            self, prompt: str, *, model: str | None = None, schema: Any = None, material: str | None = None
        ) -> object:
            if "Text: b" in prompt:
                raise SubCallFailed("the model said no")
            return "yes"

    repl = await opened.text(sub=Broken())
    cell = await repl.run("pick(['a', 'b'], 'Is this a vowel?')")
    assert cell.value == "['a']"
    assert cell.notes == ("pick asked of each text 'Is this a vowel?': yes for 1 of 2; 1 could not be judged.",)


async def test_pick_does_not_ask_what_was_copied_from_the_examples(opened: Opener) -> None:
    repl = await opened.text(sub=Reader())
    cell = await repl.run("pick(['one ERROR'], 'Who laughs most often?')")
    assert cell.notes == (
        "pick asked of each text \"Does this text count for the question 'Who laughs most often?'?\": yes for 1 of 1.",
    )


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("What is the id of the only message that is about sport?", "Is this a message that is about sport?"),
        ("Who wrote the single e-mail which asks for 1.5 days off, and when?", "Is this an e-mail which asks for 1.5"),
        ("Find the only one that is rude. Reply with its number.", "Is this a text that is rude?"),
        ("Which is the one short note that names a dog, and who sent it?", "Is this a short note that names a dog?"),
    ],
)
async def test_pick_asks_of_each_text_what_is_to_set_the_only_one_apart(
    opened: Opener, question: str, asked: str
) -> None:
    sub = Sub()
    repl = await opened.text(sub=sub)
    cell = await repl.run(f"pick(['one', 'two'], {question!r})")
    assert cell.notes[0].startswith(f"pick asked of each text {asked!r}"[:-1])
    assert len(sub.prompts) == 2  # no model is asked to rewrite the question


@pytest.mark.parametrize("question", ["Who is the one who claims that it rains?", "Which is the only one of them?"])
async def test_a_model_rewrites_questions_that_do_not_say_what_sets_the_only_text_apart(
    opened: Opener, question: str
) -> None:
    sub = Reader()
    repl = await opened.text(sub=sub)
    await repl.run(f"pick(['a line'], {question!r})")
    assert sub.prompts[0].endswith(f"Many: {question}")


async def test_pick_judges_very_many_texts_eight_a_call(opened: Opener) -> None:
    class Agreeing(Sub):
        async def llm_query(
            self, prompt: str, *, model: str | None = None, schema: Any = None, material: str | None = None
        ) -> object:
            self.prompts.append(prompt)
            return dict.fromkeys(schema["properties"], "yes")

    sub = Agreeing()
    repl = await opened.text(sub=sub)
    assert await value_of(repl, "len(pick([f'text {n}' for n in range(304)], 'Is this bad?'))") == "304"
    assert len(sub.prompts) == 38


async def test_read_gives_what_pieces_say_with_quotes_that_they_hold_the_best_first(opened: Opener) -> None:
    sub = Reader()
    repl = await opened.text(sub=sub)
    cell = await repl.run(
        "found = read('What broke?', 'line 1 ERROR\\n' + 'x' * 4000 + '\\nline 2  ERROR\\n' + 'y' * 4000)\n"
        "print(found)\n[one.quote for one in found], found[0].answer"
    )
    assert cell.stdout == "[disk (it says: line 2  ERROR), disk (it says: line 1 ERROR)]\n"
    assert cell.value == "(['line 2  ERROR', 'line 1 ERROR'], 'disk')"


async def test_a_batch_that_the_clock_cuts_keeps_the_answers_that_had_come(opened: Opener) -> None:
    class Slow(Sub):
        last_came = anyio.Event()

        async def llm_query(self, prompt: str, **_: Any) -> object:
            if prompt == "slow":
                await anyio.sleep_forever()
            if prompt == "b":
                self.last_came.set()
            return f"answer to {prompt}"

    sub = Slow()
    repl = await opened.text(sub=sub)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                with anyio.CancelScope() as scope:
                    tasks.start_soon(stop_when_all_but_one_came, scope)
                    cells.append(await repl.run("llm_query_batched(['a', 'slow', 'b'])"))

            async def stop_when_all_but_one_came(scope: anyio.CancelScope) -> None:
                await sub.last_came.wait()
                scope.cancel()

            cells: list[CellResult] = []
            tasks.start_soon(run)
    assert cells[0].notes[0].startswith("The block was stopped when 2 of 3 answers of the batch had come")
    assert await value_of(repl, "[str(one) for one in finished_answers]") == repr(
        ["answer to a", "the block was stopped before this answer came", "answer to b"]
    )


async def test_parts_of_many_files_are_asked_about_in_messages_that_the_host_takes(opened: Opener) -> None:
    repl = await opened.text()
    code = "found = rlm_query_batched([('What?', {'a.txt': 'x' * (2 << 20)})] * 20)\nlen(found), set(map(str, found))"
    assert await value_of(repl, code) == "(20, {\"What? over {'a.txt': 'xxxxxxxxx\"})"

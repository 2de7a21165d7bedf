"""Prompts: constant prefixes for the provider's cache, both ends of long output, quoted data."""

from dataclasses import replace

import pytest

from rlm_mcp.engine import cell_display, prompts
from rlm_mcp.engine.line_shapes import LineShape
from rlm_mcp.engine.prompts import Brief, Remaining
from rlm_mcp.engine.reply_parser import parse_reply
from rlm_mcp.models.base import Message, estimate_tokens
from rlm_mcp.repl.types import CellError, CellResult, Variable


def test_the_system_prompt_is_the_same_for_every_question_and_names_the_room_of_a_sub_call() -> None:
    strong = prompts.system("strong", sub_prompt_chars=60_000)

    assert strong == prompts.system("strong", sub_prompt_chars=60_000)
    assert "up to 60,000 characters" in strong.content
    assert "up to 12,000 characters of each (first 9,000, last 3,000)" in strong.content
    assert "FINAL belongs into the block that has computed and checked the answer" in strong.content
    assert "`cite(line)` for a single text" in strong.content
    assert "{" not in strong.content
    assert estimate_tokens(strong.content) < 620
    assert estimate_tokens(prompts.system("weak").content) < 300


def test_a_strong_model_is_told_that_its_sub_model_is_small_and_what_that_costs() -> None:
    usual, small = (prompts.system("strong", sub_errs=each).content for each in (False, True))
    assert "is small" not in usual
    assert "is small. It judges best by `pick(items" in small
    assert "200 a call, each with about 3 tokens more" in usual
    assert "8 a call, each with about 30 tokens more" in small
    assert "{" not in small

    brief = Brief(name="a", kind="text", chars=200_000, lines=4_000)
    told = prompts.opening("Which?", [brief], None, "strong", sub_errs=True)
    assert "classify over all 4,000 lines 500 sub-calls and 160,000 tokens" in told


@pytest.mark.parametrize("name", ["context", "search", "llm_query", "classify", "FINAL"])
def test_both_profiles_are_told_of(name: str) -> None:
    assert name in prompts.STRONG_SYSTEM
    assert name in prompts.WEAK_SYSTEM


def test_output_is_cut_in_the_middle_and_says_how_much_is_missing() -> None:
    shown = cell_display.OutputLimits(head=5, tail=3, variable=10, variables=2)

    assert cell_display.cut_middle("12345678", 8, shown) == "12345678"
    cut = cell_display.cut_middle("abcdefghij", 10, shown)
    assert cut.startswith("abcde\n[… 2 of 10 characters are not shown")
    assert cut.endswith("\nhij")


def test_a_cut_output_says_how_to_see_the_rest() -> None:
    long = CellResult(code="print(x)", stdout="x" * 20_000, value=repr("y" * 20_000))
    strong, weak = cell_display.observation(long, "strong", index=3), cell_display.observation(long, "weak", index=3)

    assert "[… 8,000 of 20,000 characters are not shown: show(history[3], 9000) goes on …]" in strong
    assert "[… 8,002 of 20,002 characters are not shown: assign it and print a slice …]" in strong
    assert "[… 19,000 of 20,000 characters are not shown: print(history[3][700:1400]) goes on …]" in weak


def test_a_strong_model_is_told_what_judging_every_line_would_cost() -> None:
    brief = Brief(name="a", kind="text", chars=200_000, lines=4_000)
    told = prompts.opening("Which?", [brief], None, "strong", usd_per_mtok=2.0)

    assert (
        "Cost: a sub-call over 10,000 characters takes about 2,700 tokens, about $0.0054;"
        " classify over all 4,000 lines 20 sub-calls and 70,000 tokens, about $0.14." in told
    )
    assert "Cost: classify over all 4,000 lines 20" in prompts.opening("Which?", [brief], None, "strong")
    assert "Cost" not in prompts.opening("Which?", [brief], None, "weak")
    assert "Cost" not in prompts.opening("Which?", [replace(brief, lines=100)], None, "strong")
    assert "Cost" not in prompts.opening("Which?", [replace(brief, format="json; json.loads reads it")], None, "strong")
    assert "Cost" in prompts.opening("Which?", [replace(brief, format="json lines; one a line")], None, "strong")


def test_a_strong_model_is_shown_kinds_of_lines_and_a_weak_one_samples() -> None:
    shapes = (LineShape(count=2, example="# Title"), LineShape(count=800, example="10:01 INFO ok"))
    brief = Brief(name="a", kind="text", chars=99, lines=802, samples=("10:01 INFO ok",), shapes=shapes)

    assert "rare ones first:\n<output>\n2 like '# Title'\n800 like '10:01 INFO ok'\n</output>" in prompts.opening(
        "Which?", [brief], None, "strong"
    )
    assert "# Title" not in prompts.opening("Which?", [brief], None, "weak")


def test_several_contexts_are_named_as_the_code_names_them() -> None:
    briefs = [Brief(name="a.log", kind="text", chars=9, lines=2), Brief(name="src", kind="files", chars=99, files=3)]
    text = prompts.opening("Which?", briefs, {"type": "integer"}, "strong")

    assert "`contexts['a.log']` is a str of 9 characters in 2 lines." in text
    assert "`contexts['src']` is a mapping from path to text: 3 files, 99 characters." in text
    assert 'must satisfy this JSON Schema: {"type": "integer"}' in text


def test_what_is_left_names_only_limits_that_exist() -> None:
    assert prompts.status(Remaining(turn=2, turns=9), "strong") == "Turn 2 of 9."
    left = Remaining(turn=2, turns=9, seconds=12.4, usd=0.05, sub_calls=3, tokens=1_000)
    assert prompts.status(left, "strong") == "Turn 2 of 9. Left: 12 s, $0.0500, 3 sub-calls, 1,000 tokens."
    assert prompts.status(left, "weak") == "Turn 2 of 9."


def test_how_a_block_was_stopped_and_what_became_of_the_variables_is_said() -> None:
    stopped = CellResult(code="while True: pass", stopped_by="deadline", seconds=30.0)
    undone = CellResult(code="x", stopped_by="trap", undone=True)

    told = cell_display.observation(stopped, "weak")
    assert "stopped because it took longer than 30 s. The variables are kept." in told
    assert "ended by the sandbox (trap). The variables are as they were" in cell_display.observation(undone, "strong")


def test_several_json_values_in_one_text_are_recognised_by_their_error() -> None:
    error = CellError(type="JSONDecodeError", message="Extra data: line 2 column 1 (char 66)", line=1)

    assert "parse each line by itself" in cell_display.observation(CellResult(code="x", error=error), "weak")


def test_nothing_to_run_is_answered_with_the_reason_and_the_form() -> None:
    assert "only Python is executed here, your block was bash" in prompts.no_code(
        "bash", only_thinking=False, empty=False
    )
    assert "still thinking" in prompts.no_code("", only_thinking=True, empty=True)
    assert "Your reply was empty" in prompts.no_code("", only_thinking=False, empty=True)
    nudge = prompts.no_code("", only_thinking=False, empty=False)
    assert "```repl" in nudge
    assert not parse_reply(nudge).blocks


def test_variables_are_listed_up_to_a_number_and_cut() -> None:
    many = [Variable(name=f"v{n}", type="str", size=500, preview="x" * 500) for n in range(9)]
    text = cell_display.variables_text(many, cell_display.WEAK)

    assert text.count("\n") == 7
    assert text.startswith("v0 (str, 500 items) = xxx")
    assert len(text) < 8 * 250


def test_a_direct_call_puts_the_question_behind_the_material() -> None:
    messages = prompts.direct("Who?", {"note": "Ada"}, None)

    assert messages[1] == Message(role="user", content="<material name='note'>\nAda\n</material>\n\nQuestion: Who?")


def test_a_direct_call_asks_for_quotes_only_where_the_form_of_the_answer_leaves_room() -> None:
    rules, _ = prompts.direct("What is the room number? Reply with the number only.", {"note": "room 7"}, None)

    assert rules.content.endswith(
        " Answer in the form that the question asks for; if it leaves room, quote word for word what the answer rests"
        " on."
    )


PROSE = Brief(name="a", kind="text", chars=99, lines=3, samples=("lamp: lovely", "radio: broken"), is_prose=True)
STORY = replace(PROSE, samples=("The cobbler had a son.",))


@pytest.mark.parametrize(
    ("question", "brief", "code"),
    [
        (
            "How many are complaints?",
            PROSE,
            'pick(context.splitlines(), "How many are complaints?")\nFINAL(len(matching))',
        ),
        ("Which product has the most complaints?", PROSE, "FINAL(counts[0][0])"),
        ("Which product has the fewest complaints?", PROSE, "FINAL(counts[-1][0])"),
        ("Which one is about a radio?", PROSE, 'FINAL(", ".join(line.split(":")[0] for line in matching))'),
        ("Who mends shoes?", STORY, 'print(read("Who mends shoes?"))'),
        ("Who mends shoes?", replace(STORY, hits=("Olaf mends shoes.",)), None),
        ("How many are complaints?", replace(PROSE, is_prose=False), None),
    ],
)
def test_a_weak_model_is_shown_how_code_has_prose_judged_or_read(question: str, brief: Brief, code: str | None) -> None:
    told = prompts.opening(question, [brief], None, "weak")

    assert (code in told) if code else not any(name in told for name in ("pick(", "read("))
    assert "pick(" not in prompts.opening(question, [brief], None, "strong")


@pytest.mark.parametrize(
    ("question", "is_count"),
    [
        ("How many requests failed?", True),
        ("What is the number of requests that failed?", True),
        ("Count the failed requests.", True),
        ("What is the room number of Ada Reed?", False),
        ("What is the phone number of the harbour office?", False),
        ("What is the number of the train to Bern?", False),
        ("Which account is it?", False),
    ],
)
def test_a_number_that_stands_somewhere_is_no_count(question: str, is_count: bool) -> None:
    assert bool(prompts.COUNTS.search(question)) == is_count
    assert ("FINAL(len(matching))" in prompts.opening(question, [PROSE], None, "weak")) == is_count


@pytest.mark.parametrize(
    ("question", "labels"),
    [
        ("Is most of it refund, delivery or praise?", ["refund", "delivery", "praise"]),
        ("Which of complaint or praise is more frequent?", ["complaint", "praise"]),
        ("Which topic is most frequent?", None),
    ],
)
def test_a_weak_model_is_shown_how_lines_get_the_labels_that_the_question_lists(
    question: str, labels: list[str] | None
) -> None:
    told = prompts.opening(question, [PROSE], None, "weak")

    assert (f"classify(context.splitlines(), {question!r}".replace("'", '"') in told) == (labels is not None)
    assert labels is None or f"{labels!r})" in told


@pytest.mark.parametrize(
    ("question", "brief", "last"),
    [
        (
            "Which of food, weather or sport are most messages about?",
            STORY,
            "FINAL(Counter(labels).most_common()[0][0])",
        ),
        ("Which of refund or praise is named least?", STORY, "FINAL(Counter(labels).most_common()[-1][0])"),
        ("How many are refund or praise, at most?", STORY, "print(Counter(labels).most_common())"),
        ("Who sent most of refund or praise?", PROSE, "print(Counter(labels).most_common())"),
    ],
)
def test_code_that_labels_lines_ends_the_run_where_a_label_is_the_answer(
    question: str, brief: Brief, last: str
) -> None:
    assert prompts.opening(question, [brief], None, "weak").endswith(last)


def test_a_weak_model_may_read_the_answer_off_a_line_that_was_found_unless_the_question_is_about_all_lines() -> None:
    brief = Brief(name="a", kind="text", chars=99, lines=3, hits=("rolled back to ca-7",))

    assert "If one of them does" in prompts.opening("To which bundle?", [brief], None, "weak")
    assert "If one of them does" not in prompts.opening("How many bundles?", [brief], None, "weak")
    assert "If one of them does" not in prompts.opening("To which?", [replace(brief, hits=())], None, "weak")


def test_a_weak_model_is_told_how_the_most_frequent_value_is_found_unless_meaning_decides() -> None:
    brief = replace(PROSE, is_prose=False)

    assert "Counter(values).most_common(1)" in prompts.opening("Which day has the most errors?", [brief], None, "weak")
    assert "Counter(values)" not in prompts.opening("Which product has the most complaints?", [PROSE], None, "weak")
    assert "Counter(values)" not in prompts.opening("Which day has the most errors?", [brief], None, "strong")


def test_only_a_weak_model_is_told_the_fields_of_the_first_line() -> None:
    brief = Brief(name="a", kind="text", chars=99, lines=3, samples=("a b c d",), fields=("a", "b", "c", "d"))

    assert "Fields of the first line: line.split()[0] == 'a', line.split()[1] == 'b', line" in prompts.opening(
        "How many?", [brief], None, "weak"
    )
    assert "line.split()" not in prompts.opening("How many?", [brief], None, "strong")

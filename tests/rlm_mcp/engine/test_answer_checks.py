"""Reasons to doubt an answer that code finds: each is raised by what speaks for it, and by nothing less."""

from dataclasses import replace

import pytest

from rlm_mcp.engine.answer_checks import reasons_to_doubt
from rlm_mcp.engine.prompts import Brief, WordPlace
from rlm_mcp.repl.types import CellResult, Variable

LINE = "2026-05-03 10:02:11 ERROR [disk] volume 7 is full"
BRIEF = Brief(name="app.log", kind="text", chars=9_000, lines=200, samples=(LINE,))
LOG = replace(BRIEF, places=(WordPlace(word="ERROR", index=2, lines=21, elsewhere=5),))
COUNT = "How many lines have the level ERROR?"


def cell(code: str = "FINAL(n)", *notes: str, variables: tuple[Variable, ...] = ()) -> CellResult:
    return CellResult(code=code, notes=notes, variables=variables)


def reasons(question: str, value: object, *cells: CellResult, brief: Brief = BRIEF, weakly: bool = False) -> list[str]:
    return list(reasons_to_doubt(question, value, cells, [brief], judged_weakly=weakly))


@pytest.mark.parametrize(
    ("preview", "expected"),
    [
        ("Counter({'a': 1, 'b': 1, 'c': 0})", ["every count in counts is 0 or 1"]),
        ("Counter({'a': 2, 'b': 1, 'c': 1})", []),
        ("Counter({'a': 1, 'b': 1})", []),
    ],
)
def test_counts_that_are_all_0_or_1_are_doubtful_where_the_most_is_asked_for(preview: str, expected: list[str]) -> None:
    counted = cell("FINAL(max(counts))", variables=(Variable(name="counts", type="Counter", preview=preview),))

    assert reasons("Which component wrote the most lines?", "a", counted) == expected
    assert reasons("Which component wrote it?", "a", counted) == []


def test_a_count_of_earlier_cells_that_the_last_two_do_not_use_is_no_doubt() -> None:
    counts = (Variable(name="counts", type="Counter", preview="Counter({'a': 1, 'b': 1, 'c': 1})"),)
    made, looked, ended = cell("counts = Counter(ids)"), cell("print(len(lines))"), cell("FINAL(n)", variables=counts)

    assert reasons("Which is the most common?", "x", made, ended) == ["every count in counts is 0 or 1"]
    assert reasons("Which is the most common?", "x", made, looked, ended) == []


@pytest.mark.parametrize(
    ("yes", "expected"),
    [(23, ["a model said yes to 23 of 25 texts"]), (0, ["a model said no to all 25 texts"]), (9, [])],
)
def test_a_verdict_that_nearly_all_texts_share_is_doubtful(yes: int, expected: list[str]) -> None:
    picked = cell("FINAL(len(m))", f"pick asked of each text 'Is this spam?': yes for {yes} of 25.")

    assert reasons("How many are spam?", yes, picked) == expected


def test_several_texts_are_doubtful_where_the_question_speaks_of_one() -> None:
    picked = cell("FINAL(m[0])", "pick asked of each text 'Is it?': yes for 3 of 25.")

    assert reasons("What does the only message about a dog say?", "x", picked) == [
        "the question speaks of one, and a model said yes to 3 texts"
    ]


def test_texts_that_were_not_judged_or_judged_by_a_small_model_are_told() -> None:
    picked = cell("", "pick asked of each text 'Is it?': yes for 3 of 25; 4 could not be judged.")
    labelled = cell("", "classify judged 1,200 items; 150 of them uncertain (.uncertain has their indices).")

    assert reasons("How many?", 3, picked) == ["4 of 25 texts could not be judged"]
    assert reasons("How many?", 3, picked, weakly=True)[-1] == "a small model judged 25 texts, and errs in some"
    assert reasons("How many?", 3, labelled) == ["a model was unsure of 150 of 1,200 texts"]


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("classify judged 89 items; all of them 'declined'.", ["a model gave all 89 texts the same label"]),
        ("classify judged 7 items; all of them 'declined'.", []),
        ("classify judged 89 items; 'declined' 37, 'other' 52.", []),
        (
            (
                "classify judged 20 items; 1 of them uncertain (.uncertain has their indices);"
                " 2 without a label (.failed); all of them 'x; y'."
            ),
            ["a model gave all 20 texts the same label", "2 of 20 texts could not be judged"],
        ),
    ],
)
def test_a_label_that_all_texts_share_is_doubtful(note: str, expected: list[str]) -> None:
    assert reasons("How many?", 3, cell("", note)) == expected


@pytest.mark.parametrize(
    "note",
    [
        f"pick asked of each text 'x': yes for {'9' * 5_000} of 9.",
        f"pick asked of each text 'x': yes for 1 of {'9' * 5_000}.",
        f"classify judged 9 items; {'9' * 5_000} of them uncertain.",
        "classify judged , items.",
    ],
    ids=["yes", "all", "unsure", "no digit"],
)
def test_a_note_that_code_has_made_up_costs_no_answer(note: str) -> None:
    assert reasons("How many?", 3, cell("", note)) == []


def test_a_filter_that_was_copied_from_a_shown_line_is_doubtful() -> None:
    assert reasons("What failed?", "x", cell("m = [l for l in lines if '[disk] volume 7 is full' in l]")) == [
        "the code looks for '[disk] volume 7 is full', which it took from one line"
    ]
    assert reasons("What failed?", "x", cell("m = [l for l in lines if 'ERROR' in l]")) == []
    assert reasons("When was '[disk] volume 7 is full' first?", "x", cell("search('[disk] volume 7 is full')")) == []


def test_a_count_is_held_against_the_lines_that_have_the_word_of_the_question() -> None:
    anywhere, by_field = (
        cell("n = sum('ERROR' in l for l in lines)"),
        cell("n = sum(l.split()[2] == 'ERROR' for l in c)"),
    )

    assert reasons(COUNT, 21, by_field, brief=LOG) == []
    assert reasons(COUNT, "26", anywhere, brief=LOG) == [
        "'ERROR' is line.split()[2] in 21 lines and stands elsewhere in 5 others"
    ]
    assert reasons(COUNT, 30, anywhere, brief=LOG) == ["only 26 lines hold 'ERROR'"]
    assert reasons(COUNT, 4, by_field, brief=LOG) == ["21 lines have 'ERROR' as line.split()[2]"]
    assert reasons(COUNT, 200, anywhere, brief=LOG) == ["it is the number of all lines"]
    assert reasons(COUNT, 4, cell("n = len({l.split()[0] for l in c if 'ERROR' in l})\nset()"), brief=LOG) == []
    assert reasons("Which line has the level ERROR?", 4, by_field, brief=LOG) == []


PERSONS = replace(BRIEF, samples=('{"persons": [{"name": "Ben", "age": 74, "city": "Turku"}]}',))


@pytest.mark.parametrize(
    ("question", "code", "is_doubted"),
    [
        ("How many persons live in Turku?", "n = sum(p['age'] >= 18 for p in persons)", True),
        ("How many persons live in Turku?", "n = sum(p['city'].lower() == 'turku' for p in persons)", False),
        ("How many persons live in Turku?", "n = len(pick(persons, 'How many live there?'))", False),
        ("How many persons live in Vaasa?", "n = sum(p['age'] >= 18 for p in persons)", False),  # no line shows it
        ("Turku: how many live there?", "n = len(persons)", False),
    ],
)
def test_code_that_leaves_out_a_name_of_the_question_is_doubtful(question: str, code: str, is_doubted: bool) -> None:
    expected = ["the code does not use 'Turku', which the question names"] if is_doubted else []
    found = reasons_to_doubt(question, "x", [cell(code), cell("FINAL(n)")], [PERSONS], uses_names=True)
    assert list(found) == expected
    assert reasons(question, "x", cell(code), brief=PERSONS) == []


@pytest.mark.parametrize(
    ("question", "answer", "is_doubted"),
    [
        ("In which hour (two digits)?", "16:37", True),
        ("In which hour (two digits)?", "16", False),
        ("In which hour (two digits)?", 7, True),
        ("What is the code of 4 digits?", "It is 0123.", False),
        ("In which hour?", "16:37", False),
        ("What is the mean, with two digits after the point?", "3.14", False),
        ("What is the mean, rounded to two digits?", 3.14, False),
        (
            "Tell of the lock with two digits.",
            "It opens by a key, or by a code that its owner chose.",
            False,
        ),
    ],
)
def test_an_answer_with_other_digits_than_asked_for_is_doubtful(
    question: str, answer: object, is_doubted: bool
) -> None:
    assert any("digits" in reason for reason in reasons(question, answer, cell())) == is_doubted


@pytest.mark.parametrize(
    ("question", "answer", "is_doubted"),
    [
        ("Which booking has the highest price?", 891, True),
        ("Which booking has the highest price?", "B1003", False),
        ("Which booking has the highest price?", "The dearest is B1003.", False),
        ("Which guest has the most?", "Ada", False),
        ("Which guest has the most?", "B1003", True),
        ("Which room is it?", "891", False),  # no column
    ],
)
def test_an_answer_that_looks_like_a_value_of_another_column_is_doubtful(
    question: str, answer: object, is_doubted: bool
) -> None:
    table = replace(BRIEF, format="csv; columns: …", samples=("booking,guest,price", "B1000,Hana,348", "B1033,Ada,486"))
    asked_for = [reason for reason in reasons(question, answer, cell(), brief=table) if "the question asks" in reason]
    assert bool(asked_for) == is_doubted

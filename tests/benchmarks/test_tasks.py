"""The tasks a model is measured on: the same for a seed, never two right answers, exact scoring."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from benchmarks.model_comparison import doubts_told, table
from benchmarks.tasks.scoring import is_right
from benchmarks.tasks.sets import (
    DEVELOPMENT,
    DEVELOPMENT_SEEDS,
    HELD_OUT,
    HELD_OUT_SEEDS,
    development_tasks,
    held_out_tasks,
    unseen_tasks,
)
from benchmarks.tasks.types import Task

SETS = [
    *((held_out_tasks, seed) for seed in HELD_OUT_SEEDS),
    *((development_tasks, seed) for seed in DEVELOPMENT_SEEDS),
]


def asked(answer: str, *others: str) -> Task:
    """A task whose answer is known."""
    return Task(kind="k", template="t", question="?", context="", answer=answer, others=frozenset(others))


def test_a_seed_gives_the_same_tasks_every_time_and_another_seed_others() -> None:
    assert held_out_tasks(11) == held_out_tasks(11)
    assert {task.context for task in held_out_tasks(11)}.isdisjoint(task.context for task in held_out_tasks(12))


def test_a_held_out_set_has_six_tasks_of_each_kind_half_of_them_unknown_to_development() -> None:
    known = {task.name for task in development_tasks(0)}

    for seed in HELD_OUT_SEEDS:
        tasks = held_out_tasks(seed)
        assert set(Counter(task.kind for task in tasks).values()) == {6}
        assert sum(task.name in known for task in tasks) == 12
        assert len({task.name for task in tasks}) == 24


def test_no_template_is_used_for_development_and_for_held_out_sets_only() -> None:
    assert {one for kind in DEVELOPMENT for one in kind}.isdisjoint(one for kind in HELD_OUT for one in kind)
    assert set(DEVELOPMENT_SEEDS).isdisjoint(HELD_OUT_SEEDS)


@pytest.mark.parametrize(("made", "seed"), SETS)
def test_the_right_answer_is_right_and_no_other_is(made: Callable[[int], Sequence[Task]], seed: int) -> None:
    for task in made(seed):  # not when tests are collected, which every worker does
        assert is_right(task, task.answer), task.name
        assert is_right(task, f"The answer is {task.answer}."), task.name
        assert not any(is_right(task, other) for other in task.others), task.name
        assert not is_right(task, None)
        assert not is_right(task, "")


@pytest.mark.parametrize("answer", ["1234", "1,234", "1234.0", "There are 1,234 of them.", "**1234**"])
def test_a_number_is_right_in_any_writing(answer: str) -> None:
    assert is_right(asked("1234"), answer)


@pytest.mark.parametrize("answer", ["12345", "123", "1234 or 1235", "About a thousand", "v1234x1", "-1234"])
def test_another_number_or_a_second_one_is_wrong(answer: str) -> None:
    assert not is_right(asked("1234"), answer)


def test_a_word_is_right_as_a_whole_and_without_a_rival() -> None:
    task = asked("T-34", "T-349", "T-12")

    assert is_right(task, "The ticket is t-34.")
    assert not is_right(task, "T-349")
    assert not is_right(task, "T-34 or T-12")
    assert not is_right(task, "T-34 " + "and much more " * 20)


def test_the_table_counts_by_kind_and_takes_medians() -> None:
    rows = [
        {
            "contender": "own",
            "kind": kind,
            "right": right,
            "seconds": 10.0,
            "prompt_tokens": 900,
            "completion_tokens": None,
        }
        for kind, right in (("needle", True), ("needle", False), ("json", True))
    ]

    assert table(rows).splitlines() == [
        "| | needle | json | all | seconds | tokens in | tokens out |",
        "|---|---|---|---|---|---|---|",
        "| own | 1 of 2 | 1 of 1 | 2 of 3 | 10 | 900 | ? |",
    ]


def test_doubts_are_counted_about_wrong_and_right_answers() -> None:
    facts = [("4", False, "Doubtful."), ("4", False, ""), ("5", True, ""), (None, False, "There is no answer.")]
    rows = [{"contender": "own", "answer": answer, "right": right, "doubt": doubt} for answer, right, doubt in facts]

    assert doubts_told(rows) == "own: doubts told about 1 of 2 wrong answers and 0 of 1 right ones"


def test_newer_templates_make_three_tasks_of_each_kind_that_the_right_answer_solves() -> None:
    tasks = unseen_tasks(21)

    assert Counter(task.kind for task in tasks) == {"structural": 3, "needle": 3, "json": 3, "semantic": 3}
    assert all(is_right(task, task.answer) for task in tasks)
    assert tasks == unseen_tasks(21)


def test_newer_templates_make_tasks_of_every_seed() -> None:
    topics = {task.answer for seed in range(12) for task in unseen_tasks(seed) if task.template == "commonest_topic"}

    assert topics == {"food", "weather", "sport"}

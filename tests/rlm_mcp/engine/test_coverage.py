"""Coverage: which text counts as read by models and by code."""

import json
from dataclasses import replace

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.coverage import Reading, merged, uses_in
from rlm_mcp.repl.types import CellResult, Read

LINES = [f"10:{number:02} INFO step {number} of the pump" for number in range(60)]
LINES[30] = "10:30 ERROR the  pump has   stopped: no water"
TEXT = "\n".join(LINES) + "\n"


@pytest.fixture
def log(store: Store) -> Context:
    return store.register_text(TEXT, name="pump.log")


def test_lines_shown_to_a_model_are_read_by_the_model(store: Store, log: Context) -> None:
    reading = Reading()
    reading.add_model_text("\n".join(LINES[10:13]))
    reading.add_model_text(f"{[LINES[40] + chr(10), LINES[41]]}")
    coverage = reading.coverage(store, [log])

    assert coverage.total_chars == len(TEXT)
    assert coverage.read_by_model == sum(len(LINES[n]) + 1 for n in (10, 11, 12, 40, 41))
    assert coverage.read_by_code == 0
    assert len(coverage.ranges["model"][f"{log.context_id}/{store.files(log)[0].path}"]) == 2


def test_no_more_is_read_than_there_is_where_the_run_began_with_estimates(store: Store, log: Context) -> None:
    reading = Reading()
    reading.add_cell(CellResult(code="", reads=(Read(context="pump.log", path="text.txt", start=0, end=99_999),)))
    coverage = reading.coverage(store, [replace(log, exact=False, chars=100)])
    assert coverage.read_by_code == coverage.total_chars == len(TEXT)


def test_what_code_read_counts_where_no_time_is_left_for_what_models_read(store: Store, log: Context) -> None:
    reading = Reading()
    reading.add_model_text("\n".join(LINES[10:13]))
    reading.add_cell(CellResult(code="", reads=(Read(context="pump.log", path="text.txt", start=0, end=9),)))
    assert reading.coverage(store, [log]).read_by_model > 0
    coverage = reading.coverage(store, [log], seconds=0.0)
    assert (coverage.read_by_code, coverage.read_by_model) == (9, 0)


@pytest.mark.parametrize(
    "prefix", ["3. ", "12) ", "[7] ", "(4) ", "- ", "* ", "Line 7: ", "Text: ", "  #9 ", "10: ", "5\t"]
)
def test_a_line_of_a_prompt_is_read_also_behind_a_number_or_a_label(store: Store, log: Context, prefix: str) -> None:
    reading = Reading()
    reading.add_model_text(f"Which of these?\n{prefix}{LINES[10]}\n")
    assert reading.coverage(store, [log]).read_by_model == len(LINES[10]) + 1


@pytest.mark.parametrize(
    "line",
    [
        "{} | user 7 | {}",
        "{}, {}",
        "{}\t{}",
        "{}: {}",
        "{} {}",
        "{} 10:03:01 INFO {}",
        '{{"at": "{}", "text": "{}"}}',
        '{{"id": 1, "day": "{}", "from": "", "to": "", "text": "{}"}}',
    ],
)
def test_a_field_of_a_line_that_a_model_judged_alone_is_read(store: Store, line: str) -> None:
    asked = "Where did Honecker rule ?"
    context = store.register_text(line.format("2024", asked) + "\n" + line.format("2024", "something else") + "\n")
    reading = Reading()
    reading.add_prompt(f"1 {asked}")
    assert len(asked) <= reading.coverage(store, [context]).read_by_model <= len(asked) + 4


def test_texts_of_json_on_one_line_that_a_model_judged_are_read(store: Store) -> None:
    messages = [f'Where is parcel {n}, "the blue one"?' for n in range(2_000)]
    context = store.register_text(json.dumps([{"id": n, "text": text} for n, text in enumerate(messages)]))
    reading = Reading()
    for text in messages[::2]:
        reading.add_prompt(text)
    judged = sum(len(json.dumps(text)) - 2 for text in messages[::2])
    assert reading.coverage(store, [context]).read_by_model == judged


def test_a_field_that_was_only_shown_is_not_looked_for_in_all_lines(store: Store) -> None:
    context = store.register_text("2024 | the same words in all lines\n" * 100)
    reading = Reading()
    reading.add_model_text("the same words in all lines")
    assert reading.coverage(store, [context]).read_by_model == 0


def test_what_the_guest_noticed_is_read_by_code(store: Store, log: Context) -> None:
    reading = Reading()
    reading.add_cell(CellResult(code="read()", reads=(Read(context="pump.log", path="", start=10, end=30),)))
    reading.add_cell(CellResult(code="read()", reads=(Read(context="pump.log", path="", start=20, end=40),)))

    assert reading.coverage(store, [log]).read_by_code == 30


def test_a_block_that_uses_the_context_whole_has_read_it(store: Store, log: Context) -> None:
    reading = Reading()
    reading.add_cell(CellResult(code="lines = context.splitlines()"))

    assert reading.coverage(store, [log]).read_by_code == len(TEXT)


USES = {
    "print(len(context))": [],
    "print(type(context), context.keys())": [],
    "print(context[:500])": [("", "", (0, 500))],
    "print(context[-500:])": [("", "", (-500, 1 << 62))],
    "print(context[a:b])": [("", "", None)],
    "context['deep/a.py'].count('x')": [("", "deep/a.py", None)],
    "contexts['log'].count('x')": [("log", "", None)],
    "re.findall('x', context)": [("", "", None)],
    "search('x')": [("", "", None)],
    "not python (": [],
}


@pytest.mark.parametrize(("code", "uses"), USES.items(), ids=USES)
def test_what_a_block_reads(code: str, uses: list[tuple[str, str, object]]) -> None:
    assert uses_in(code) == uses


def test_ranges_that_touch_are_one() -> None:
    assert merged([(5, 9), (0, 3), (3, 4), (8, 12)]) == [(0, 4), (5, 12)]

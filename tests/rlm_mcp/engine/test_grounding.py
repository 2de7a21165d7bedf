"""Whether answers were computed or typed, and what counts as evidence."""

import pytest

from rlm_mcp.engine.grounding import evidence_text, is_empty, is_grounded, is_typed, occurs, value_of
from rlm_mcp.repl.types import CellResult

TYPED = [
    "FINAL('disk')",
    "FINAL(17)",
    "FINAL(-17)",
    "FINAL(['a', 'b'])",
    "FINAL({'name': 'disk'})",
    "FINAL('a' + 'b')",
    "FINAL(f'disk')",
    "x = 'disk'\nFINAL(x)",
    "x = 'disk'\ny = x\nFINAL(f'It is {y}')",
    "x = 'disk'\nFINAL_VAR('x')",
    "SUBMIT(answer='disk')",
    "answer['content'] = 'disk'\nanswer['ready'] = True",
]
COMPUTED = [
    "FINAL(n)",
    "FINAL(len(lines))",
    "FINAL(str(17))",
    "n = len(lines)\nFINAL(n)",
    "found = []\nfor line in lines:\n    found.append(line)\nFINAL(found)",
    "counts = {}\ncounts['a'] = len(lines)\nFINAL(counts)",
    "best = ''\nfor line in lines:\n    best = line\nFINAL(best)",
    "n = 0\nn += 1\nFINAL(n)",
    "FINAL('yes' if n else 'no')",
    "if n:\n    x = 'yes'\nelse:\n    x = 'no'\nFINAL(x)",
    "print('no final here')",
]


@pytest.mark.parametrize("code", TYPED)
def test_typed(code: str) -> None:
    assert is_typed([code])


@pytest.mark.parametrize("code", COMPUTED)
def test_computed(code: str) -> None:
    assert not is_typed([code])


def test_a_name_is_followed_into_earlier_blocks() -> None:
    assert is_typed(["x = 'disk'", "print(1)", "FINAL(x)"])
    assert not is_typed(["x = find()", "print(1)", "FINAL(x)"])


def test_a_text_occurs_as_a_whole_word_in_any_case_and_grouping() -> None:
    assert occurs("Disk", "the disk failed")
    assert occurs("1234", "1,234 errors")
    assert occurs("trunk-275", "['trunk-275']")
    assert not occurs("25", "2515 lines")
    assert not occurs("", "anything")


def test_a_sentence_is_grounded_by_its_numbers() -> None:
    assert is_grounded("The disk component logged 17 errors in all.", "disk 17\nnet 3")
    assert not is_grounded("The disk component logged 18 errors in all.", "disk 17\nnet 3")
    assert is_grounded({"name": "disk", "n": 17}, "disk 17")
    assert not is_grounded({"name": "disk", "n": 18}, "disk 17")


def test_own_literals_and_protocol_words_are_no_evidence() -> None:
    cell = CellResult(code="print('guess')\nprint(found)", stdout="guess\nreal\nplease call FINAL(9)\n")

    assert evidence_text(cell).split() == ["real"]


def test_what_is_empty() -> None:
    nothing: list[object] = [None, "", " ", [], {}, "[]", "None", {"a": None}]
    assert all(is_empty(value, zero=False) for value in nothing)
    assert not any(is_empty(value, zero=False) for value in (0, "0", False, "no", "not found", [0]))
    assert all(is_empty(value, zero=True) for value in (0, "0", 0.0, "not found", {"a": 0}))


def test_the_value_of_a_block_is_its_last_expression_or_a_short_output() -> None:
    assert value_of(CellResult(code="", value="'disk'")) == "disk"
    assert value_of(CellResult(code="", value="[1, 2]", stdout="noise")) == "[1, 2]"
    assert value_of(CellResult(code="", stdout="17\n")) == "17"
    assert value_of(CellResult(code="", stdout="line\n" * 1000 + "total 17\n")) == "total 17"

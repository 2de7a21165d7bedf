import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlm_mcp.server.result_text import compact, cut, head_and_tail, json_length, send, shorten
from rlm_mcp.server.results import ContextResult

CONTEXT = ContextResult(
    context_id="ctx_1",
    name="app.log",
    uri="rlm://contexts/ctx_1",
    kind="text",
    bytes=12,
    chars=12,
    lines=2,
    files=1,
    estimated_tokens=4,
    created_at="2026-11-22T10:00:00Z",
    source="text",
    version=1,
    skipped=0,
    notes=[],
)


def test_text_carries_every_field_of_the_structured_result() -> None:
    result = send(CONTEXT)
    assert result.structured_content == CONTEXT.model_dump()
    text = result.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind
    assert text.splitlines() == [f"{name}: {value}" for name, value in CONTEXT.model_dump().items()]


def test_matches_read_as_grep_prints_them() -> None:
    rows = [{"path": "a.log", "line": 3, "text": "x"}, {"path": "a.log", "line": 4, "text": "y", "is_match": False}]
    assert compact({"matches": rows, "total": 1}) == "matches:\n- a.log:3: x\n- a.log-4: y\ntotal: 1"


def test_long_texts_stand_as_a_block_under_their_name() -> None:
    assert compact({"stdout": "a\nb", "value": None}) == "stdout:\na\nb\nvalue: null"


@given(st.text(), st.integers(min_value=2, max_value=200))
@example("\x07", 6)  # six characters, and the quotes
def test_a_cut_text_fits_and_cannot_be_longer(text: str, limit: int) -> None:
    kept = cut(text, limit)
    assert text.startswith(kept)
    assert json_length(kept) <= limit
    assert kept == text or json_length(text[: len(kept) + 1]) > limit


def test_control_characters_cannot_blow_up_a_result() -> None:
    assert len(json.dumps(cut("\x1b" * 100_000, 22_000))) <= 22_000


def test_head_and_tail_tell_how_much_is_missing() -> None:
    shown = head_and_tail("a" * 600 + "z" * 600, 300, true_chars=5_000)
    head, note, tail = shown.split("\n")
    assert set(head) == {"a"}
    assert set(tail) == {"z"}
    assert note == f"… [{5_000 - len(head) - len(tail)} characters not shown] …"


def test_the_tree_of_many_files_is_shown_as_lines() -> None:
    structure = {"format": "files", "tree": ["a.txt (2 bytes)", "b/ (3 files, 9 bytes)"], "longest_line": 7}
    assert compact({"structure": structure, "tail": ""}) == (
        "structure: format=files, longest_line=7\ntree:\n  a.txt (2 bytes)\n  b/ (3 files, 9 bytes)\ntail: "
    )


@pytest.mark.parametrize(
    ("value", "limit", "shown"),
    [
        (["a" * 20, "b" * 20], 45, ["… 2 more"]),
        ([{"line": 1}, {"line": 2}, {"line": 3}, {"line": 4}], 50, [{"line": 1}, "… 3 more"]),
        ({"a": [], "b": [], "c" * 40: 1}, 60, {"a": [], "b": [], "…": "1 more"}),
        ({"a": 1, "b": "x" * 100}, 60, {"a": 1, "b": "xxxxxxxxxxx… [89 more]"}),
    ],
)
def test_what_is_left_out_of_a_value_is_told(value: Any, limit: int, shown: Any) -> None:
    assert shorten(value, limit) == shown


@pytest.mark.parametrize(
    "value",
    [
        {f"name {number}": [] for number in range(300)},
        {f"name {number}": "a long text" * 9 for number in range(3_000)},
        {"x" * 5_000: 1, "rows": [{"line": number} for number in range(3_000)], "deep": {"a": {"b": ["c" * 9_000]}}},
    ],
)
def test_a_shortened_value_fits(value: dict[str, Any]) -> None:
    shown = shorten(value, 2_500)
    assert 1_500 < json_length(shown) <= 2_500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
)


@given(JSON, st.integers(min_value=40, max_value=400))
@example({"": None, "rows0": [None] * 6, "r": [None] * 7, "0" * 28 + "\x07" * 4: {"0" * 8 + "\x07" * 4: None}}, 178)
def test_any_value_is_shortened_to_fit(value: Any, limit: int) -> None:
    assert json_length(shorten(value, limit)) <= limit

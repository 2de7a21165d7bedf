import json

from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.server.result_text import compact, cut, head_and_tail, json_length, send
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

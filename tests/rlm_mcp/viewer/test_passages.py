"""The passages and file sizes that a page shows from the store."""

from pathlib import Path
from typing import Any

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.viewer.coverage import FileSize
from rlm_mcp.viewer.passages import read_passages

TEXT = "".join(f"line {number}\n" for number in range(1, 21))


def citation(context_id: str, line: int, **facts: Any) -> dict[str, Any]:
    return {
        "context_id": context_id,
        "path": "notes",
        "start_line": line,
        "end_line": line,
        "quote": f"line {line}",
        "state": "verified",
    } | facts


def test_cited_lines_come_with_three_on_either_side(store: Store) -> None:
    context = store.register_text(TEXT, name="notes")
    found = read_passages(store, [context.context_id], [citation(context.context_id, 10, path="", end_line=11)])
    assert found.passages == {
        0: {
            "first_line": 7,
            "before": ["line 7", "line 8", "line 9"],
            "cited": ["line 10", "line 11"],
            "after": ["line 12", "line 13", "line 14"],
            "cut": False,
        }
    }
    assert found.places == {0: (context.context_id, "", TEXT.index("line 10"))}
    assert [size.chars for size in found.files[context.context_id]] == [len(TEXT)]


def test_the_first_and_the_last_line_have_neighbours_on_one_side(store: Store) -> None:
    context = store.register_text(TEXT, name="notes")
    cited = [citation(context.context_id, line, path="") for line in (1, 20)]
    first, last = read_passages(store, [context.context_id], cited).passages.values()
    assert (first["before"], first["first_line"], last["after"]) == ([], 1, [])


def test_a_citation_that_was_not_found_has_no_passage(store: Store) -> None:
    context = store.register_text(TEXT, name="notes")
    assert read_passages(store, [context.context_id], [citation("", 0, state="unverified")]).passages == {}


def test_a_context_that_was_removed_is_said_to_be_gone(store: Store) -> None:
    context = store.register_text(TEXT, name="notes")
    store.remove(context.context_id)
    found = read_passages(store, [context.context_id], [citation(context.context_id, 3)])
    assert found.passages == {0: {"missing": "The context is no longer stored, so only the quote can be shown."}}
    assert (found.files, found.places) == ({}, {})


def test_a_line_that_is_not_there_is_told_instead_of_shown(store: Store) -> None:
    context = store.register_text(TEXT, name="notes")
    found = read_passages(store, [context.context_id], [citation(context.context_id, 99, path="")])
    assert str(found.passages[0]["missing"]).startswith("The text cannot be read: ")


def test_a_line_of_a_megabyte_is_cut(store: Store) -> None:
    context = store.register_text("a" * 1_000_000 + "\nb\n", name="notes")
    passage = read_passages(store, [context.context_id], [citation(context.context_id, 1, path="")]).passages[0]
    assert passage["cut"] is True
    assert len(str(passage["cited"][0])) < 3_000


def test_sizes_are_those_of_every_file(store: Store, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / name).write_text(name)
    context = store.register_source(str(tmp_path / "docs"))
    files = read_passages(store, [context.context_id], []).files[context.context_id]
    assert files == [FileSize(path="a.txt", chars=5), FileSize(path="b.txt", chars=5)]

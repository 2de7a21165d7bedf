"""Names, versions and room of what is registered."""

from dataclasses import replace
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import NameTaken, StoreFull


def test_the_same_content_under_the_same_name_is_the_same_context(store: Store, files: Path) -> None:
    (files / "app.log").write_text("a\nb\n")
    first = store.register_source(str(files / "app.log"))
    assert store.register_source(str(files / "app.log")) == first
    assert store.register_text("a\nb\n", name="app.log") == first
    other = store.register_text("a\nb\n", name="other")
    assert other.context_id != first.context_id
    assert store.file(other).blob == store.file(first).blob


def test_an_id_does_not_depend_on_the_store(store: Store, tmp_path: Path) -> None:
    with Store(tmp_path / "elsewhere") as elsewhere:
        assert elsewhere.register_text("x", name="n").context_id == store.register_text("x", name="n").context_id


def test_a_name_of_other_content_is_refused_and_nothing_changes(store: Store) -> None:
    first = store.register_text("one", name="notes")
    with pytest.raises(NameTaken, match=r"the name 'notes' belongs to other content .*choose another name"):
        store.register_text("two", name="notes")
    assert store.list().contexts == (first,)


@pytest.mark.parametrize("name", ["", " x", "a/b", "..", ".hidden", "a\nb", "c:x", "x" * 101, "ctx_0123456789abcdef"])
def test_a_name_that_cannot_be_a_directory_is_refused_with_one_that_can(store: Store, name: str) -> None:
    with pytest.raises(NameTaken, match=r"cannot be the name of a context: .* would do"):
        store.register_text("one", name=name)


def test_files_of_the_same_name_get_names_of_their_own(store: Store, files: Path) -> None:
    for directory in ("a", "b"):
        (files / directory).mkdir()
        (files / directory / "app.log").write_text(f"from {directory}\n")
    names = [store.register_source(str(files / directory / "app.log")).name for directory in ("a", "b", "a")]
    assert names == ["app.log", "app.log-2", "app.log"]


def test_a_changed_source_is_a_new_version_and_the_old_one_stays_readable(store: Store, files: Path) -> None:
    path = files / "app.log"
    path.write_text("one\n")
    old = store.register_source(str(path))
    path.write_text("one\ntwo\n")
    new = store.register_source(str(path))
    assert (new.name, new.version, new.current) == ("app.log", 2, True)
    assert store.get("app.log") == new
    assert store.list().contexts == (new,)
    assert store.get(old.context_id) == replace(old, current=False)
    assert store.text(old) == "one\n"


def test_content_that_comes_back_is_the_version_it_was(store: Store, files: Path) -> None:
    path = files / "app.log"
    contexts = []
    for text in ("one\n", "two\n", "one\n"):
        path.write_text(text)
        contexts.append(store.register_source(str(path)))
    assert contexts[2] == contexts[0]
    assert store.get("app.log") == contexts[0]


def test_a_quota_stops_what_would_go_over_it_and_nothing_is_left(tmp_path: Path) -> None:
    with Store(tmp_path / "data", quota_bytes=1_000) as store:
        store.register_text("x" * 600, name="fits")
        with pytest.raises(StoreFull, match="exceed the quota of the store: remove contexts"):
            store.register_text("y" * 600, name="does not")
        store.register_text("x" * 600, name="fits: it is there already".replace(":", ","))
        store.remove("fits")
        assert [context.name for context in store.list().contexts] == ["fits, it is there already"]
    assert not list((tmp_path / "data" / "contexts" / "incoming").glob("*/*"))

import hashlib
import sqlite3
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.blobs import FileBlobs
from rlm_mcp.contexts.store.catalogue import SqliteCatalogue
from rlm_mcp.contexts.store.protocols import StoreParts
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.store.uses import LockedUses
from rlm_mcp.contexts.types import Context, FileEntry, Freed
from rlm_mcp.errors import (
    ContextInUse,
    NameTaken,
    OutOfRange,
    StorageUnreachable,
    StoreDamaged,
    StoreFull,
    UnknownContext,
    UnknownPath,
)


def test_a_text_is_there_with_all_its_facts(store: Store) -> None:
    context = store.register_text("one\ntwo é\r\nthree", name="notes")
    assert context == Context(
        context_id=context.context_id,
        name="notes",
        kind="text",
        bytes=17,
        chars=16,
        lines=3,
        files=1,
        created_at=context.created_at,
        source="text",
    )
    assert context.uri == f"rlm://contexts/{context.context_id}"
    assert context.estimated_tokens == 5
    assert store.get("notes") == store.get(context.context_id) == store.get(context.uri) == context
    assert store.text(context) == "one\ntwo é\r\nthree"


class UnpreparedBlobs(FileBlobs):
    """Texts that have to be looked for while the database is away."""

    looked_for_at_once = 2

    def prepare(self, blobs: Collection[str]) -> None:
        raise StorageUnreachable(f"{len(blobs)} texts cannot be looked for")


def test_what_cannot_be_fetched_ahead_is_told_when_it_is_read(tmp_path: Path) -> None:
    catalogue = SqliteCatalogue(tmp_path / "catalogue.sqlite3")
    parts = StoreParts(
        catalogue=catalogue,
        blobs=UnpreparedBlobs(tmp_path / "blobs"),
        uses=LockedUses(catalogue=catalogue, holders=tmp_path, token="mine"),  # noqa: S106 - of a process
    )
    with Store(tmp_path / "data", parts=parts) as store:
        context = store.register_text("some text")
        store.fetch_ahead(store.files(context))
        assert store.text(context) == "some text"


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


def test_refresh_takes_the_source_as_it_is_now(store: Store, files: Path) -> None:
    path = files / "app.log"
    path.write_text("one\n")
    old = store.register_source(str(path), name="log")
    assert store.refresh("log") == old
    path.write_text("two\n")
    assert (store.refresh("log").version, store.text(store.get("log"))) == (2, "two\n")


def test_contexts_are_listed_newest_first_a_page_at_a_time(store: Store) -> None:
    registered = [store.register_text(f"text {n}", name=f"name-{n}") for n in range(5)]
    first = store.list(limit=2)
    second = store.list(limit=2, cursor=first.next_cursor)
    third = store.list(limit=2, cursor=second.next_cursor)
    assert [*first.contexts, *second.contexts, *third.contexts] == registered[::-1]
    assert (first.total, third.next_cursor) == (5, None)


def test_a_query_looks_at_name_and_source(store: Store, files: Path) -> None:
    (files / "Server.log").write_text("x\n")
    log = store.register_source(str(files / "Server.log"), name="production")
    store.register_text("y", name="other")
    assert store.list("PROD").contexts == store.list("server").contexts == (log,)
    assert store.list("100%").contexts == ()


def test_a_cursor_or_page_size_that_cannot_be_is_refused(store: Store) -> None:
    with pytest.raises(OutOfRange, match="'next' is not a cursor"):
        store.list(cursor="next")
    with pytest.raises(OutOfRange, match="ask for 1 or more"):
        store.list(limit=0)


def test_an_unknown_context_names_those_that_are_close(store: Store) -> None:
    with pytest.raises(UnknownContext, match="nothing is registered yet"):
        store.get("production")
    store.register_text("x", name="production")
    with pytest.raises(UnknownContext, match="did you mean 'production'"):
        store.get("prodution")


def test_removing_frees_what_nobody_else_uses(store: Store) -> None:
    first, second = store.register_text("same", name="a"), store.register_text("same", name="b")
    blob = store.file(first).blob
    assert store.remove("a") == first
    assert blob.exists()
    store.remove(second.context_id)
    assert not blob.exists()
    with pytest.raises(UnknownContext):
        store.get("b")
    with pytest.raises(UnknownContext, match="has been removed"):
        store.read_lines(first, 1)


def test_removing_a_name_removes_its_older_versions(store: Store, files: Path) -> None:
    path = files / "app.log"
    for text in ("one", "two"):
        path.write_text(text)
        store.register_source(str(path))
    store.remove("app.log")
    assert not list((files.parent / "data" / "contexts" / "blobs").glob("*/*"))


def test_a_context_in_use_is_not_removed_by_any_process(store: Store, tmp_path: Path) -> None:
    context = store.register_text("x", name="notes")
    with Store(tmp_path / "data") as other:
        with store.in_use([context.context_id], "run_1"), pytest.raises(ContextInUse, match="is used by run_1"):
            other.remove("notes")
        other.remove("notes")


def test_collecting_keeps_versions_that_are_cited_or_used(store: Store, files: Path) -> None:
    path = files / "app.log"
    versions = []
    for text in ("one", "two", "three", "four"):
        path.write_text(text)
        versions.append(store.register_source(str(path)))
    with store.in_use([versions[1].context_id], "run_1"):
        assert store.gc() == Freed(blobs=0, bytes=0)
        assert store.gc(keep=[versions[0].context_id]) == Freed(blobs=1, bytes=5, versions=1)
    assert [store.text(versions[n]) for n in (0, 1, 3)] == ["one", "two", "four"]
    with pytest.raises(UnknownContext):
        store.get(versions[2].context_id)


def test_collecting_deletes_blobs_that_no_context_has(store: Store, tmp_path: Path) -> None:
    stray = tmp_path / "data" / "contexts" / "blobs" / "ab" / "abcd.txt"
    stray.parent.mkdir(parents=True)
    stray.write_text("stray")
    assert store.gc() == Freed(blobs=1, bytes=5)
    assert not stray.exists()


def test_a_quota_stops_what_would_go_over_it_and_nothing_is_left(tmp_path: Path) -> None:
    with Store(tmp_path / "data", quota_bytes=1_000) as store:
        store.register_text("x" * 600, name="fits")
        with pytest.raises(StoreFull, match="exceed the quota of the store: remove contexts"):
            store.register_text("y" * 600, name="does not")
        store.register_text("x" * 600, name="fits: it is there already".replace(":", ","))
        store.remove("fits")
        assert [context.name for context in store.list().contexts] == ["fits, it is there already"]
    assert not list((tmp_path / "data" / "contexts" / "incoming").glob("*/*"))


def test_many_threads_and_stores_register_the_same_and_different_texts(tmp_path: Path) -> None:
    with Store(tmp_path / "data") as one, Store(tmp_path / "data") as two, ThreadPoolExecutor(8) as threads:
        registered = list(
            threads.map(lambda n: (one, two)[n % 2].register_text(f"text {n // 4}", name=f"n{n // 4}"), range(64))
        )
        assert len({context.context_id for context in registered}) == 16
        assert one.list(limit=100).contexts == two.list(limit=100).contexts
        assert all(one.text(context) == f"text {n // 4}" for n, context in enumerate(registered))


def test_files_are_mounted_under_their_paths(store: Store, files: Path) -> None:
    (files / "src").mkdir()
    (files / "src" / "a.py").write_text("x = 1\n")
    (files / "README.md").write_text("# Hello\n")
    context = store.register_source(str(files))
    assert {file.path: file.blob.read_text() for file in store.files(context)} == {
        "README.md": "# Hello\n",
        "src/a.py": "x = 1\n",
    }
    entry = store.file(context, "a.py")
    key = hashlib.sha256(b"x = 1\n").hexdigest()
    assert entry == FileEntry(
        path="src/a.py", key=key, bytes=6, chars=6, lines=1, longest_line=5, locate=entry.locate, read=entry.read
    )
    assert store.file(context, "/context/files/src/a.py") == entry


def test_a_path_that_is_not_there_names_one_that_is(store: Store, files: Path) -> None:
    for name in ("server.log", "client.log"):
        (files / name).write_text("x\n")
    context = store.register_source(str(files))
    with pytest.raises(UnknownPath, match=r"has no file 'sever.log': did you mean server.log"):
        store.read_lines(context, 1, path="sever.log")
    with pytest.raises(UnknownPath, match=r"has 2 files \(client.log, server.log, …\): say which with `path`"):
        store.read_lines(context, 1)


def test_a_blob_that_lost_its_content_is_noticed(store: Store) -> None:
    context = store.register_text("some text")
    store.file(context).blob.write_text("")
    with pytest.raises(StoreDamaged, match="has 0 bytes instead of 9: register it again"):
        store.read_lines(context, 1)


def test_registering_a_text_again_leaves_the_file_that_others_read(store: Store, files: Path) -> None:
    (files / "big.log").write_text("a line of text\n" * 400_000)
    first = store.register_source(str(files / "big.log"))
    identity = store.file(first).blob.stat().st_ino
    store.register_source(str(files / "big.log"), name="again")
    assert store.file(first).blob.stat().st_ino == identity


def test_registering_again_mends_a_damaged_blob(store: Store) -> None:
    context = store.register_text("some text", name="a")
    store.file(context).blob.write_text("")
    assert store.register_text("some text", name="a") == context
    assert store.text(context) == "some text"


def test_a_directory_that_cannot_be_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreDamaged, match=r"cannot be used as a store .*RLM_MCP_DATA_DIR"):
        Store(tmp_path / "data")


def test_a_catalogue_that_is_not_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "contexts").mkdir(parents=True)
    (tmp_path / "data" / "contexts" / "catalogue.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreDamaged, match="is not a usable catalogue"):
        Store(tmp_path / "data")


def test_a_catalogue_of_an_older_version_is_brought_to_this_one(tmp_path: Path) -> None:
    with Store(tmp_path / "data") as store:
        context = store.register_text("x", name="n")
    with sqlite3.connect(tmp_path / "data" / "contexts" / "catalogue.sqlite3") as database:
        database.execute("ALTER TABLE files DROP COLUMN exact")
        database.execute("PRAGMA user_version = 1")
    database.close()
    with Store(tmp_path / "data") as store:
        assert store.get("n") == context
        assert store.register_text("y").lines == 1


def test_a_catalogue_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "data").close()
    with sqlite3.connect(tmp_path / "data" / "contexts" / "catalogue.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreDamaged, match=r"is a catalogue of version 99, .*install a newer one"):
        Store(tmp_path / "data")

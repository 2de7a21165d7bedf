import hashlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context, FileEntry, Freed
from rlm_mcp.errors import ContextInUse, StoreDamaged, UnknownContext


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


def test_refresh_takes_the_source_as_it_is_now(store: Store, files: Path) -> None:
    path = files / "app.log"
    path.write_text("one\n")
    old = store.register_source(str(path), name="log")
    assert store.refresh("log") == old
    path.write_text("two\n")
    assert (store.refresh("log").version, store.text(store.get("log"))) == (2, "two\n")


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

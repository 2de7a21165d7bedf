"""Files of a store that were damaged or changed: one sentence, nothing deleted, and no other text shown for them."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import RlmError, StoreDamaged


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The directory of a closed store with three contexts."""
    with Store(tmp_path / "data") as store:
        for name in ("one", "two", "three"):
            store.register_text(f"the text of {name}\n" * 200, name=name)
    return tmp_path / "data"


def catalogue_of(data: Path) -> Path:
    return data / "contexts" / "catalogue.sqlite3"


def texts_of(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "contexts" / "blobs").glob("??/*.txt")}


def execute(data: Path, statement: str) -> None:
    database = sqlite3.connect(catalogue_of(data))
    with database:
        database.execute(statement)
    database.close()


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [empty, Path.unlink], ids=["empty", "gone"])
def test_an_empty_catalogue_beside_texts_is_not_a_new_one(data: Path, damage: Callable[[Path], None]) -> None:
    texts = texts_of(data)
    damage(catalogue_of(data))
    for _ in range(2):  # what a refused opening leaves does not count as a catalogue either
        with pytest.raises(StoreDamaged, match=r"is empty, although .* holds texts: restore it .*; nothing"):
            Store(data)
    assert texts_of(data) == texts


@pytest.mark.parametrize("table", ["contexts", "files", "skipped", "uses"])
def test_a_catalogue_without_one_of_its_tables_is_refused(data: Path, table: str) -> None:
    texts = texts_of(data)
    execute(data, f"DROP TABLE {table}")
    with pytest.raises(StoreDamaged, match=rf"is not a usable catalogue \(no such table: .*{table}\): restore it"):
        Store(data)
    assert texts_of(data) == texts


def test_whatever_page_is_damaged_nothing_is_deleted_and_every_error_is_a_sentence(data: Path) -> None:
    texts, whole = texts_of(data), catalogue_of(data).read_bytes()
    outcomes = set()
    for page in range(0, len(whole), 4096):
        for junk in (b"\x00" * 4096, b"\xff" * 4096, b"\x0d\x00\x00\xff\xff" * 820):
            catalogue_of(data).write_bytes(whole[:page] + junk[:4096] + whole[page + 4096 :])
            for suffix in ("-wal", "-shm"):
                catalogue_of(data).with_name(f"catalogue.sqlite3{suffix}").unlink(missing_ok=True)
            outcomes.add(collect(data))
    assert texts_of(data) == texts
    assert outcomes <= {"StoreDamaged", "nothing to collect"}
    assert "StoreDamaged" in outcomes


def collect(data: Path) -> str:
    """Opens the store, reads everything, and collects garbage."""
    try:
        with Store(data) as store:
            with suppress(RlmError):
                read_all(store)
            store.gc()
    except StoreDamaged as error:
        return "StoreDamaged" if "\n" not in str(error) else str(error)
    return "nothing to collect"


def read_all(store: Store) -> None:
    for context in store.list().contexts:
        store.text(context)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE contexts SET chars = 'many'",
        "UPDATE contexts SET notes = '{'",
        "UPDATE files SET lines = x'ff'",
        "UPDATE files SET pages = '[1]'",
    ],
)
def test_rows_that_cannot_be_read_are_an_error_and_not_an_empty_list(data: Path, change: str) -> None:
    execute(data, change)
    with Store(data) as store, pytest.raises(StoreDamaged, match="is not a usable catalogue"):
        read_all(store)


def change_text(path: Path) -> bytes:
    changed = path.read_bytes().replace(b"text", b"TEXT")
    path.write_bytes(changed)
    return changed


def test_a_text_that_was_changed_on_the_disk_is_not_shown(data: Path) -> None:
    with Store(data) as store:
        context = store.get("one")
        blob = store.file(context).blob
        assert store.read_lines(context, 1, 1).text == "the text of one\n"
        changed = change_text(blob)
        assert [file.bytes for file in store.files(context)] == [len(changed)]  # the list is that of the catalogue
        looks = (lambda one: store.file(one).blob, lambda one: store.read_lines(one, 1))
        for look in (store.text, store.line_index, *looks):
            with pytest.raises(StoreDamaged, match=r"was changed on the disk since it was stored: register it again"):
                look(context)
        assert blob.read_bytes() == changed
        assert store.text(store.get("two")) == "the text of two\n" * 200


def test_a_changed_text_is_not_hashed_again_until_its_file_changes(data: Path) -> None:
    with Store(data) as store:
        context = store.get("one")
        blob, right = store.file(context).blob, store.file(context).blob.read_bytes()
        change_text(blob)
        status = blob.stat()
        for times in ((status.st_atime_ns, status.st_mtime_ns), (status.st_atime_ns, status.st_mtime_ns + 1_000_000)):
            with pytest.raises(StoreDamaged, match="was changed on the disk"):
                store.text(context)
            blob.write_bytes(right)
            os.utime(blob, ns=times)
        assert store.text(context) == right.decode()


def test_registering_a_changed_text_again_mends_it(data: Path) -> None:
    with Store(data) as store:
        context = store.get("one")
        change_text(store.file(context).blob)
        assert store.register_text("the text of one\n" * 200, name="one") == context
        assert store.text(context) == "the text of one\n" * 200


def test_a_copied_store_is_read_although_its_files_have_other_times(data: Path) -> None:
    with Store(data) as store:
        context = store.get("one")
        blob = store.file(context).blob
        marked = blob.stat().st_mtime_ns
        os.utime(blob)
        assert store.text(context) == "the text of one\n" * 200
        assert blob.stat().st_mtime_ns == marked
        os.utime(blob)
        change_text(blob)
        with pytest.raises(StoreDamaged, match="was changed on the disk"):
            store.text(context)


def test_a_text_that_is_no_file_is_an_error_in_words(data: Path) -> None:
    with Store(data) as store:
        context = store.get("one")
        blob = store.file(context).blob
        blob.unlink()
        with pytest.raises(StoreDamaged, match="is missing: register it again"):
            store.text(context)
        blob.mkdir()
        with pytest.raises(StoreDamaged):
            store.text(context)


def test_a_page_of_any_size_can_be_asked_for(data: Path) -> None:
    with Store(data) as store:
        assert len(store.list(limit=10**400).contexts) == 3

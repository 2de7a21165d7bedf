import os
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.references import STEP_BYTES
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import SourceChanged, UnknownContext

LINE = "a line of some text é\n"


@pytest.fixture
def log(files: Path) -> Path:
    path = files / "big.log"
    path.write_text(LINE * (2 * STEP_BYTES // len(LINE)) + "the last line\n")
    return path


def test_a_referenced_file_is_read_where_it_lies(store: Store, log: Path) -> None:
    context = store.register_source(str(log), reference=True)
    assert store.file(context).blob == log
    assert store.read_lines(context, -1).text == "the last line\n"
    assert store.wait_for_indexes()
    exact = store.get("big.log")
    text = log.read_text()
    assert (exact.exact, exact.lines, exact.chars, exact.bytes) == (
        True,
        text.count("\n"),
        len(text),
        log.stat().st_size,
    )
    assert store.read_chars(exact, exact.chars - 5, exact.chars) == "line\n"


def test_a_line_can_be_read_before_the_index_reaches_it(store: Store, log: Path) -> None:
    context = store.register_source(str(log), reference=True)
    assert store.read_lines(context, 300_000, 300_000).text == LINE
    assert store.locate_line(context, 300_000).char == 299_999 * len(LINE)


def test_only_large_files_are_referenced_unasked(tmp_path: Path, log: Path) -> None:
    with Store(tmp_path / "data", reference_above_bytes=1_000_000) as store:
        (log.parent / "small.log").write_text("x\n")
        assert store.file(store.register_source(str(log))).blob == log
        assert store.file(store.register_source(str(log.parent / "small.log"))).blob != log.parent / "small.log"
        assert store.file(store.register_source(str(log), name="copy", reference=False)).blob != log


def test_the_index_is_made_once_and_found_by_the_next_process(tmp_path: Path, log: Path) -> None:
    with Store(tmp_path / "data") as store:
        store.register_source(str(log), reference=True)
        assert store.wait_for_indexes()
        known = store.get("big.log")
    with Store(tmp_path / "data") as store:
        assert store.line_index(store.get("big.log")).counts.lines == known.lines
        assert store.wait_for_indexes(0)


def test_a_file_that_is_not_utf8_is_copied_instead(store: Store, files: Path) -> None:
    (files / "old.log").write_bytes("Le café est fermé\n".encode("latin-1") * 99)
    context = store.register_source(str(files / "old.log"), reference=True)
    assert store.read_lines(context, 1, 1).text == "Le café est fermé\n"
    assert "converted into a copy" in context.notes[0]


@pytest.mark.parametrize("change", ["append", "overwrite", "replace"])
def test_a_file_that_changed_since_is_noticed_at_use_and_can_be_refreshed(store: Store, log: Path, change: str) -> None:
    old = store.register_source(str(log), reference=True)
    assert store.wait_for_indexes()
    if change == "append":
        with log.open("a") as file:
            file.write("one more\n")
    elif change == "overwrite":
        with log.open("r+") as file:
            file.write("X")
        os.utime(log, ns=(1, 1))
    else:
        (log.parent / "new").write_text(log.read_text())
        (log.parent / "new").replace(log)
    for use in (store.read_lines, store.locate_line):
        with pytest.raises(SourceChanged, match=r"since it was registered: .*`rlm-mcp contexts refresh NAME`"):
            use(old, 1)
    with pytest.raises(SourceChanged):
        store.file(old).locate()
    new = store.refresh("big.log")
    assert (new.version, new.current) == (2, True)
    assert store.read_lines(new, 2, 2).text == LINE


def test_a_file_that_is_gone_is_noticed_at_use(store: Store, log: Path) -> None:
    context = store.register_source(str(log), reference=True)
    log.unlink()
    with pytest.raises(SourceChanged, match=r"big.log, registered by reference, is gone"):
        store.text(context)


def test_removing_a_reference_leaves_the_file_and_deletes_the_index(store: Store, log: Path, tmp_path: Path) -> None:
    store.register_source(str(log), reference=True)
    assert store.wait_for_indexes()
    assert list((tmp_path / "data" / "contexts" / "indexes").iterdir())
    store.remove("big.log")
    assert log.exists()
    assert not list((tmp_path / "data" / "contexts" / "indexes").iterdir())
    with pytest.raises(UnknownContext):
        store.get("big.log")


def test_large_files_in_a_directory_are_referenced_and_the_rest_copied(tmp_path: Path, log: Path) -> None:
    (log.parent / "small.txt").write_text("one\ntwo\n")
    with Store(tmp_path / "data", reference_above_bytes=1_000_000) as store:
        context = store.register_source(str(log.parent))
        mounts = {file.path: file.blob for file in store.files(context)}
        assert mounts["big.log"] == log
        assert mounts["small.txt"] != log.parent / "small.txt"
        assert store.wait_for_indexes()
        exact = store.get("files")
        lines = log.read_text().count("\n")
        assert (exact.exact, exact.lines, exact.chars) == (True, lines + 2, len(log.read_text()) + 8)
        assert store.file(exact, "big.log").lines == lines

"""A document whose conversion ends the process is tried twice, and then refused by name."""

import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rlm_mcp.contexts.sources.content_key import WHOLE_BYTES, content_key
from rlm_mcp.contexts.store.conversions import KEY_BYTES, MOST_FILES, ConversionJournal
from rlm_mcp.contexts.store.process_locks import ProcessLock
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import ConversionGivenUp, SourceRefused

PDF = b"%PDF-1.4\n any"
OTHER = b"%PDF-1.4\n another"
GIVEN_UP = (
    "{} was being converted when 2 processes died, so that it is not tried again: convert it to text yourself and "
    "register that, or wait for a version of rlm-mcp that can convert it"
)


def registered_by(data_dir: Path, source: Path, *versions: str) -> list[list[str]]:
    """What a child process of each version of the parser got."""
    script = Path(__file__).with_name("crashing.py")
    command = [sys.executable, str(script), str(data_dir), str(source), *versions]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603 - this interpreter
    assert (done.returncode, done.stderr) == (0, "")
    return list(json.loads(done.stdout))


def test_the_third_registration_of_a_document_that_kills_refuses_it_until_the_parser_changes(
    files: Path, tmp_path: Path
) -> None:
    (files / "a.pdf").write_bytes(PDF)
    told = registered_by(tmp_path / "data", files / "a.pdf", "1", "1", "1", "2", "good1", "good3")
    given_up = [GIVEN_UP.format(files / "a.pdf")]
    assert told == [["killed"], ["killed"], given_up, ["killed"], given_up, ["a.pdf"]]


def test_a_directory_is_registered_without_it_under_any_name(files: Path, tmp_path: Path) -> None:
    (files / "a.pdf").write_bytes(PDF)
    (files / "b.txt").write_text("some text")
    assert registered_by(tmp_path / "data", files, "1", "1") == [["killed"], ["killed"]]
    (files / "a.pdf").rename(files / "renamed.pdf")
    assert registered_by(tmp_path / "data", files, "1") == [[GIVEN_UP.format(files / "renamed.pdf"), "b.txt"]]


def test_an_archive_is_registered_without_the_member(files: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(files / "a.zip", "w") as archive:
        archive.writestr("in/a.pdf", PDF)
        archive.writestr("b.txt", "some text")
    told = registered_by(tmp_path / "data", files / "a.zip", "1", "1", "1")
    assert told == [["killed"], ["killed"], [GIVEN_UP.format(files / "a.zip" / "in" / "a.pdf"), "b.txt"]]


def test_one_death_is_forgotten_when_the_document_is_converted(files: Path, tmp_path: Path) -> None:
    (files / "a.pdf").write_bytes(PDF)
    told = registered_by(tmp_path / "data", files, "1", "good1", "1", "good1")
    assert told == [["killed"], ["a.pdf"], ["killed"], ["a.pdf"]]
    assert list((tmp_path / "data" / "contexts" / "conversions").iterdir()) == []


# --- the journal itself

KEY, OTHER_KEY = content_key(io.BytesIO(PDF)), content_key(io.BytesIO(OTHER))


class Processes:
    """Journals of several processes; `die` releases the lock of one as the system does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "conversions"
        self._holders = directory / "holders"
        self._locks: dict[ConversionJournal, ProcessLock] = {}
        self._begun: list[AbstractContextManager[None]] = []

    def start(self) -> ConversionJournal:
        lock = ProcessLock(self._holders)
        journal = ConversionJournal(self.directory, holders=self._holders, token=lock.token)
        self._locks[journal] = lock
        return journal

    def die(self, journal: ConversionJournal) -> None:
        self._locks.pop(journal).close()

    def die_converting(self, *keys: bytes) -> None:
        journal = self.start()
        for key in keys:
            self._begun.append(journal.converting(key, Path("a.pdf"), instead=""))
            self._begun[-1].__enter__()
        self.die(journal)


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def is_refused(journal: ConversionJournal, key: bytes) -> bool:
    try:
        with journal.converting(key, Path("a.pdf"), instead="do something else"):
            return False
    except ConversionGivenUp:
        return True


def test_what_a_living_process_converts_is_no_death(processes: Processes) -> None:
    first, second, third = processes.start(), processes.start(), processes.start()
    with first.converting(KEY, Path("a"), instead=""), second.converting(KEY, Path("a"), instead=""):
        assert not is_refused(third, KEY)
        processes.die(first)
        processes.die(second)
        assert is_refused(third, KEY)
    assert not is_refused(third, KEY)


def test_only_the_innermost_conversion_is_blamed(processes: Processes) -> None:
    for _ in range(2):
        processes.die_converting(OTHER_KEY, KEY)
    journal = processes.start()
    assert (is_refused(journal, KEY), is_refused(journal, OTHER_KEY)) == (True, False)


def test_a_refused_document_counts_as_converted(processes: Processes) -> None:
    processes.die_converting(KEY)
    journal = processes.start()
    with pytest.raises(SourceRefused, match="empty"), journal.converting(KEY, Path("a"), instead=""):
        raise SourceRefused("it is empty")
    processes.die_converting(KEY)
    assert not is_refused(journal, KEY)


def test_an_orderly_end_blames_nothing(processes: Processes) -> None:
    for _ in range(2):
        journal = processes.start()
        with journal.converting(KEY, Path("a"), instead=""):
            journal.close()
            with journal.converting(OTHER_KEY, Path("b"), instead=""):
                processes.die(journal)
    assert list(processes.directory.iterdir()) == []


def test_every_thread_has_a_slot_of_its_own(processes: Processes) -> None:
    journal, met = processes.start(), threading.Barrier(3)

    def convert(key: bytes) -> None:
        with journal.converting(key, Path("a"), instead=""):
            met.wait(10)
            met.wait(10)

    threads = [threading.Thread(target=convert, args=(key,)) for key in (KEY, OTHER_KEY)]
    for thread in threads:
        thread.start()
    met.wait(10)
    (file,) = processes.directory.iterdir()
    data = file.read_bytes()
    met.wait(10)
    for thread in threads:
        thread.join()
    assert {data[:KEY_BYTES], data[KEY_BYTES:]} == {KEY, OTHER_KEY}
    assert file.read_bytes() == bytes(2 * KEY_BYTES)


def test_deaths_of_long_ago_and_of_other_versions_are_forgotten(processes: Processes) -> None:
    for _ in range(2):
        processes.die_converting(KEY)
    journal = processes.start()
    journal.remove_old()
    assert is_refused(journal, KEY)
    first, second = processes.directory.iterdir()
    os.utime(first, (0, time.time() - 31 * 24 * 3600))
    second.rename(second.with_name(f"another.{second.name.partition('.')[2]}"))
    journal.remove_old()
    assert list(processes.directory.iterdir()) == []


def test_of_very_many_deaths_only_the_last_are_remembered(processes: Processes) -> None:
    for number in range(MOST_FILES + 5):
        processes.die_converting(number.to_bytes(KEY_BYTES, "big"))
    journal = processes.start()
    journal.remove_old()
    assert len(list(processes.directory.iterdir())) == MOST_FILES


def test_many_plain_texts_write_no_journal(store: Store, files: Path, tmp_path: Path) -> None:
    for number in range(20):
        (files / f"{number}.txt").write_text("text")
    store.register_source(str(files))
    assert not (tmp_path / "data" / "contexts" / "conversions").exists()


def test_the_key_is_of_the_content_and_leaves_the_file_at_its_beginning() -> None:
    large = bytes(WHOLE_BYTES + 1)
    contents = [b"", PDF, OTHER, large, large[:-1] + b"x", b"x" + large[1:], large + b"\0"]
    keys = set()
    for content in contents:
        file = io.BytesIO(content)
        keys.add(content_key(file))
        assert file.tell() == 0
    assert len(keys) == len(contents)

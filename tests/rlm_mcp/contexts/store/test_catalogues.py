"""What every Catalogue has to do, whatever it is kept in. A new implementation is added to CATALOGUES."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.catalogue import FileRow, SqliteCatalogue
from rlm_mcp.contexts.store.protocols import Catalogue
from rlm_mcp.contexts.text.line_index import Counts
from rlm_mcp.contexts.types import Context, PageMark, Skipped
from tests.peers.cluster import open_store_parts

OpenCatalogue = Callable[[], Catalogue]
"""Opens the catalogue of one owner as another process would."""


def sqlite(_: pytest.FixtureRequest, directory: Path) -> OpenCatalogue:
    return lambda: SqliteCatalogue(directory / "catalogue.sqlite3")


def postgres(request: pytest.FixtureRequest, directory: Path) -> OpenCatalogue:
    reopen = open_store_parts(request, directory)
    return lambda: reopen().catalogue


CATALOGUES: dict[str, Callable[[pytest.FixtureRequest, Path], OpenCatalogue]] = {"sqlite": sqlite, "postgres": postgres}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cluster)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenCatalogue]:
    opened: list[Catalogue] = []
    open_catalogue = CATALOGUES[request.param](request, tmp_path)

    def open_another() -> Catalogue:
        opened.append(open_catalogue())
        return opened[-1]

    yield open_another
    for catalogue in opened:
        catalogue.close()


ONE = FileRow(path="a.txt", blob="a" * 64, bytes=10, chars=9, lines=2, longest_line=5)
OTHER = FileRow(
    path="b/c.pdf", blob="b" * 64, bytes=20, chars=20, lines=4, longest_line=7, encoding="cp1252", invalid_bytes=1,
    pages=(PageMark(line=1, label="p. 1"), PageMark(line=3, label="p. 2 ü")),
)  # fmt: skip
REFERRED = FileRow(path="big.log", blob='ref:{"p":1}', bytes=99, chars=90, lines=9, longest_line=11, exact=False)


def context(number: int, *files: FileRow, name: str = "", version: int = 1) -> Context:
    return Context(
        context_id=f"ctx_{number:016x}",
        name=name or f"name {number}",
        kind="files",
        bytes=sum(file.bytes for file in files),
        chars=sum(file.chars for file in files),
        lines=sum(file.lines for file in files),
        files=len(files),
        created_at=f"2026-01-01T00:00:{number:02}.000000Z",
        source=f"/Data/{number}",
        version=version,
        exact=all(file.exact for file in files),
        notes=("a note", "ü"),
        skipped=1,
    )


def add(catalogue: Catalogue, made: Context, *files: FileRow) -> None:
    with catalogue.writing():
        catalogue.add(made, files, [Skipped(path="x.bin", reason="it is binary")], {"reference": None, "encoding": "é"})


def test_what_is_added_is_found_by_every_other_process_as_it_was(reopen: OpenCatalogue) -> None:
    made = context(1, ONE, OTHER)
    add(reopen(), made, OTHER, ONE)
    other = reopen()
    other.verify()

    assert (other.by_id(made.context_id), other.by_name("name 1"), other.by_id("ctx_0")) == (made, made, None)
    assert list(other.files(made.context_id)) == [ONE, OTHER]
    assert (other.file(made.context_id, "b/c.pdf"), other.file(made.context_id, "b")) == (OTHER, None)
    assert other.only_file(made.context_id) is None
    assert list(other.skipped(made.context_id)) == [Skipped(path="x.bin", reason="it is binary")]
    assert other.options(made.context_id) == {"reference": None, "encoding": "é"}
    assert other.options("ctx_0") == {}


def test_a_change_that_fails_leaves_nothing(reopen: OpenCatalogue) -> None:
    catalogue = reopen()
    with suppress(RuntimeError), catalogue.writing():
        catalogue.add(context(1, ONE), [ONE], [], {})
        raise RuntimeError
    assert (catalogue.count(""), reopen().count("")) == (0, 0)
    add(catalogue, context(1, ONE), ONE)
    assert reopen().count("") == 1


def test_one_process_writes_at_a_time_and_readers_go_on(reopen: OpenCatalogue) -> None:
    first, second, reader = reopen(), reopen(), reopen()
    order: list[str] = []

    def write() -> None:
        with second.writing():
            order.append("second")

    waiting = threading.Thread(target=write)
    with first.writing():
        first.add(context(1, ONE), [ONE], [], {})
        waiting.start()
        assert reader.count("") == 0
        waiting.join(0.05)
        order.append("first")
    waiting.join(10)
    assert (order, reader.count("")) == (["first", "second"], 1)


def test_a_new_version_takes_the_name_and_the_old_one_stays_under_its_id(reopen: OpenCatalogue) -> None:
    catalogue = reopen()
    old, new = context(1, ONE, name="n"), context(2, OTHER, name="n", version=2)
    add(catalogue, old, ONE)
    add(catalogue, new, OTHER)
    assert (catalogue.by_name("n"), catalogue.by_id(old.context_id)) == (new, replace(old, current=False))
    assert (catalogue.last_version("n"), catalogue.last_version("other")) == (2, 0)
    assert (list(catalogue.versions("n")), list(catalogue.superseded())) == ([old.context_id], [old.context_id])

    with catalogue.writing():
        catalogue.make_current(replace(old, current=False))
    assert (catalogue.by_name("n"), list(catalogue.superseded())) == (old, [new.context_id])


def test_pages_are_newest_first_and_match_name_and_source_in_any_case(reopen: OpenCatalogue) -> None:
    catalogue = reopen()
    made = [context(number, ONE) for number in range(5)]
    for one in made:
        add(catalogue, one, ONE)
    first = catalogue.page("", after=None, limit=2)
    rest = catalogue.page("", after=(first[-1].created_at, first[-1].context_id), limit=9)
    assert [*first, *rest] == made[::-1]
    assert list(catalogue.page("NAME 3", after=None, limit=9)) == [made[3]]
    assert (catalogue.count("/data/"), catalogue.count("%"), catalogue.count("nothing")) == (5, 0, 0)


def test_texts_are_counted_once_and_unused_when_no_context_has_them(reopen: OpenCatalogue) -> None:
    catalogue = reopen()
    one, both = context(1, ONE), context(2, ONE, OTHER, REFERRED)
    add(catalogue, one, ONE)
    add(catalogue, both, ONE, OTHER, REFERRED)
    assert (catalogue.stored_bytes(), catalogue.blobs()) == (30, {ONE.blob, OTHER.blob, REFERRED.blob})

    with catalogue.writing():
        catalogue.delete(both.context_id)
    assert catalogue.unused_of([ONE.blob, OTHER.blob]) == [OTHER.blob]
    assert (catalogue.only_file(one.context_id), list(catalogue.files(both.context_id))) == (ONE, [])


def test_exact_counts_replace_estimates_in_every_context_of_the_text(reopen: OpenCatalogue) -> None:
    catalogue = reopen()
    made = context(1, ONE, REFERRED)
    add(catalogue, made, ONE, REFERRED)
    with catalogue.writing():
        catalogue.set_counts({REFERRED.blob: Counts(bytes=99, chars=95, lines=10, longest_line=12)})
    found = reopen().by_id(made.context_id)
    assert found == replace(made, chars=9 + 95, lines=2 + 10, exact=True)
    assert catalogue.file(made.context_id, "big.log") == replace(
        REFERRED, chars=95, lines=10, longest_line=12, exact=True
    )

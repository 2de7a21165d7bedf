"""Citations are checked against the stored text."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.citations import collect_citations, quotes_in
from rlm_mcp.engine.coverage import Reading
from rlm_mcp.records.types import Citation
from rlm_mcp.repl.types import RawCitation

LINES = [f"10:{number:02} INFO step {number} of the pump" for number in range(60)]
LINES[30] = "10:30 ERROR the  pump has   stopped: no water"
TEXT = "\n".join(LINES) + "\n"


@pytest.fixture
def log(store: Store) -> Context:
    return store.register_text(TEXT, name="pump.log")


def cite(store: Store, log: Context, *, start: int, end: int, quote: str | None, path: str = "") -> Citation:
    raw = RawCitation(context="pump.log", path=path, start_line=start, end_line=end, quote=quote)
    (citation,) = collect_citations(store, [log], [raw], None)
    return citation


def test_a_quote_at_the_cited_lines_is_verified(store: Store, log: Context) -> None:
    citation = cite(store, log, start=11, end=11, quote="step 10 of the pump")

    assert (citation.verified, citation.corrected) == (True, False)
    assert (citation.context_id, citation.start_line, citation.end_line) == (log.context_id, 11, 11)


def test_a_quote_that_stands_elsewhere_is_corrected_to_the_nearest_place(store: Store, log: Context) -> None:
    citation = cite(store, log, start=14, end=14, quote="step 10 of the pump")

    assert (citation.verified, citation.corrected, citation.start_line) == (True, True, 11)


def test_blanks_may_differ_and_the_exact_words_come_back(store: Store, log: Context) -> None:
    citation = cite(store, log, start=31, end=31, quote="the pump has stopped: no water")

    assert citation.verified
    assert citation.corrected
    assert citation.quote == "the  pump has   stopped: no water"


def test_a_quote_over_several_lines_gets_both_ends(store: Store, log: Context) -> None:
    citation = cite(store, log, start=1, end=9, quote="step 4 of the pump\n10:05 INFO step 5")

    assert (citation.verified, citation.start_line, citation.end_line) == (True, 1, 9)
    citation = cite(store, log, start=40, end=40, quote="step 4 of the pump 10:05 INFO step 5")
    assert (citation.verified, citation.start_line, citation.end_line) == (True, 5, 6)


def test_invented_words_stay_and_are_marked(store: Store, log: Context) -> None:
    citation = cite(store, log, start=3, end=4, quote="the pump exploded")

    assert citation == Citation(
        context_id="pump.log", path="", start_line=3, end_line=4, quote="the pump exploded", verified=False
    )


def test_without_a_quote_the_lines_themselves_are_the_quote(store: Store, log: Context) -> None:
    assert cite(store, log, start=1, end=2, quote=None).quote == "\n".join(LINES[:2])
    assert not cite(store, log, start=999, end=999, quote=None).verified


def test_quotes_in_the_answer_are_looked_up_too(store: Store, log: Context) -> None:
    answer = 'It says "10:31 INFO step 31 of the pump" and “a sentence that nobody ever wrote here”, as "x".'
    found, invented = collect_citations(store, [log], [], answer)

    assert (found.verified, found.start_line) == (True, 32)
    assert (invented.verified, invented.context_id) == (False, "")


def test_a_short_answer_is_looked_up_in_the_lines_that_hold_a_word_of_the_question(store: Store, log: Context) -> None:
    asked = "Which step of the pump was it?"
    (citation,) = collect_citations(store, [log], [], "step 31", query=asked)
    assert (citation.verified, citation.start_line, citation.quote) == (True, 32, LINES[31])
    for answer, query in (("pump", asked), ("42", asked), ("step 31", "Which step of the mill was it?")):
        assert collect_citations(store, [log], [], answer, query=query) == ()


def test_a_path_may_be_shortened_or_absolute(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "src"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "a.py").write_text("import this\n")
    (root / "b.py").write_text("import that\n")
    (root / ".flake8").write_text("import nothing\n")
    code = store.register_source(str(root), name="src")

    for path, quote, found in (
        ("deep/a.py", "import this", "deep/a.py"),
        ("a.py", "import this", "deep/a.py"),
        ("/context/src/deep/a.py", "import this", "deep/a.py"),
        ("./b.py", "import that", "b.py"),
        (".flake8", "import nothing", ".flake8"),
    ):
        raw = RawCitation(context="src", path=path, start_line=1, end_line=1, quote=quote)
        (citation,) = collect_citations(store, [code], [raw], None)
        assert (citation.verified, citation.corrected, citation.path) == (True, False, found)


def test_of_two_texts_that_it_can_mean_a_citation_means_the_one_in_which_it_holds(store: Store) -> None:
    first = store.register_text("other\nthe valve was opened\n", name="first")
    second = store.register_text("the valve was opened\n", name="second")
    raw = RawCitation(context="", path="text.txt", start_line=1, end_line=1, quote="the valve was opened")
    (citation,) = collect_citations(store, [first, second], [raw], None)
    assert citation == Citation(
        context_id=second.context_id,
        path="text.txt",
        start_line=1,
        end_line=1,
        quote="the valve was opened",
        verified=True,
    )


def test_the_same_citation_is_listed_once(store: Store, log: Context) -> None:
    raw = RawCitation(context="", path="", start_line=1, end_line=1)

    assert len(collect_citations(store, [log], [raw, raw], None)) == 1


def test_quotes_are_found_in_objects_and_block_quotes() -> None:
    assert quotes_in({"why": ["> a block quote that is long enough"]}) == ["a block quote that is long enough"]
    assert quotes_in('the word "timeout" is short') == []


# --- contexts too large to be loaded


class Loadless(Store):
    """A store that gives no text whole."""

    def text(self, context: Context, path: str | None = None) -> str:
        raise AssertionError(f"{context.name} was loaded")


def cited_unloaded(store: Store, contexts: Sequence[Context], raw: list[RawCitation], answer: object) -> list[Citation]:
    return list(collect_citations(store, contexts, raw, answer, load_chars=0))


@pytest.fixture
def loadless(tmp_path: Path) -> Iterator[Store]:
    with Loadless(tmp_path / "large") as store:
        yield store


LONG = [f"{n} {'filler ' * 30}" for n in range(5_000)]
LONG[10] = LONG[2_500] = "the valve  was opened by hand"
LONG[4_990] = "the pump stopped here\r\nand so did the fan\r"


@pytest.mark.parametrize(
    ("quote", "cited_at", "found_at"),
    [
        ("the valve  was opened by hand", 11, 11),
        ("the valve  was opened by hand", 2_400, 2_501),
        ("the valve was opened by hand", 20, 11),
        ("the pump stopped here\nand so did the fan", 4_991, 4_991),
        ("the pump stopped here and so did the fan", 4_900, 4_991),
        ("4321 filler filler", 1, 4_322),
        ("4321 filler filler", 999_999, 4_322),
        ("the valve exploded", 11, None),
        ("no stored\0text", 11, None),
    ],
)
def test_a_quote_of_a_large_text_is_found_by_address_and_search(
    loadless: Store, quote: str, cited_at: int, found_at: int | None
) -> None:
    context = loadless.register_text("\n".join(LONG), name="log")
    raw = RawCitation(context="log", path="", start_line=cited_at, end_line=cited_at + 1, quote=quote)
    (citation,) = cited_unloaded(loadless, [context], [raw], None)

    assert citation.verified == (found_at is not None)
    assert found_at in {None, citation.start_line}


def test_a_quote_of_the_answer_is_found_in_one_of_many_files_without_loading_any(
    loadless: Store, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    for n in range(30):
        (tmp_path / "src" / f"{n:02}.txt").write_text(f"one\nthis file has the number {n} in it\n")
    context = loadless.register_source(str(tmp_path / "src"))
    found, invented = cited_unloaded(
        loadless, [context], [], 'It says "this file has the number 17 in it", and "this file has no number at all".'
    )

    assert (found.verified, found.path, found.start_line, found.end_line) == (True, "17.txt", 2, 2)
    assert not invented.verified


def test_when_the_time_for_quotes_is_over_they_stay_unverified_and_exact_places_still_count(
    store: Store, log: Context
) -> None:
    there = RawCitation(context="pump.log", path="", start_line=11, end_line=11, quote="step 10 of the pump")
    elsewhere = RawCitation(context="", path="", start_line=0, end_line=0, quote="step 10 of the pump")
    found = collect_citations(store, [log], [there, elsewhere], 'It says "INFO step 12 of the pump".', seconds=0)

    assert [(one.quote, one.verified) for one in found] == [
        ("step 10 of the pump", True),
        ("step 10 of the pump", False),
        ("INFO step 12 of the pump", False),
    ]


# --- lines


def test_only_a_line_feed_ends_a_line(store: Store) -> None:
    context = store.register_text("a\x0cb\u2028c\r\nsecond\x85line\r\nthird", name="odd")
    raw = [RawCitation(context="odd", path="", start_line=n, end_line=n) for n in (1, 2, 3, 4)]

    assert [(one.quote, one.verified) for one in collect_citations(store, [context], raw, None)] == [
        ("a\x0cb\u2028c", True),
        ("second\x85line", True),
        ("third", True),
        ("", False),
    ]
    reading = Reading()
    reading.add_model_text("second\x85line")
    assert reading.coverage(store, [context]).read_by_model == len("second\x85line\r\n")


@pytest.mark.parametrize("load_chars", [1_000_000, 0])
@pytest.mark.parametrize("quote", ["ERROR the pump", "\x1b[31mERROR\x1b[0m the pump", None])
def test_a_quote_of_a_coloured_log_is_verified_with_and_without_its_colours(
    store: Store, load_chars: int, quote: str | None
) -> None:
    log = store.register_text("INFO fine\n10:30 \x1b[31mERROR\x1b[0m the \x1b[1mpump\x1b[0m\n", name="pump.log")
    raw = RawCitation(context="pump.log", path="", start_line=2, end_line=2, quote=quote)
    (citation,) = collect_citations(store, [log], [raw], None, load_chars=load_chars)
    assert (citation.verified, citation.start_line) == (True, 2)
    assert citation.quote == ("10:30 ERROR the pump" if quote is None else "ERROR the pump")


@pytest.mark.parametrize("load_chars", [1_000_000, 0])
def test_a_quote_in_an_answer_about_a_coloured_log_is_found(store: Store, load_chars: int) -> None:
    log = store.register_text(
        "INFO fine\n10:30 \x1b[31mERROR\x1b[0m the \x1b[1mpump\x1b[0m has stopped\n", name="p.log"
    )
    (citation,) = collect_citations(
        store, [log], [], 'It says "10:30 ERROR the pump has stopped".', load_chars=load_chars
    )
    assert (citation.verified, citation.start_line) == (True, 2)

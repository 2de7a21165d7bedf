from pathlib import Path

import pytest

from rlm_mcp.contexts.search import MAX_LINE_CHARS, MatchedLine, search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import OutOfRange, SearchRefused, UnknownPath

TEXT = "alpha 1\r\nbeta 22\nalpha 333\n\ngamma (x)\nAlpha 4444"


@pytest.fixture
def text(store: Store) -> Context:
    return store.register_text(TEXT, name="t")


@pytest.fixture
def tree(store: Store, files: Path) -> Context:
    for path, content in {
        "a.py": "x = 1\n",
        "src/b.py": "x = 2\nx = 3\n",
        "src/c.txt": "x = 4\n",
        "same.py": "x = 1\n",
    }.items():
        (files / path).parent.mkdir(exist_ok=True)
        (files / path).write_text(content)
    return store.register_source(str(files), name="tree")


def hits(store: Store, context: Context, pattern: str, **options: object) -> list[int]:
    return [match.line for match in search(store, context, pattern, **options).matches]  # type: ignore[arg-type]  # keywords of each test


def test_matching_lines_come_with_number_and_text(store: Store, text: Context) -> None:
    result = search(store, text, r"^alpha \d+$")
    assert result.matches == (MatchedLine(path="text.txt", line=3, text="alpha 333"),)
    assert (result.total, result.truncated) == (1, False)


def test_a_carriage_return_is_not_shown_but_is_in_the_line(store: Store, text: Context) -> None:
    assert search(store, text, r"1\r$").matches == (MatchedLine(path="text.txt", line=1, text="alpha 1"),)


def test_a_line_that_begins_with_a_nul_is_shown_with_it(store: Store) -> None:
    context = store.register_text("\0torn write\n")
    assert search(store, context, "write").matches == (MatchedLine(path="text.txt", line=1, text="\0torn write"),)


def test_case_and_literal_are_chosen(store: Store, text: Context) -> None:
    assert hits(store, text, "ALPHA", ignore_case=True) == [1, 3, 6]
    assert hits(store, text, "(x)", literal=True) == [5]
    assert hits(store, text, "-e", literal=True) == []


@pytest.mark.parametrize(
    ("pattern", "lines"),
    [("^$", [4]), ("z*", [1, 2, 3, 4, 5, 6]), ("(?x) alpha \\s 3", [3]), ("(?i)^ALPHA", [1, 3, 6])],
)
def test_empty_matches_and_inline_flags_are_found_once_a_line(
    store: Store, text: Context, pattern: str, lines: list[int]
) -> None:
    assert hits(store, text, pattern) == lines


def test_what_is_cut_is_counted(store: Store, text: Context) -> None:
    result = search(store, text, "a", max_matches=2)
    assert ([match.line for match in result.matches], result.total, result.truncated) == ([1, 2], 5, True)
    assert search(store, text, "a", max_matches=0).total == 5


def test_lines_around_a_match_are_shown_once_and_marked(store: Store, text: Context) -> None:
    result = search(store, text, "^alpha", context_lines=1)
    assert [(match.line, match.text, match.is_match) for match in result.matches] == [
        (1, "alpha 1", True),
        (2, "beta 22", False),
        (3, "alpha 333", True),
        (4, "", False),
    ]


def test_files_are_searched_in_order_of_path_and_equal_ones_each(store: Store, tree: Context) -> None:
    result = search(store, tree, r"x = \d")
    assert [(match.path, match.line) for match in result.matches] == [
        ("a.py", 1),
        ("same.py", 1),
        ("src/b.py", 1),
        ("src/b.py", 2),
        ("src/c.txt", 1),
    ]
    assert result.total == 5


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("src/b.py", ["src/b.py"]),
        ("*.py", ["a.py", "same.py", "src/b.py"]),
        ("src/*", ["src/b.py", "src/c.txt"]),
        ("src/**/*.py", ["src/b.py"]),
    ],
)
def test_a_path_or_a_glob_chooses_files(store: Store, tree: Context, path: str, found: list[str]) -> None:
    assert sorted({match.path for match in search(store, tree, "x", path=path).matches}) == found


def test_a_path_that_fits_nothing_is_refused(store: Store, tree: Context) -> None:
    with pytest.raises(UnknownPath, match=r"no file of tree matches '\*.java'"):
        search(store, tree, "x", path="*.java")
    with pytest.raises(UnknownPath, match=r"has no file 'b.pyx'"):
        search(store, tree, "x", path="b.pyx")
    with pytest.raises(UnknownPath, match=r"is not a glob \(it has .* characters and may have 4,096\)"):
        search(store, tree, "x", path="*a" * 500_000)


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (r"(?<=id=)\d+", "look-behind, .*cut it off in code"),
        (r"a(?!b)", "look-ahead, .*filter the matches in code"),
        (r"(a)\1", "back-reference"),
        ("(?>a)", "atomic group"),
        (r"end\Z", r"write `\$`"),
        (r"a\nb", "asks for a line end: search works line by line"),
        ("a\nb", "holds a line end or a NUL"),
        ("a\0b", "holds a line end or a NUL"),
        ("(a", r"is not a regular expression \(unclosed group\)"),
        ("", "the pattern is empty"),
        ("a{1000}{1000}{1000}", "becomes too large"),
        ("x" * 10_001, "at most 10,000"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_a_pattern_that_cannot_be_searched_for_is_refused_with_what_to_write(
    store: Store, text: Context, pattern: str, instead: str
) -> None:
    with pytest.raises(SearchRefused, match=instead):
        search(store, text, pattern)


def test_a_catastrophic_pattern_is_just_a_pattern(store: Store) -> None:
    context = store.register_text("a" * 200_000 + "b")
    assert search(store, context, r"^(a+)+$").total == 0


def test_a_deadline_gives_what_was_found_and_says_so(store: Store, text: Context) -> None:
    assert search(store, text, "a", seconds=0).truncated


def test_a_huge_line_is_shown_around_its_match(store: Store) -> None:
    context = store.register_text("é" * 3_000_000 + "needle" + "x" * 3_000_000 + "\nnext needle\n")
    huge, short = search(store, context, "needle").matches
    assert huge.text.startswith("…éé")
    assert huge.text.endswith("xx…")
    assert "éneedlex" in huge.text
    assert len(huge.text) == MAX_LINE_CHARS + 2
    assert (short.line, short.text) == (2, "next needle")


def test_numbers_out_of_range_are_refused(store: Store, text: Context) -> None:
    for matches, around in ((-1, 0), (0, -1), (1_000_000, 0)):
        with pytest.raises(OutOfRange, match=r"give a number from 0 to 10,000"):
            search(store, text, "a", max_matches=matches, context_lines=around)


def test_a_line_ends_where_the_index_says_and_nowhere_else(store: Store) -> None:
    text = "a\rb ERROR\r\nc\x0cd\x0b ERROR\nERROR\u2028e\x85f ERROR\n"
    context = store.register_text(text)
    found = search(store, context, r" ERROR\r?$")
    assert [(match.line, match.text) for match in found.matches] == [
        (1, "a\rb ERROR"),
        (2, "c\x0cd\x0b ERROR"),
        (3, "ERROR\u2028e\x85f ERROR"),
    ]
    assert (found.total, context.lines) == (3, 3)


COLOURED = "2026-01-02T03:04:0{n}Z \x1b[{code}m{level}\x1b[0m svc: \x1b[1mmessage {n}\x1b[0m\n"


def test_a_search_sees_a_coloured_log_as_a_terminal_shows_it(store: Store, files: Path) -> None:
    lines = [COLOURED.format(n=n, code=31 if n % 3 else 32, level="INFO" if n % 3 else "ERROR") for n in range(9)]
    (files / "a.log").write_text("".join(lines))
    (files / "b.log").write_text("plain ERROR\n")
    context = store.register_source(str(files))
    found = search(store, context, r"\bERROR\b svc", context_lines=1)
    assert [(match.path, match.line) for match in found.matches if match.is_match] == [
        ("a.log", 1),
        ("a.log", 4),
        ("a.log", 7),
    ]
    assert found.matches[1].text == "2026-01-02T03:04:01Z INFO svc: message 1"
    assert [search(store, context, r"\bERROR\b").total for _ in range(2)] == [4, 4]
    assert store.text(context, "a.log") == "".join(lines)

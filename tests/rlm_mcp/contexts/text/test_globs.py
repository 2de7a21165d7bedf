import pytest

from rlm_mcp.contexts.text.globs import depth_of, glob_regex, is_glob


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("*.log", ["a.log", ".log", "é b.log"], ["a.log.1", "d/a.log"]),
        ("d/*.log", ["d/a.log"], ["a.log", "d/e/a.log"]),
        ("**/*.log", ["a.log", "d/a.log", "d/e/a.log"], ["a.txt"]),
        ("d/**/e/?", ["d/e/x", "d/a/b/e/x"], ["d/x", "d/e/xy"]),
        ("d/**", ["d/a", "d/e/a"], ["a"]),
        ("[a-c]?[!0-9].[t^]xt", ["axy.txt", "b...^xt"], ["dxy.txt", "ax1.txt", "a/y.txt"]),
        ("a[b", ["a[b"], ["ab"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
        ("[]]x", ["]x"], ["x"]),
    ],
)
def test_a_glob_fits_whole_paths(pattern: str, fits: list[str], does_not: list[str]) -> None:
    matches = glob_regex(pattern).fullmatch
    assert [path for path in fits if not matches(path)] == []
    assert [path for path in does_not if matches(path)] == []


def test_wildcards_and_depth_are_told() -> None:
    assert [is_glob(text) for text in ("a/b", "a*", "a?", "[x]")] == [False, True, True, True]
    assert [depth_of(pattern) for pattern in ("*", "a/*", "**/a", "a/**")] == [0, 1, None, None]

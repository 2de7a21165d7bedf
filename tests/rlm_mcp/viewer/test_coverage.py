"""Strips and tables of what was read."""

from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.viewer.coverage import MOST_BINS, FileSize, coverage_data

TEXT = {"context_id": "c1", "name": "log", "kind": "text", "chars": 1_000, "files": 1}


def coverage(**ranges: dict[str, list[list[int]]]) -> dict[str, object]:
    return {"total_chars": 1_000, "read_by_code": 1, "read_by_model": 1, "ranges": ranges}


def test_each_stretch_has_the_percent_that_was_read_of_it() -> None:
    files = {"c1": [FileSize(path="a", chars=3_000), FileSize(path="b", chars=1_000)]}
    told = coverage_data(
        coverage(code={"c1/b": [[0, 1_000]]}, model={"c1/a": [[0, 2], [3_000 - 4, 3_000]]}), [TEXT], files, {}
    )
    strip = told["strips"][0]
    assert strip["chars"] == 4_000
    assert strip["code"] == [0] * 750 + [100] * 250
    assert (strip["model"][0], sum(strip["model"][1:749]), strip["model"][749]) == (50, 0, 100)
    assert [strip["paths"][owner] for owner in (strip["owners"][0], strip["owners"][-1])] == ["a", "b"]


def test_files_are_listed_by_how_much_models_read_of_them() -> None:
    files = {"c1": [FileSize(path="a", chars=10), FileSize(path="b", chars=10)]}
    told = coverage_data(coverage(code={"c1/a": [[0, 10]]}, model={"c1/b": [[0, 5]]}), [TEXT], files, {})
    assert told["files"] == [
        {"context": "log", "path": "b", "chars": 10, "code": 0, "model": 5},
        {"context": "log", "path": "a", "chars": 10, "code": 10, "model": 0},
    ]


def test_a_citation_is_marked_where_it_stands_among_all_files() -> None:
    files = {"c1": [FileSize(path="a", chars=300), FileSize(path="b", chars=100)]}
    told = coverage_data(coverage(code={}), [TEXT], files, {2: ("c1", "b", 50)})
    assert told["strips"][0]["marks"] == [{"citation": 2, "at": 0.875}]


def test_a_context_that_is_no_longer_stored_is_drawn_from_its_ranges() -> None:
    told = coverage_data(coverage(code={"c1/log": [[0, 500]]}), [TEXT], {}, {})
    assert told["strips"][0]["chars"] == 1_000
    assert told["strips"][0]["code"] == [100] * 500 + [0] * 500


def test_ranges_that_are_none_are_left_out() -> None:
    odd = {"total_chars": "x", "ranges": {"code": {"c1/log": [[5, 2], "ab", [None, 1], [0, 1]]}, "model": 7}}
    told = coverage_data(odd, [TEXT], {}, {})
    assert (told["total"], sum(told["strips"][0]["code"]), sum(told["strips"][0]["model"])) == (0, 100, 0)


@given(
    sizes=st.lists(st.integers(0, 900), min_size=1, max_size=4),
    spans=st.lists(st.tuples(st.integers(0, 600), st.integers(1, 300)), max_size=8),
)
def test_every_bin_shows_the_share_of_its_own_characters(sizes: list[int], spans: list[tuple[int, int]]) -> None:
    ranges: list[list[int]] = []  # sorted and disjoint, as a record has them
    at = 0
    for gap, length in spans:
        ranges.append([at + gap, at + gap + length])
        at += gap + length
    files = [FileSize(path=f"f{index}", chars=chars) for index, chars in enumerate(sizes)]
    told = coverage_data(coverage(code={"c1/f0": ranges}), [TEXT], {"c1": files}, {})["strips"][0]
    read = [char < sizes[0] and any(start <= char < end for start, end in ranges) for char in range(sum(sizes))]
    bins = max(1, min(MOST_BINS, len(read)))
    shares: list[list[bool]] = [[] for _ in range(bins)]
    for char, is_read in enumerate(read):
        shares[char * bins // len(read)].append(is_read)
    assert told["code"] == [max(min(sum(bin_), 1), round(100 * sum(bin_) / max(len(bin_), 1))) for bin_ in shares]

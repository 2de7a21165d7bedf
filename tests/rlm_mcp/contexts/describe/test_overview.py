import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rlm_mcp.contexts.describe.overview import HEAD_CHARS, TAIL_CHARS, LargeFile, describe
from rlm_mcp.contexts.store.store import Store

HADOOP = "2015-10-18 18:01:4{n},978 {level} [main] org.apache.Some$Thing: Task attempt_14{n} is done in {n}.5 s\n"
HDFS = "081109 20361{n} 148 {level} dfs.DataNode$PacketResponder: PacketResponder {n} terminating\n"
APACHE = "[Sun Dec 04 04:47:4{n} 2005] [notice] workerEnv.init() ok /etc/httpd/conf/workers{n}.properties\n"
COMMON = '10.0.0.{n} - frank [10/Oct/2000:13:55:3{n} -0700] "GET /a HTTP/1.0" 200 {n}326\n'
SYSLOG = "Jun 14 15:16:0{n} combo sshd(pam_unix)[193{n}]: authentication failure; uid={n}\n"
ZOOKEEPER = (
    "2015-07-29 17:41:4{n},747 - {level}  [QuorumPeer[myid=1]/0:0:0:0:0:0:0:0:2181:FastLeaderElection@774] - Out: {n}\n"
)


def structure(store: Store, text: str, path: Path) -> dict[str, object]:
    path.write_text(text)
    return dict(describe(store, store.register_source(str(path))).structure)


def log(line: str) -> str:
    return "".join(line.format(n=n, level="ERROR" if n == 3 else "INFO") for n in range(10)) * 3


@pytest.mark.parametrize(
    ("line", "name", "fields"),
    [
        (HADOOP, "ISO 8601", ["time", "level", "thread", "component", "message"]),
        (HDFS, "yymmdd hhmmss", ["time", "pid", "level", "component", "message"]),
        (APACHE, "ctime", ["time", "level", "message"]),
        (COMMON, "common log", ["client", "user", "time", "request", "status", "size", "rest"]),
        (SYSLOG, "syslog", ["time", "host", "process", "pid", "message"]),
        (ZOOKEEPER, "ISO 8601", ["time", "level", "thread", "message"]),
    ],
)
def test_a_log_is_described_with_an_expression_that_parses_it(
    store: Store, files: Path, line: str, name: str, fields: list[str]
) -> None:
    described = structure(store, log(line), files / "app.log")
    assert (described["format"], described["time_format"], described["lines_with_time"]) == ("log", name, 1.0)
    assert list(described["example"]) == fields  # type: ignore[call-overload]  # a dict, as JSON values go
    assert described["line_regex_fits"] == "30 of 30 sampled lines with a time stamp"
    if "{level}" in line:
        assert described["levels"] == {"INFO": 27, "ERROR": 3}


def test_first_and_last_time_and_repeated_lines_of_a_log(store: Store, files: Path) -> None:
    described = structure(store, log(HADOOP), files / "app.log")
    assert (described["first_time"], described["last_time"]) == ("2015-10-18 18:01:40,978", "2015-10-18 18:01:49,978")
    assert described["repeated_lines"] == [
        {"template": "<time> INFO [main] org.apache.Some$Thing: Task attempt_<n> is done in <n>.<n> s", "share": 0.9},
        {"template": "<time> ERROR [main] org.apache.Some$Thing: Task attempt_<n> is done in <n>.<n> s", "share": 0.1},
    ]


def test_rows_of_a_table_are_records_and_not_lines(store: Store, files: Path) -> None:
    rows = [f'{n},"first {n}\nsecond\n\nlast",{2 * n}' if n % 10 == 0 else f"{n},plain {n},{2 * n}" for n in range(300)]
    described = structure(store, "id,comment,amount\n" + "\n".join(rows) + "\n\n", files / "quoted.csv")
    assert (described["format"], described["rows"]) == ("csv", 300)
    assert described["parsed"] == "301 of 301 sampled rows have 3 fields"


def test_a_table_whose_sample_ends_inside_a_field_is_still_one(store: Store, files: Path) -> None:
    rows = "".join(f'{n},"first\nsecond\nthird",{2 * n}\n' for n in range(12_000))
    described = structure(store, "id,comment,amount\n" + rows, files / "quoted.csv")
    assert (described["format"], described["rows"]) == ("csv", 12_000)


def test_a_table_is_described_by_its_columns(store: Store, files: Path) -> None:
    text = "id,when,score,label\n" + "".join(f'{n},2024-01-{n + 10},{n}.5,"{"ab"[n % 2]}, x"\n' for n in range(12))
    described = structure(store, text, files / "t.csv")
    assert (described["format"], described["header"], described["rows"]) == ("csv", True, 12)
    assert described["columns"] == [
        {"name": "id", "type": "integer", "samples": ["0", "1", "2"]},
        {"name": "when", "type": "date", "samples": ["2024-01-10", "2024-01-11", "2024-01-12"]},
        {"name": "score", "type": "number", "samples": ["0.5", "1.5", "2.5"]},
        {"name": "label", "type": "text", "values": ["a, x", "b, x"]},
    ]


@pytest.mark.parametrize(
    "line",
    [
        "10:0{n} worker {n} finished job 1{n}, took {n}0 ms",
        "2024-03-0{n} | user {n} | What is {n} ?",
        "the {w} disk has failed today, so the {w} job was tried again",
        "{w} {w} {w}, {n} of the things that we know",
        "{w} failed, retrying",
        "{w} logged in, session opened",
        "INFO; {w}; started",
        "{w} service | INFO | {w} restarted",
        "INFO\t{w}\tstarted",
    ],
)
def test_lines_with_one_comma_each_are_no_table_whose_first_line_is_a_header(
    store: Store, files: Path, line: str
) -> None:
    words = ["red", "blue", "green", "white", "black", "brown", "grey", "pink", "teal"]
    text = "".join(line.format(n=n, w=words[n]) + "\n" for n in range(9))
    assert "columns" not in structure(store, text, files / "a.log")
    assert "columns" not in structure(store, text, files / "a.txt")


def test_a_header_that_is_there_twice_is_still_one(store: Store, files: Path) -> None:
    part = "city,crates\n" + "".join(f"Bern {n},{n}\n" for n in range(9))
    described = structure(store, part + part, files / "joined.csv")
    assert [column["name"] for column in described["columns"]] == ["city", "crates"]  # type: ignore[attr-defined] # any


@pytest.mark.parametrize("head", ["id,city of birth,Q1", "name;number of crates;date sent", "first name|last name|id"])
def test_a_table_without_the_suffix_of_one_is_still_recognised(store: Store, files: Path, head: str) -> None:
    rows = "".join(f"anna{n},born in Bern {n},{n}\n" for n in range(9))
    delimiter = next(mark for mark in ",;|" if mark in head)
    described = structure(store, f"{head}\n" + rows.replace(",", delimiter), files / "t.txt")
    assert [column["name"] for column in described["columns"]] == head.split(delimiter)  # type: ignore[attr-defined] # any


def test_json_is_described_by_its_shape(store: Store, files: Path) -> None:
    value = {"version": 1, "items": [{"id": n, "tags": ["x"], "note": None if n else "y"} for n in range(9)]}
    described = structure(store, json.dumps(value), files / "a.json")
    assert (described["format"], described["records"]) == ("json", 9)
    assert described["shape"] == {
        "version": "integer",
        "items": ["9 items", {"id": "integer", "tags": ["1 items", "text"], "note": "text"}],
    }


def test_an_object_keyed_by_names_is_described_by_its_first_value(store: Store, files: Path) -> None:
    value = {f"u{n}": {"role": "admin", "age": n} for n in range(9)}
    described = structure(store, json.dumps(value), files / "b.json")
    assert described["shape"] == {"u0": {"role": "text", "age": "integer"}, "…": "8 more keys"}


def test_json_lines_are_described_by_their_columns(store: Store, files: Path) -> None:
    described = structure(store, "".join(f'{{"id": {n}, "t": "x{n}"}}\n' for n in range(9)), files / "a.jsonl")
    assert (described["format"], described["parsed"]) == ("json lines", "9 of 9 sampled lines")
    assert [column["name"] for column in described["columns"]] == ["id", "t"]  # type: ignore[attr-defined]  # JSON values


@pytest.mark.parametrize("text", ['{"a": 1,\n"b": }\n', "[1, 2\n", "{not json at all}\n" * 5, "a,b\nc\nd,e,f\n" * 5])
def test_a_format_that_does_not_parse_is_not_named(store: Store, files: Path, text: str) -> None:
    assert structure(store, text, files / "a.txt")["format"] == "text"


def test_headings_of_a_document_come_with_their_lines(store: Store, files: Path) -> None:
    text = "# Title\n\ntext\n\n```\n# not a heading\n```\n\n## Part\n\nmore\n\nUnder\n=====\n"
    described = structure(store, text, files / "a.md")
    assert described["headings"] == [
        {"line": 1, "level": 1, "text": "Title"},
        {"line": 9, "level": 2, "text": "Part"},
        {"line": 13, "level": 1, "text": "Under"},
    ]


def test_labelled_lines_are_recognised(store: Store, files: Path) -> None:
    text = "".join(
        f"{label} question number {word} ?\n"
        for word in ("one", "two", "three") * 10
        for label in ("LOC:city", "NUM:count")
    )
    assert structure(store, text, files / "a.txt")["first_words"] == {
        "distinct": 2,
        "most_frequent": ["LOC:city", "NUM:count"],
    }


def test_a_directory_is_described_by_types_tree_and_its_largest_files(store: Store, files: Path) -> None:
    (files / "src").mkdir()
    (files / "README.md").write_text("# Hello\n\n## World\n")
    (files / "src" / "a.py").write_text("x = 1\n" * 10)
    (files / "src" / "app.log").write_text(log(HADOOP))
    (files / ".env").write_text("K=1")
    overview = describe(store, store.register_source(str(files)))
    size = (files / "src" / "app.log").stat().st_size
    assert overview.structure["file_types"] == [
        {"type": "log", "files": 1, "bytes": size, "lines": 30},
        {"type": "Python", "files": 1, "bytes": 60, "lines": 10},
        {"type": "Markdown", "files": 1, "bytes": 18, "lines": 3},
    ]
    assert overview.structure["tree"] == [
        "README.md (18 bytes)",
        f"src/ (2 files, {size + 60:,} bytes)",
        "src/a.py (60 bytes)",
        f"src/app.log ({size:,} bytes)",
    ]
    assert overview.structure["looked_into"]["README.md"] == {"format": "text", "headings": ["Hello", "World"]}  # type: ignore[index]  # JSON values
    assert overview.structure["skipped"] == {
        "count": 1,
        "some": [".env: secret: its name says that it holds credentials"],
    }
    assert overview.largest_files[0] == LargeFile(path="src/app.log", bytes=size, lines=30)
    assert overview.head == "==> README.md <==\n# Hello\n\n## World\n"
    assert overview.tail == ""


def test_head_and_tail_are_verbatim(store: Store) -> None:
    text = "".join(f"line {n} é\n" for n in range(1_000))
    overview = describe(store, store.register_text(text))
    assert overview.head == text[:HEAD_CHARS]
    assert text.endswith(overview.tail)
    assert overview.tail.startswith("line ")
    assert len(overview.tail) <= TAIL_CHARS


def test_a_large_text_is_sampled_and_says_so(store: Store, files: Path) -> None:
    (files / "big.log").write_text(log(HADOOP) * 3_000)
    described = describe(store, store.register_source(str(files / "big.log"))).structure
    assert described["levels"] == {"INFO": "90.02% of sampled", "ERROR": "9.98% of sampled"}
    assert str(described["sampled"]).endswith("from the beginning, the end and places in between")


@pytest.mark.parametrize(
    "text",
    [
        "x" * 8_000_000,
        "\n" * 8_000_000,
        "\0" * 10 + "text " * 2_000_000,
        "{" * 100_000,
        "[" * 100_000,
        "a,b\n" * 500_000,
        '"' + "x\n" * 500_000,
        "2015-10-18 18:01:40 " * 300_000,
    ],
)
def test_any_text_is_described_in_bounded_size(store: Store, text: str) -> None:
    overview = describe(store, store.register_text(text))
    assert len(json.dumps(asdict(overview), default=str)) < 24_000


def test_a_coloured_log_is_described_as_a_terminal_shows_it(store: Store, files: Path) -> None:
    lines = [
        f"2026-01-02T03:04:{n:02}Z \x1b[31m{'INFO' if n % 5 else 'ERROR'}\x1b[0m svc: message {n}\n" for n in range(50)
    ]
    described = structure(store, "".join(lines), files / "app.log")
    assert (described["format"], described["levels"]) == ("log", {"INFO": 40, "ERROR": 10})
    assert "terminal colour codes" in str(described["colours"])

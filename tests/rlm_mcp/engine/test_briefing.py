"""Briefs: what the root model is told about its contexts before its first turn."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.engine.briefing import brief_contexts, brief_of_value, is_prose, places_of, window
from rlm_mcp.engine.prompts import WordPlace, opening
from rlm_mcp.engine.question_words import words_of

LOG = [f"2026-11-22 10:00:{n % 60:02} INFO worker-{n % 4} did thing {n}" for n in range(500)]


def test_a_log_is_told_by_its_size_its_format_and_four_real_lines(store: Store) -> None:
    log = store.register_text("\n".join(LOG), name="app.log")
    (brief,) = brief_contexts(store, [log], "How many lines are there?")

    assert (brief.name, brief.kind, brief.lines, brief.format) == ("app.log", "text", 500, "log")
    assert brief.samples == (LOG[0], LOG[1], LOG[249], LOG[499])
    assert brief.hits == ()


def test_lines_with_rare_words_of_the_question_are_shown(store: Store) -> None:
    lines = [*LOG[:300], "NOTE: the access code of project Zephyr is trunk-275.", *LOG[300:]]
    log = store.register_text("\n".join(lines), name="app.log")
    (brief,) = brief_contexts(store, [log], "What is the access code of project zephyr?")

    assert brief.hits == ("NOTE: the access code of project Zephyr is trunk-275.",)


def test_a_line_that_stands_in_several_places_is_shown_once(store: Store) -> None:
    twice, once = "NOTE: the access code of project Zephyr is trunk-275.", "ask Zephyr for it, please"
    lines = [*LOG[:100], twice, *LOG[100:200], twice, *LOG[200:300], once, *LOG[300:]]
    log = store.register_text("\n".join(lines), name="app.log")

    assert brief_contexts(store, [log], "What is the access code of project zephyr?")[0].hits == (twice,)
    assert brief_contexts(store, [log], "What about Zephyr?")[0].hits == (twice, once)


def test_the_names_of_columns_are_no_lines_that_a_question_finds(store: Store) -> None:
    rows = [f"s{n % 9},2026-01-{n % 28 + 1:02},{n / 7:.1f}" for n in range(200)]
    table = store.register_text(
        "\n".join(["sensor,day,temperature", *rows[:150], "attic-9,2026-02-01,3.5", *rows[150:]]), name="readings"
    )

    assert brief_contexts(store, [table], "Which sensor has the highest mean temperature?")[0].hits == ()
    assert brief_contexts(store, [table], "How cold was attic-9?")[0].hits == ("attic-9,2026-02-01,3.5",)


def test_a_large_text_in_a_bucket_is_not_searched_before_it_was_read(store: Store) -> None:
    lines = [*LOG[:-1], "NOTE: the access code of project Zephyr is trunk-275.", LOG[-1]]
    log = replace(store.register_text("\n".join(lines), name="app.log"), exact=False, bytes=1 << 30)

    (here,) = brief_contexts(store, [replace(log, source="/logs/app.log")], "What is the code of Zephyr?")
    assert len(here.hits) == 1
    (there,) = brief_contexts(store, [replace(log, source="s3://logs/app.log")], "What is the code of Zephyr?")
    assert there.hits == ()


def test_a_word_that_stands_everywhere_finds_nothing(store: Store) -> None:
    log = store.register_text("\n".join(LOG), name="app.log")

    assert brief_contexts(store, [log], "What did the worker do?")[0].hits == ()


def test_a_format_comes_with_the_way_to_read_it(store: Store) -> None:
    rows = "\n".join(json.dumps({"id": n, "status": "open" if n % 2 else "closed"}) for n in range(50))
    data = store.register_text(rows, name="rows")
    (brief,) = brief_contexts(store, [data], "How many are open?")

    assert brief.format.startswith("json lines; every line is one JSON value: json.loads(line)")
    assert "status text (closed, open)" in brief.format


@pytest.mark.parametrize(("delimiter", "given"), [(",", ""), ("\t", ", delimiter='\\t'")])
def test_a_weak_model_is_told_the_code_that_reads_a_table_and_its_first_row(
    store: Store, delimiter: str, given: str
) -> None:
    rows = [["city", "crates"], *[["Bern", str(n)] for n in range(9)]]
    table = store.register_text("\n".join(map(delimiter.join, rows)), name="table")
    found = brief_contexts(store, [table], "How many crates are there?")

    assert found[0].reading == (
        f'rows = list(csv.DictReader(open("context", newline=""){given}))\n'
        "# rows[0] is {'city': 'Bern', 'crates': '0'}"
    )
    assert found[0].reading in opening("How many crates?", found, None, "weak")
    assert found[0].reading not in opening("How many crates?", found, None, "strong")


@pytest.mark.parametrize(("suffix", "delimiter", "given"), [(".csv", ",", ""), (".tsv", "\t", ', delimiter="\\t"')])
def test_no_model_is_told_to_take_the_first_row_of_a_table_without_a_header_for_its_header(
    store: Store, tmp_path: Path, suffix: str, delimiter: str, given: str
) -> None:
    file = tmp_path / f"messages{suffix}"
    file.write_text("".join(f"m{n}{delimiter}2026-01-0{n}{delimiter}The card is gone.\n" for n in range(1, 9)))
    table = store.register_source(str(file), name="messages")
    (brief,) = brief_contexts(store, [table], "How many cards?", ["pandas"])

    assert f'csv.reader(open("context", newline=""){given}) reads it' in brief.format
    assert "it has no header" in brief.format
    assert ", header=None) gives a DataFrame" in brief.format
    assert "DictReader" not in brief.format + brief.reading
    assert brief.reading.endswith("# rows[0] is ['m1', '2026-01-01', 'The card is gone.']")


@pytest.mark.parametrize(("delimiter", "given"), [(",", ""), ("\t", r", sep='\t'")])
def test_with_pandas_a_table_is_offered_as_a_data_frame(store: Store, delimiter: str, given: str) -> None:
    rows = [["city", "crates"], *[["Bern", str(n)] for n in range(9)]]
    table = store.register_text("\n".join(map(delimiter.join, rows)), name="table")
    (file,) = store.files(table)
    (brief,) = brief_contexts(store, [table], "How many?", ["numpy", "pandas"])
    assert f"pandas.read_csv('/context/table/{file.path}'{given}) gives a DataFrame" in brief.format
    assert "pandas" not in brief_contexts(store, [table], "How many?")[0].format


def test_files_are_told_by_number_and_the_largest(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for n in range(12):
        (source / f"m{n}.py").write_text("x = 1\n" * (n + 1))
    (source / "deploy.py").write_text("GATEWAY = 'billing'\n")
    code = store.register_source(str(source), name="src")
    (brief,) = brief_contexts(store, [code], "Where is the GATEWAY?")

    assert (brief.kind, brief.files, len(brief.largest)) == ("files", 13, 8)
    assert brief.largest[0] == "m11.py (12 lines)"
    assert brief.hits == ("deploy.py:1: GATEWAY = 'billing'",)
    assert "`context` is a mapping from path to text: 13 files" in opening("Where?", [brief], None, "weak")


def test_the_context_of_a_child_is_told_by_its_value() -> None:
    text, items = brief_of_value("a\nb\n\nc"), brief_of_value(["p", "q"])
    mapping = brief_of_value({"a": "xx", "b": "y"})

    assert (text.kind, text.chars, text.samples) == ("text", 6, ("a", "b", "c"))
    assert (mapping.kind, mapping.files, mapping.largest[0]) == ("files", 2, "a (2 characters)")
    assert (items.kind, items.lines, items.samples) == ("list", 2, ("p", "q"))


def test_words_of_a_question_are_those_that_a_text_may_hold() -> None:
    assert words_of("How many lines have the level WARN in Foo.java?") == ["Foo.java", "WARN"]
    assert words_of("What is it?") == []


def test_of_a_long_line_the_stretch_that_holds_the_words_is_shown(store: Store) -> None:
    lines = ["It rained again and nobody came. " * 40 for _ in range(60)]
    lines[30] += "The cartographer Elva Brandt lived in Tarnby. " + lines[31]
    text = store.register_text("\n".join(lines), name="tale")
    (hit,) = brief_contexts(store, [text], "In which town did the cartographer Elva Brandt live?")[0].hits

    assert "The cartographer Elva Brandt lived in Tarnby. " in hit
    assert len(hit) == 220


def test_a_short_line_that_was_found_is_shown_with_what_is_below_it(store: Store) -> None:
    sections = [f"[{name}]\nhost = {name}.example\ntimeout = {n}\n" for n, name in enumerate("abcdefgh" * 9)]
    text = store.register_text(
        "\n".join([*sections, "[mail_out]\nhost = m.example\ntimeout = 77\n", sections[0]]), name="conf"
    )

    assert brief_contexts(store, [text], "What is the timeout in the section mail_out?")[0].hits == (
        "[mail_out]", "host = m.example", "timeout = 77",
    )  # fmt: skip


def test_json_is_told_by_how_it_is_built_and_how_it_begins(store: Store) -> None:
    value = {"orders": [{"id": n, "buyer": {"name": "x", "country": "SE"}} for n in range(9)]}
    text = store.register_text(json.dumps(value, indent=1), name="orders")
    (brief,) = brief_contexts(store, [text], "How many buyers are from SE?")

    assert brief.format == (
        "json; json.loads(context) reads it as"
        ' {"orders": [9 items like {"id": integer, "buyer": {"name": text, "country": text}}]}'
    )
    assert brief.samples[0].startswith('{ "orders": [ { "id": 0, "buyer": { "name": "x", "country": "SE" } }, {')
    assert brief.hits == ()


def test_lines_with_fields_are_told_with_what_split_makes_of_them(store: Store) -> None:
    log = store.register_text("\n".join(LOG), name="app.log")

    assert brief_contexts(store, [log], "How many?")[0].fields == (
        "2026-11-22", "10:00:00", "INFO", "worker-0", "did", "thing", "0",
    )  # fmt: skip


def test_records_of_several_lines_are_shown_from_the_first_one_on(store: Store) -> None:
    said = ["Where is it?", "yes, now", "(why?) I", "No: never", "a b!", "c; d", "g - h", "e! f!", "it's here", "ok."]
    mails = [f"From: c{n}@example.com\nSubject: help\n\n{said[n % 10]} {n}\n" for n in range(60)]
    (brief,) = brief_contexts(store, [store.register_text("\n".join(mails), name="mails")], "Who is late?")

    assert brief.shapes == ()
    assert brief.beginning[:5] == ("From: c0@example.com", "Subject: help", "", "Where is it? 0", "")
    assert "It begins with these lines:\n<output>\n'From: c0@example.com'\n'Subject: help'\n''\n" in opening(
        "Who?", [brief], None, "strong"
    )
    assert "It begins" not in opening("Who?", [brief], None, "weak")
    assert brief_contexts(store, [store.register_text("\n".join(LOG), name="log")], "Who?")[0].beginning == ()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["The room was cold and dark.", "We'd come back any time!"], True),
        (["T-123: My parcel did not come.", "2026-04-01: Rain all day, we played cards."], True),
        (LOG[:4], False),
        (['10.0.0.1 - - [12/May/2026:10:00:00] "GET / HTTP/1.1" 200 5 7ms'], False),
        (["def load_user(value, limit=3):", "    return table[value * 2]"], False),
        (["id,name,amount", "1,Ada,20"], False),
        ([], False),
    ],
)
def test_prose_is_told_from_lines_with_fields(lines: list[str], expected: bool) -> None:
    assert is_prose(lines) is expected


def test_the_window_of_a_line_without_the_words_is_its_beginning() -> None:
    assert window("abc " * 100, ["zebra"], 40) == "abc " * 10


def test_a_word_that_stands_by_itself_goes_before_one_inside_another(store: Store) -> None:
    lines = [f"build sigma-{n} has checksum {n * 7:04x}" for n in range(1, 30)]
    text = store.register_text("\n".join([*LOG[:60], *lines, *LOG[60:99]]), name="builds")

    assert brief_contexts(store, [text], "What came out of sigma-1?")[0].hits == (lines[0],)


def test_words_of_a_question_are_counted_by_the_field_that_they_stand_in() -> None:
    lines = ["10:01 [ERROR] disk", "10:02 [INFO] no ERROR", "10:03 [ERROR] net", "10:04 [INFO] Disk"]

    assert places_of(["ERROR", "disk", "absent"], lines) == (
        WordPlace(word="[ERROR]", index=1, lines=2, elsewhere=1),
        WordPlace(word="disk", index=2, lines=1),
    )
    assert places_of(["error"], lines) == (WordPlace(word="[ERROR]", index=1, lines=2, elsewhere=1),)

"""Published tasks: their files are read as their authors write them, and replies score as their papers say."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from benchmarks.published import (
    BadData,
    figures_of,
    main,
    pairs_in,
    read_questions,
    reader_of,
    score_browse_comp,
    score_code_qa,
    score_mrcr,
    score_niah,
    score_oolong,
    score_pairs,
)

CHAT = [
    {"role": "user", "content": "poem"},
    {"role": "assistant", "content": "roses"},
    {"role": "user", "content": "?"},
]
ROWS: dict[str, dict[str, Any]] = {
    "oolong": {"id": 1, "context_window_text": "a\nb", "question": "How many?", "answer": "[7]"}
    | {"answer_type": "ANSWER_TYPE.NUMERIC"},
    "mrcr": {"prompt": json.dumps(CHAT), "answer": "xYz1roses", "random_string_to_prepend": "xYz1"}
    | {"n_needles": 2, "desired_msg_index": 1, "total_messages": 3, "n_chars": 30},
    "s-niah": {"index": 0, "input": "noise. The number is 7.\nWhat is the number?", "outputs": ["7"], "length": 12},
    "codeqa": {"_id": "e", "domain": "Code Repository Understanding", "question": "Which?", "answer": "B"}
    | {"context": "def f(): ...", **{f"choice_{letter}": letter.lower() for letter in "ABCD"}},
}
RIGHT = {"oolong": "Answer: 7", "mrcr": "xYz1roses", "s-niah": "It is 7.", "codeqa": "**The correct answer is (B)**"}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("form", ["lines", "list"])
def test_a_row_becomes_a_question_whose_answer_is_not_in_it_and_scores_one(
    tmp_path: Path, name: str, form: str
) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(ROWS[name]) + "\n" if form == "lines" else json.dumps([ROWS[name]]))
    (question,) = read_questions(name, path)
    assert question.score(RIGHT[name]) == 1.0
    assert question.score("") == 0.0
    assert question.query.splitlines()[0] in {"How many?", "?", "What is the number?", "Which?"}
    assert question.context in {"a\nb", "user: poem\n\nassistant: roses", "noise. The number is 7.", "def f(): ..."}


def test_numbers_of_oolong_score_by_their_distance_and_dates_by_their_value() -> None:
    assert score_oolong("Answer: 5", "7", "ANSWER_TYPE.NUMERIC") == pytest.approx(0.75**2)
    assert score_oolong("Answer: many", "7", "ANSWER_TYPE.NUMERIC") == 0.0
    assert score_oolong("Date: May 3, 2024", date(2024, 5, 3), "ANSWER_TYPE.DATE") == 1.0
    said = "Answer: A is more common than B"
    assert score_oolong(said, "more common than", "ANSWER_TYPE.COMPARISON") == 1.0
    assert score_oolong("Label: **[entity]**", "entity", "ANSWER_TYPE.LABEL") == 1.0


def test_mrcr_needs_the_prefix_and_then_measures_likeness() -> None:
    assert score_mrcr("roses", "xYz1roses", "xYz1") == 0.0
    assert score_mrcr("xYz1rose", "xYz1roses", "xYz1") == pytest.approx(8 / 9)


def test_pairs_are_asked_about_the_context_of_their_length_and_score_by_f1(tmp_path: Path) -> None:
    windows = [
        {"dataset": name, "context_len": length, "context_window_text": f"{name} {length}", "answer": "[7]"}
        for name, length in (("spam", 32768), ("trec_coarse", 1024), ("trec_coarse", 32768))
    ]
    contexts = tmp_path / "synth.jsonl"
    contexts.write_text("".join(json.dumps(row) + "\n" for row in windows))
    data = tmp_path / "oolong-pairs-32768.json"
    row = {"id": "1", "question": "List all pairs.", "answer": ["(12, 45)", "(45, 99)"], "type": "list_of_answers"}
    data.write_text(json.dumps([row]))

    (question,) = read_questions("oolong-pairs", data, reader_of("oolong-pairs", data, contexts))
    assert (question.context, question.query) == ("trec_coarse 32768", "List all pairs.")
    assert question.score("(12, 45)\n(45, 99)") == 1.0
    assert question.score("[(45, 12), (1, 2)]") == 0.5
    assert question.score("") == 0.0
    assert pairs_in("after March 15, 2023: [1, 2]") == {(1, 2)}
    assert score_pairs("No pairs.", frozenset()) == 1.0
    with pytest.raises(BadData, match="needs --data oolong-pairs-LENGTH"):
        reader_of("oolong-pairs", data)
    other = tmp_path / "oolong-pairs-2048.json"
    with pytest.raises(BadData, match="no context of trec_coarse with the length 2048"):
        reader_of("oolong-pairs", other, contexts)


def test_documents_of_a_question_are_filled_up_from_the_corpus_and_a_judge_decides(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"docid": f"c{n}", "text": f"other {n}", "url": ""}) + "\n" for n in range(1200))
    )
    documents = {
        "gold_docs": [{"docid": "7", "text": "Bern.", "url": ""}],
        "evidence_docs": [{"docid": "7", "text": "Bern.", "url": ""}, {"docid": "8", "text": "Aare.", "url": ""}],
        "negative_docs": [{"docid": "9", "text": "Rhine.", "url": ""}],
    }
    data = tmp_path / "browsecomp_plus_decrypted.jsonl"
    data.write_text(json.dumps({"query_id": "3", "query": "Which city?", "answer": "Bern", **documents}) + "\n")
    asked: list[str] = []

    def judge(prompt: str) -> str:
        asked.append(prompt)
        return "**Yes**, it is."

    (question,) = read_questions("browsecomp-plus", data, reader_of("browsecomp-plus", data, corpus, judge))
    assert question.context.count("[docid ") == 1_000
    assert all(f"[docid {name}]" in question.context for name in ("7", "8", "9"))
    (again,) = read_questions("browsecomp-plus", data, reader_of("browsecomp-plus", data, corpus, judge))
    assert again.context == question.context
    assert question.score("I read it.\nExact Answer: **bern**") == 1.0
    assert asked == []
    assert question.score("Exact Answer: the capital of Switzerland") == 1.0
    assert "Expected answer: Bern" in asked[0]
    assert score_browse_comp("Which city?", "Exact Answer: Basel", "Bern", lambda _: "no") == 0.0
    assert score_browse_comp("Which city?", "", "Bern", judge) == 0.0
    (alone,) = read_questions("browsecomp-plus", data, reader_of("browsecomp-plus", data))
    assert alone.context.count("[docid ") == 3


def test_only_rows_with_the_wanted_values_are_asked(tmp_path: Path) -> None:
    rows = [{**ROWS["oolong"], "id": n, "dataset": name, "context_len": 131072} for n, name in enumerate("aba")]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows))
    only = {"dataset": "a", "context_len": "131072"}
    assert [question.name for question in read_questions("oolong", path, only=only)] == ["0", "2"]
    with pytest.raises(BadData, match="it lacks 'split'"):
        list(read_questions("oolong", path, only={"split": "a"}))


def test_needles_score_by_their_share_and_choices_by_their_letter() -> None:
    assert score_niah("seven: AB", ["ab", "cd"]) == 0.5
    assert score_code_qa("The correct answer is B", "B") == 1.0
    assert score_code_qa("B", "B") == 0.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("PAR1\x00", "neither JSON Lines nor a JSON list"),
        ('{"id": 1}\n', "row 1, is no row of oolong (it lacks 'answer_type')"),
        ("", "holds no questions"),
        ('["a"]', "row 1, is no row"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str) -> None:
    (tmp_path / "bad").write_text(text)
    assert main(["oolong", "--data", str(tmp_path / "bad"), "--json"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err
    with pytest.raises(BadData, match="cannot be read"):
        list(read_questions("oolong", tmp_path / "none"))


def test_figures_are_means_with_their_range() -> None:
    rows = [{"score": score, "tokens": 10, "seconds": 1.0, "cost_usd": None} for score in (0.0, 1.0)]
    figure, *others = figures_of("mrcr", rows)
    assert figure == {"name": "mrcr: score", "unit": "%", "value": 50.0, "low": 0.0, "high": 100.0, "n": 2} | {
        "better": "higher",
        "contender": "rlm-mcp",
    }
    assert len(others) == 2  # no dollars where no price is known

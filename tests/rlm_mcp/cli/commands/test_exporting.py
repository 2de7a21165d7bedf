"""`runs export`: records as they are, and the chats with models for training, exactly as they were sent."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.cli.main import main
from tests.peers.openai_server import OpenAIServer, Request

Run = Callable[..., tuple[int, str, str]]

KEY = "sk-proj-0123456789abcdef"
LOOK = f"```repl\nprint('a key: {KEY}')\nkinds = llm_query_batched(['Which kind? ' + context[:4000], 'Short?'])\n```"
CHILD = "```repl\nn = rlm_query('How many lines are there?', context[:2000])\n```"
OLD = Path(__file__).parents[3] / "data" / "records"


@pytest.fixture
def run(tmp_path: Path, sandbox_cache: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; its exit status, stdout and stderr."""

    def running(*arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, "--data-dir", str(tmp_path / "data"), "--cache-dir", str(sandbox_cache)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return running


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    def reply(request: Request) -> str:
        if "FINAL" not in request.text:
            return "a log"
        turn = sum(message["role"] == "assistant" for message in request.messages)
        turns = (LOOK, CHILD, "```repl\nFINAL({'kind': kinds[0], 'lines': n})\n```")
        return turns[min(turn, 2)]

    with OpenAIServer(reply).run_in_thread() as server:
        yield server


def solved(run: Run, endpoint: OpenAIServer, log_file: Path) -> str:
    """The id of a run with two sub-calls and a child run."""
    models = ("--base-url", endpoint.base_url, "--model", "scripted")
    prices = ("--prices", '{"scripted": [1, 2]}')
    status, out, error = run("solve", "Which kind?", str(log_file), "--mode", "rlm", "--json", *models, *prices)
    assert status == 0, error
    return str(json.loads(out)["run_id"])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def chat(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["role"], one["content"].replace(KEY, "[key]")) for one in messages]


def test_every_chat_is_what_the_server_was_sent_and_replied(
    run: Run, endpoint: OpenAIServer, log_file: Path, tmp_path: Path
) -> None:
    run_id = solved(run, endpoint, log_file)
    (tmp_path / "scores.jsonl").write_text(json.dumps({"run_id": run_id, "score": 0.5, "scorer": "by hand"}))
    scores = ("--scores", str(tmp_path / "scores.jsonl"))
    status, out, error = run("runs", "export", run_id, "--as", "messages", *scores)
    assert (status, error) == (0, "")
    examples = lines(out)

    assert sorted(one["kind"] for one in examples) == ["child", "root", "sub", "sub"]
    assert all(one["exact"] and one["cost_known"] and one["cost_usd"] > 0 for one in examples)
    sent = [chat(request.messages) for request in endpoint.requests]
    for example in examples:
        said = chat(example["messages"])
        assert said[:-1] in sent
        assert said[-1][0] == "assistant"
        assert (example["run_id"], example["score"], example["scorer"]) == (run_id, 0.5, "by hand")
    root = next(one for one in examples if one["kind"] == "root")
    assert [role for role, _ in chat(root["messages"])] == ["system", *["user", "assistant"] * 3]
    assert (root["query"], json.loads(root["answer"])) == ("Which kind?", {"kind": "a log", "lines": "a log"})
    assert {one["answer"] for one in examples if one["kind"] == "sub"} == {"a log"}
    assert KEY not in out
    assert sum(one["cost_usd"] for one in examples) == pytest.approx(
        json.loads(run("runs", "show", run_id, "--json")[1])["usage"]["cost_usd"]
    )


def test_all_runs_are_written_to_a_file_with_columns_of_one_type(
    run: Run, endpoint: OpenAIServer, log_file: Path, tmp_path: Path
) -> None:
    solved(run, endpoint, log_file)
    for name in ("plain", "children", "resumed", "limited"):
        text = (OLD / f"{name}.jsonl").read_text()
        place = tmp_path / "data" / "runs" / json.loads(text.split("\n", 1)[0])["run_id"]
        place.mkdir()
        (place / "events.jsonl").write_text(text)
    out = tmp_path / "examples.jsonl"
    status, said, error = run("runs", "export", "--as", "messages", "-o", str(out))

    assert (status, said) == (0, "")
    assert error.count("cannot be replayed") == 4  # their context is not here
    assert f"5 runs → {out}" in error
    examples = lines(out.read_text())
    types = [[(name, type(value)) for name, value in one.items()] for one in examples]
    assert all(one == types[0] for one in types)
    assert {len({type(value) for value in one["messages"][0].values()}) for one in examples} == {1}
    of_folder = run("runs", "export", str(tmp_path / "data"), "--as", "messages")[1]
    assert sorted(of_folder.splitlines()) == sorted(out.read_text().splitlines())


@pytest.mark.parametrize("name", ["plain", "children", "limited"])
def test_without_its_context_an_old_run_gives_the_dialogue_of_its_record(run: Run, tmp_path: Path, name: str) -> None:
    place = tmp_path / "elsewhere" / "run-0"
    place.mkdir(parents=True)
    shutil.copy(OLD / f"{name}.jsonl", place / "events.jsonl")
    events = lines((place / "events.jsonl").read_text())
    status, out, _ = run("runs", "export", str(place), "--as", "messages")

    assert status == 0
    root = next(one for one in lines(out) if one["kind"] == "root")
    replies = [event["text"] for event in events if event["event"] == "root_reply" and event["path"] == ""]
    assert not root["exact"]
    assert [text for role, text in chat(root["messages"]) if role == "assistant"] == replies
    assert root["answer"] == str(events[-1]["answer"]) or json.loads(root["answer"]) == events[-1]["answer"]
    calls = {event["key"] for event in events if event["event"] == "sub_reply" and event["kind"] == "llm"}
    assert sum(one["kind"] == "sub" for one in lines(out)) == len(calls)


def test_a_damaged_run_is_named_and_the_others_are_written(run: Run, tmp_path: Path) -> None:
    for name in ("run-1", "run-2"):
        (tmp_path / name).mkdir()
    (tmp_path / "run-1" / "events.jsonl").write_text('{"event":"run_started","format":99}\n')
    shutil.copy(OLD / "plain.jsonl", tmp_path / "run-2" / "events.jsonl")
    status, out, error = run("runs", "export", str(tmp_path), "--as", "messages")
    assert status == 1
    assert "run-1 is left out: " in error
    assert any(one["kind"] == "root" for one in lines(out))


def damaged(folder: Path, *changes: tuple[str, str]) -> Path:
    """A record with text in the place of other text."""
    text = (OLD / "plain.jsonl").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    folder.mkdir()
    (folder / "events.jsonl").write_text(text)
    return folder


@pytest.mark.parametrize("number", ["NaN", "1e999", "9" * 400, '"7"', "true", "null"])
def test_numbers_that_no_program_wrote_count_as_unknown(run: Run, tmp_path: Path, number: str) -> None:
    changes = [('"cost_usd":null', f'"cost_usd":{number}'), ('"prompt_tokens":851', f'"prompt_tokens":{number}')]
    folder = damaged(tmp_path / "run-1", *changes)
    status, out, error = run("runs", "export", str(folder), "--as", "messages")
    assert (status, "Traceback" in error) == (0, False)
    root = next(one for one in lines(out) if one["kind"] == "root")
    assert (type(root["prompt_tokens"]), root["cost_usd"], root["cost_known"]) == (int, 0.0, False)


@pytest.mark.parametrize("form", ["record", "messages"])
def test_a_record_that_is_not_utf8_or_whose_blocks_are_damaged_hides_no_other(
    run: Run, tmp_path: Path, form: str
) -> None:
    damaged(tmp_path / "run-1", ('"variables":[{', '"variables":[7,{'))
    damaged(tmp_path / "run-2")
    damaged(tmp_path / "run-3")
    for name in ("run-1", "run-2"):
        events = tmp_path / name / "events.jsonl"
        events.write_bytes(events.read_bytes() + b'{"event":"decided","why":"\xff\xfe"}\n')
    status, out, error = run("runs", "export", str(tmp_path), "--as", form)
    assert "Traceback" not in error
    assert status == (1 if form == "record" else 0)
    assert error.count("is left out: ") == (2 if form == "record" else 0)
    whole = run("runs", "export", str(tmp_path / "run-3"), "--as", form)[1]
    assert whole in out


def test_an_unknown_id_is_named_and_the_others_are_written(run: Run, tmp_path: Path) -> None:
    folder, out = damaged(tmp_path / "run-1"), tmp_path / "out.jsonl"
    status, _, error = run("runs", "export", "run-000000000000", str(folder), "-o", str(out))
    assert status == 1
    assert "run-000000000000" in error
    assert f"1 run → {out}" in error
    assert out.read_text() == (folder / "events.jsonl").read_text()


def test_a_score_belongs_to_the_run_of_the_record_whatever_its_folder_is_called(run: Run, tmp_path: Path) -> None:
    folder, scores = damaged(tmp_path / "renamed"), tmp_path / "scores.jsonl"
    run_id = json.loads((folder / "events.jsonl").read_text().split("\n", 1)[0])["run_id"]
    scores.write_text(json.dumps({"run_id": run_id, "score": 1}))
    _, out, _ = run("runs", "export", str(folder), "--as", "messages", "--scores", str(scores))
    assert {(one["run_id"], one["score"], one["scorer"]) for one in lines(out)} == {(run_id, 1.0, "unnamed")}


@pytest.mark.parametrize("form", ["record", "messages"])
def test_a_record_is_never_the_file_that_is_written(run: Run, tmp_path: Path, form: str) -> None:
    folder = damaged(tmp_path / "run-1")
    before = (folder / "events.jsonl").read_bytes()
    for name in ("events.jsonl", "answer.txt"):
        status, out, error = run("runs", "export", str(folder), "--as", form, "-o", str(folder / name))
        assert (status != 0, out) == (True, "")
        assert "is in the folder of a run" in error
    assert (folder / "events.jsonl").read_bytes() == before


def test_scores_without_chats_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text('{"run_id": "run-1", "score": 1}')
    status, out, error = run("runs", "export", "--scores", str(tmp_path / "scores.jsonl"))
    assert (status != 0, out) == (True, "")
    assert "add --as messages" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{0}"], "holds no runs"),
        (["run-000000000000"], "run-000000000000"),
        (["--scores", "{0}/bad.jsonl"], "line 1 is no score"),
        (["--scores", "{0}/none.jsonl"], "No such file"),
        (["-o", "{0}/no/where.jsonl"], "cannot be written"),
        *((["--scores", f"{{0}}/bad-{n}.jsonl"], "line 1 is no score") for n in range(5)),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing_behind(
    run: Run, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "bad.jsonl").write_text("no JSON\n")
    for n, score in enumerate(["NaN", "-Infinity", "9" * 400, "true", "null"]):
        (tmp_path / f"bad-{n}.jsonl").write_text(f'{{"run_id": "run-1", "score": {score}}}\n')
    status, out, error = run("runs", "export", "--as", "messages", *[one.format(tmp_path) for one in arguments])
    assert status in {1, 2}
    assert out == ""
    assert says in error
    assert "Traceback" not in error

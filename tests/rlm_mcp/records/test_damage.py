"""Damaged records of runs: the run itself says so, and no other is hidden, lost or resumed wrongly."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.errors import RunRecordDamaged
from rlm_mcp.records.events import RunEnded, RunStarted, ended_event
from rlm_mcp.records.run import Run
from rlm_mcp.records.run_queue import LocalRunQueue
from rlm_mcp.records.store import Runs
from rlm_mcp.records.types import Citation, Coverage, Outcome
from rlm_mcp.server.presenters import run_result
from rlm_mcp.spending import Spent

CITED = Citation(context_id="ctx_1", path="a.log", start_line=1, end_line=2, quote="q", verified=True)
READ = Coverage(total_chars=9, ranges={"code": {"ctx_1/a.log": [(0, 9)]}})
OUTCOME = Outcome(
    status="completed", answer="42", stopped_by="final", citations=(CITED,), coverage=READ, usage=Spent(cost_usd=0.5)
)
STARTED = RunStarted(query="How many?", contexts=[{"context_id": "ctx_1", "name": "app.log"}], served=True)
JUNK = ["null", '"x"', "[]", "{}", "[[]]", "-1", "1e308", "NaN", "Infinity", "true", "9" * 400, "[" * 5000, '{"a":[1]}']


def recorded(runs: Runs) -> Run:
    run = runs.create(STARTED)
    run.append(ended_event(OUTCOME))
    run.close()
    return run


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*path, key)
        yield from places(part, (*path, key))


def mutations(line: bytes) -> Iterator[bytes]:
    """The line with each of its values replaced by each kind of junk."""
    for path in places(json.loads(line)):
        data = json.loads(line)
        *above, last = path
        holder = data
        for key in above:
            holder = holder[key]
        holder[last] = "JUNK"
        for junk in JUNK:
            yield json.dumps(data).replace('"JUNK"', junk).replace('": ', '":').replace(', "', ',"').encode() + b"\n"


def test_whatever_value_is_damaged_all_runs_are_listed_and_shown_or_named(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    recorded(runs)
    damaged = recorded(runs)
    lines = damaged.events_path.read_bytes().splitlines(keepends=True)
    failures = set()
    for number, line in enumerate(lines):
        for changed in mutations(line):
            damaged.events_path.write_bytes(b"".join([*lines[:number], changed, *lines[number + 1 :]]))
            listed = {state.run_id: state for state in Runs(tmp_path).list().runs}
            assert len(listed) == 2
            for state in listed.values():
                json.dumps(run_result(state).model_dump(), allow_nan=False)
            if "is damaged" in listed[damaged.run_id].message:
                failures.add(listed[damaged.run_id].message.partition("is damaged")[0])
            assert {run.run_id for run in LocalRunQueue(Runs(tmp_path)).left()} <= {damaged.run_id}
    assert failures == {f"the record of {damaged.run_id} "}


def test_a_damaged_run_is_named_with_the_reason(tmp_path: Path) -> None:
    run = recorded(Runs(tmp_path))
    text = run.events_path.read_text()
    run.events_path.write_text(text.replace('"cost_usd":0.5', '"cost_usd":"much"'))
    remedy = f"restore {run.directory} from a backup, or delete it"
    with pytest.raises(RunRecordDamaged) as error:
        run.state()
    assert str(error.value) == f"the record of {run.run_id} is damaged (cost_usd is 'much'): {remedy}"


def test_contexts_of_a_damaged_run_are_not_taken_for_unused(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    run = recorded(runs)
    assert runs.context_ids() == {"ctx_1"}
    lines = run.events_path.read_bytes().splitlines(keepends=True)
    for first in (b"\x00" * 300 + b"\n", b'{"event":"run_started","contexts":[{}]}\n', b""):
        run.events_path.write_bytes(first + lines[1])
        with pytest.raises(RunRecordDamaged, match=rf"the record of {run.run_id} is damaged"):
            runs.context_ids()


@pytest.mark.parametrize(
    ("name", "data"), [("answer.txt", b"\xff\xfe"), ("answer.json", b'{"a"'), ("answer.json", b"")]
)
def test_a_damaged_answer_is_an_error_and_not_no_answer(tmp_path: Path, name: str, data: bytes) -> None:
    runs = Runs(tmp_path)
    run = runs.create(STARTED)
    run.append(RunEnded(status="completed", stopped_by="final", message="", answer_chars=9))
    run.close()
    (run.directory / name).write_bytes(data)
    with pytest.raises(RunRecordDamaged, match="is damaged"):
        run.state()
    assert "is damaged" in runs.list().runs[0].message


def test_a_record_that_is_no_file_hides_no_other(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    whole, other = recorded(runs), recorded(runs)
    other.events_path.write_bytes(b"\x00" * 100_000)
    (other.directory / "checkpoint.bin").write_bytes(b"\x00")
    assert other.checkpoint() is None
    assert {state.run_id for state in runs.list().runs} == {whole.run_id, other.run_id}


def test_a_damaged_time_of_creation_is_named_when_the_run_is_resumed(tmp_path: Path) -> None:
    run = recorded(Runs(tmp_path))
    text = run.events_path.read_text()
    run.events_path.write_text(text.replace('"created_at":"2', '"created_at":"x'))
    resumed = Run(run.directory)
    with pytest.raises(RunRecordDamaged, match=r"is damaged \(Invalid isoformat string"):
        resumed.append(ended_event(OUTCOME))
    resumed.close()


@pytest.mark.parametrize(("answer", "name"), [("long " * 100_000, "answer.txt"), (["long"] * 100_000, "answer.json")])
def test_an_answer_that_was_changed_on_disk_is_an_error(tmp_path: Path, answer: object, name: str) -> None:
    runs = Runs(tmp_path)
    run = runs.create(STARTED)
    run.write_answer(answer)
    run.append(ended_event(Outcome(status="completed", answer=answer, stopped_by="final", usage=Spent())))
    run.close()
    assert runs.get(run.run_id).state().answer == answer
    file = run.directory / name
    file.write_bytes(file.read_bytes().replace(b"long", b"lung", 1))
    with pytest.raises(RunRecordDamaged, match=f"{name} is not the answer that {run.run_id} recorded: restore"):
        runs.get(run.run_id).state()

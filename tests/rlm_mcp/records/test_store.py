"""Runs on disk: what is written when, how torn and newer records are read, and what a tape holds."""

import json
import weakref
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rlm_mcp.engine.request_keys import call_key, prompt_hash
from rlm_mcp.errors import AmbiguousRun, RunBusy, RunNotWritten, RunRecordTooNew, UnknownRun
from rlm_mcp.models.base import Message
from rlm_mcp.records.events import (
    RootReply,
    Routed,
    RunEnded,
    RunResumed,
    RunStarted,
    ended_event,
    event_from_json,
    name_of,
)
from rlm_mcp.records.fold import run_state
from rlm_mcp.records.reading import read_events
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from rlm_mcp.records.tape import Tape
from rlm_mcp.records.types import Outcome
from rlm_mcp.spending import Spent

STARTED = RunStarted(query="How many?", contexts=[{"context_id": "ctx_1", "name": "app.log"}])
REPLY = RootReply(
    prompt_hash="", text="", finish_reason="stop", model="m", temperature=None, left={}, shrinks=0, usage={},
    seconds=1.0, spent={},
)  # fmt: skip


def test_an_event_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(STARTED)
    run.append(Routed(mode="rlm", depth=1, reason="because"))

    lines = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["run_started", "routed"]
    assert lines[0]["format"] == 1
    assert lines[0]["run_id"] == run.run_id
    run.close()


def test_every_event_says_when_it_was_written(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "run-1"
    directory.mkdir(parents=True)
    created = datetime.now(UTC) - timedelta(seconds=100)
    started = {"event": "run_started", "format": 1, "run_id": "run-1", "created_at": created.isoformat()}
    (directory / "events.jsonl").write_text(json.dumps(started) + "\n")
    run = Run(directory, writable=True)
    run.append(RunResumed(at=3.0))
    run.close()

    assert [(event.at or 0.0) >= 100 for event in run.events()] == [False, True]


def test_the_state_is_folded_from_the_events(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(STARTED)
    run.append(Routed(mode="rlm", depth=1, reason="because"))
    run.append(replace(REPLY, turn=2, spent={"root_calls": 2, "prompt_tokens": 9}))
    state = run.state()

    assert (state.status, state.query, state.iterations, state.mode, state.depth) == (
        "running",
        "How many?",
        2,
        "rlm",
        1,
    )
    assert state.usage.root_calls == 2
    run.append(ended_event(Outcome(status="completed", answer="17", stopped_by="final", usage=Spent(root_calls=3))))
    state = run.state()
    assert (state.status, state.answer, state.answer_chars, state.usage.root_calls) == ("completed", "17", 2, 3)
    run.close()


def test_the_outline_of_an_ended_run_leads_to_the_same_state_as_all_events(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(STARTED)
    run.append(Routed(mode="rlm", depth=1, reason="because"))
    run.append(replace(REPLY, turn=2, spent={"root_calls": 2}))
    run.append(Routed(path="1", mode="direct", depth=0, reason=""))
    run.append(replace(ended_event(Outcome(status="failed")), path="1"))
    run.append(RunEnded(status="cancelled", stopped_by="cancelled", message=""))
    run.close()
    assert (run.state().iterations, run.state().usage.root_calls) == (2, 2)

    run.claim()
    run.append(RunResumed())
    run.append(ended_event(Outcome(status="completed", answer="17", iterations=3, usage=Spent(root_calls=4))))
    run.close()
    assert run.state() == run_state(run.events())
    assert (run.state().iterations, run.state().usage.root_calls, run.state().mode) == (3, 4, "rlm")


def test_the_end_of_a_child_is_not_the_end_of_the_run(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(STARTED)
    run.append(replace(ended_event(Outcome(status="completed", answer="part")), path="ab12"))

    assert run.state().status == "running"
    run.close()


def test_a_torn_last_line_is_left_out_and_cut_before_the_next_event(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(STARTED)
    run.close()
    with run.events_path.open("ab") as file:
        file.write(b'{"event":"routed","mode":"r')

    assert [name_of(event) for event in run.events()] == ["run_started"]
    again = Run(run.directory)
    again.append(RunResumed())
    again.close()
    assert [name_of(event) for event in run.events()] == ["run_started", "run_resumed"]
    assert run.events_path.read_bytes().count(b"\n") == 2


def test_a_record_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run-new" / "events.jsonl"
    path.parent.mkdir()
    path.write_text('{"event":"run_started","format":99}\n')

    with pytest.raises(RunRecordTooNew, match=r"run-new was written in format 99, this version reads up to 1"):
        list(read_events(path))


def test_a_record_without_an_end_or_a_writer_counts_as_cut_off(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(STARTED)
    assert run.state().status == "running"
    assert Runs(tmp_path).get(run.run_id).state().status == "running"
    run.close()

    state = Runs(tmp_path).get(run.run_id).state()
    assert (state.status, state.stopped_by) == ("failed", "error")
    assert f"rlm-mcp runs resume {run.run_id}" in state.message


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(STARTED)

    with pytest.raises(RunBusy, match=f"{run.run_id} is being run by another process"):
        Run(run.directory, writable=True)
    run.close()
    Run(run.directory, writable=True).close()


def test_a_run_that_was_read_or_written_and_closed_needs_no_garbage_collector(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    written = runs.create(STARTED)
    read = runs.get(written.run_id)
    read.state()
    written.close()
    left = [weakref.ref(written), weakref.ref(read)]
    del written, read
    assert [run() for run in left] == [None, None]


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    for name in ("run-aa11", "run-aa22", "run-bb33"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "events.jsonl").write_text('{"event":"run_started","format":1}\n')
    runs = Runs(tmp_path)

    assert runs.get("run-bb33").run_id == "run-bb33"
    assert runs.get("bb").run_id == "run-bb33"
    with pytest.raises(AmbiguousRun, match="'aa' fits 2 runs"):
        runs.get("aa")
    with pytest.raises(UnknownRun, match="there is no run 'cc' among the 3"):
        runs.get("cc")
    with pytest.raises(UnknownRun):
        runs.get("")


def test_runs_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    for day in (1, 3, 2):
        directory = tmp_path / "runs" / f"run-{day}"
        directory.mkdir(parents=True)
        event = {"event": "run_started", "format": 1, "run_id": f"run-{day}", "created_at": f"2026-11-0{day}"}
        (directory / "events.jsonl").write_text(json.dumps(event) + "\n")
    runs = Runs(tmp_path)

    first = runs.list(limit=2)
    assert [state.run_id for state in first.runs] == ["run-3", "run-2"]
    second = runs.list(limit=2, cursor=first.next_cursor)
    assert [state.run_id for state in second.runs] == ["run-1"]
    assert second.next_cursor is None


@pytest.mark.parametrize("answer", ["plain", "ü\r\n\x00 \ud800 end\n", "x" * 5_000_000, {"a": [1, None]}, [], 0])
def test_an_answer_comes_back_as_it_was(tmp_path: Path, answer: object) -> None:
    run = Runs(tmp_path).create(STARTED)
    run.write_answer(answer)
    run.append(ended_event(Outcome(status="completed", answer=answer, stopped_by="final")))

    assert run.state().answer == answer
    assert run.events_path.stat().st_size < 1_000_000
    run.close()


def test_a_checkpoint_is_replaced_whole_and_one_too_big_is_not_kept(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(STARTED)
    assert run.checkpoint() is None
    assert run.save_checkpoint(1, b"one")
    assert run.save_checkpoint(2, b"two")
    assert not run.save_checkpoint(3, bytes((64 << 20) + 1))

    assert run.checkpoint() == (2, b"two")
    run.close()


def test_a_tape_holds_replies_and_results_of_the_record() -> None:
    key = call_key("llm", "Is it?", None, None, "yes|no")
    tape = Tape(
        [
            one := replace(REPLY, turn=1, text="one"),
            of_child := replace(REPLY, path="ab12", turn=1, text="child"),
            event_from_json({"event": "sub_failed", "key": key, "error": "429"}),
            yes := event_from_json({"event": "sub_reply", "key": key, "value": "yes"}),
            cell := event_from_json({"event": "cell", "path": "", "turn": 1, "block": 1, "code": "x"}),
            ended_event(Outcome(status="completed", usage=Spent(root_calls=1))),
        ]
    )

    assert tape.root_reply("", 1) == one
    assert tape.root_reply("ab12", 1) == of_child
    assert tape.root_reply("", 2) is None
    assert tape.sub_call(key) == yes
    assert tape.cell("", 1, 1) == cell
    assert tape.spent["root_calls"] == 1


def test_only_the_first_difference_is_kept() -> None:
    tape = Tape(strict=True)
    tape.note_difference("turn 2 printed something else")
    tape.note_difference("turn 3 asked something else")

    assert tape.difference == "turn 2 printed something else"


def test_the_same_request_has_the_same_key() -> None:
    assert call_key("llm", {"a": 1, "b": 2}) == call_key("llm", {"b": 2, "a": 1})
    assert call_key("llm", "a", None) != call_key("llm", "a", "None")
    one = prompt_hash([Message(role="user", content="a")])
    assert one == prompt_hash([Message(role="user", content="a")]) != prompt_hash([Message(role="system", content="a")])


def test_fields_of_a_later_version_are_ignored() -> None:
    lines: list[dict[str, object]] = [
        {"event": "run_started", "query": "q", "new": 1},
        {"event": "newer"},
        {"event": "root_reply", "turn": 1, "spent": {"new": 1}},
    ]
    state = run_state(event_from_json(line) for line in lines)

    assert (state.query, state.iterations) == ("q", 1)


def test_a_run_that_cannot_be_put_on_record_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(RunNotWritten, match=r"no run can be recorded in .*: free some space"):
        Runs(tmp_path).create(RunStarted(query="?"))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_failed_write_is_reported_in_one_sentence(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(RunStarted(query="?"))
    (run.directory / "answer.txt").mkdir()
    (run.directory / "checkpoint.bin").mkdir()
    with pytest.raises(RunNotWritten, match=rf"the record of {run.run_id} cannot be written \(.*\): free some space"):
        run.write_answer("yes")
    assert not run.save_checkpoint(1, b"state")
    run.close()
    assert sorted(path.name for path in run.directory.iterdir()) == ["answer.txt", "checkpoint.bin", "events.jsonl"]


def test_records_that_cannot_be_read_are_listed_with_the_reason_and_hide_no_others(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.create(RunStarted(query="readable")).close()
    for name, text in {"run-new": '{"event":"run_started","format":99}\n', "run-torn": '{"event":"run_st'}.items():
        (runs.directory / name).mkdir()
        (runs.directory / name / "events.jsonl").write_text(text)
    listed = {run.run_id: (run.status, run.query, run.message) for run in runs.list().runs}
    assert listed["run-new"] == (
        "failed", "", "run-new was written in format 99, this version reads up to 1: update rlm-mcp",
    )  # fmt: skip
    assert listed["run-torn"][2] == "its record has no readable beginning, so there is nothing to show or to resume"
    assert sorted(query for _, query, _ in listed.values()) == ["", "", "readable"]

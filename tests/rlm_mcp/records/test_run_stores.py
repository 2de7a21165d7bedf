"""What every RunStore has to do, whatever it keeps records in. A new implementation is added to STORES."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from rlm_mcp.errors import AmbiguousRun, RunBusy, UnknownRun
from rlm_mcp.records.events import (
    Decided,
    Event,
    RunEnded,
    RunLeft,
    RunResumed,
    RunStarted,
    ended_event,
    name_of,
)
from rlm_mcp.records.protocols import RunStore
from rlm_mcp.records.recovery import has_ended
from rlm_mcp.records.store import Runs
from rlm_mcp.records.types import Outcome
from tests.peers.cluster import open_runs

pytestmark = pytest.mark.anyio

OpenStore = Callable[[], RunStore]
"""Opens the store of one owner as another process would."""


def files(_: pytest.FixtureRequest, directory: Path) -> OpenStore:
    return lambda: Runs(directory)


STORES: dict[str, Callable[[pytest.FixtureRequest, Path], OpenStore]] = {"files": files, "postgres": open_runs}


@pytest.fixture(params=["files", pytest.param("postgres", marks=pytest.mark.cluster)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    return STORES[request.param](request, tmp_path)


STARTED = RunStarted(
    query="How many?",
    contexts=[{"context_id": "ctx_1", "name": "log"}],
    fingerprint="f",
    served=True,
    models={"root": {"name": "gpt"}, "sub": {"name": "gpt"}},
)
DECIDED = Decided(turn=1, step="again", why="output", detail="")
CANCELLED = RunEnded(status="cancelled", stopped_by="cancelled", message="")


async def test_what_is_settled_is_seen_by_every_other_process_in_its_order(reopen: OpenStore) -> None:
    run = await anyio.to_thread.run_sync(reopen().create, STARTED)
    told = [replace(DECIDED, turn=turn) for turn in range(1, 65)]
    for event in told:
        run.append(event)
    await run.settled()

    other = reopen().get(run.run_id)
    assert [event.turn for event in other.events()] == [0, *range(1, 65)]
    assert [(event.at or 0.0) >= 0 for event in other.events()] == [True] * 65
    assert other.trace().count("\n") == 65
    run.close()


async def test_a_position_parts_what_was_appended_before_from_what_came_after(reopen: OpenStore) -> None:
    run = await anyio.to_thread.run_sync(reopen().create, STARTED)
    run.append(DECIDED)
    told = run.position
    run.append(replace(DECIDED, turn=2))
    await run.settled()

    other = reopen().get(run.run_id)
    assert [event.turn for event in other.events(until=told)] == [0, 1]
    assert [event.turn for event, _ in other.events_from(told) if event is not None] == [2]
    ends = [end for _, end in other.events_from(0)]
    assert ends == sorted(set(ends))
    assert ends[1:] == [told, run.position]
    run.close()


def test_a_run_has_one_writer_and_lives_while_it_has_one(reopen: OpenStore) -> None:
    run = reopen().create(STARTED)
    other = reopen().get(run.run_id)
    assert (run.is_live(), other.is_live(), other.state().status) == (True, True, "running")
    with pytest.raises(RunBusy, match=f"{run.run_id} is being run by another process"):
        other.claim()

    run.close()
    run.close()
    assert (other.is_live(), other.state().status, other.state().stopped_by) == (False, "failed", "error")
    other.claim()
    assert run.is_live()
    other.close()


def test_the_state_and_the_answer_are_those_that_were_recorded(reopen: OpenStore) -> None:
    run = reopen().create(STARTED)
    run.write_answer("17\ud800 é")
    run.append(ended_event(Outcome(status="completed", answer="17", stopped_by="final", iterations=2)))
    run.close()

    other = reopen().get(run.run_id)
    state = other.state()
    assert (state.run_id, state.status, state.query, state.answer, state.iterations, state.fingerprint) == (
        run.run_id, "completed", "How many?", "17", 2, "f",
    )  # fmt: skip
    assert other.answer() == "17\ud800 é"
    assert other.started() == next(other.events())
    assert (other.context_ids(), other.is_torn()) == ({"ctx_1"}, False)


def test_the_newest_checkpoint_replaces_the_one_before(reopen: OpenStore) -> None:
    run = reopen().create(STARTED)
    assert run.checkpoint() is None
    assert run.save_checkpoint(1, b"one")
    assert run.save_checkpoint(2, b"two")
    assert not run.save_checkpoint(3, bytes((64 << 20) + 1))
    assert reopen().get(run.run_id).checkpoint() == (2, b"two")
    run.close()


def test_marks_are_the_beginnings_and_ends_of_the_run_itself(reopen: OpenStore) -> None:
    run = reopen().create(STARTED)
    ended: list[Event] = [CANCELLED, RunLeft(), RunResumed(served=True)]
    child = replace(ended_event(Outcome(status="failed")), path="ab12")
    for event in (DECIDED, child, *ended):
        run.append(event)
    run.close()

    marks = reopen().get(run.run_id).marks()
    assert [name_of(mark) for mark in marks] == ["run_started", "run_ended", "run_left", "run_resumed"]


def test_a_run_that_ended_while_a_call_waited_is_found_until_the_call_is_told(reopen: OpenStore) -> None:
    run = reopen().create(STARTED)
    run.note_waiting("c1")
    run.note_waiting()
    run.append(ended_event(Outcome(status="completed", answer="17")))
    run.close()
    cancelled = reopen().create(replace(STARTED, fingerprint="c"))
    cancelled.note_waiting()
    cancelled.append(CANCELLED)
    cancelled.close()
    assert reopen().unanswered("c") is None
    found = reopen().unanswered("f")
    assert found is not None
    assert (found.run_id, found.is_awaited(), has_ended(found)) == (run.run_id, True, True)
    assert found.waiting_calls() == {"c1", ""}
    assert reopen().unanswered("f", except_model="gpt") is None
    found.note_told()
    found.note_told()
    assert (reopen().unanswered("f"), run.is_awaited(), sorted(run.waiting_calls())) == (None, False, [])


def test_runs_are_found_by_id_by_page_and_by_request(reopen: OpenStore) -> None:
    store = reopen()
    runs = [store.create(replace(STARTED, fingerprint=str(number))) for number in range(3)]
    for run in runs:
        run.close()
    newest = [run.run_id for run in reversed(runs)]

    first = reopen().list(limit=2)
    rest = reopen().list(limit=2, cursor=first.next_cursor)
    assert [state.run_id for page in (first, rest) for state in page.runs] == newest
    assert (first.next_cursor is None, rest.next_cursor) == (False, None)
    assert store.get(newest[0].removeprefix("run-")).run_id == newest[0]
    with pytest.raises(AmbiguousRun, match="'run-' fits 3 runs"):
        store.get("run-")
    with pytest.raises(UnknownRun, match="there is no run 'nothing' among the 3 stored"):
        store.get("nothing")
    assert store.context_ids() == {"ctx_1"}

    found = reopen().unanswered("1")
    assert found is not None
    assert found.run_id == runs[1].run_id
    assert reopen().unanswered("1", except_model="client") is not None
    assert reopen().unanswered("1", except_model="gpt") is None
    found.append(CANCELLED)
    found.close()
    assert (reopen().unanswered("1"), reopen().unanswered("other")) == (None, None)

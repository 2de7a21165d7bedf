"""What events lead to: the tree of runs that are going on, their sub-calls, and what has been spent."""

from dataclasses import replace

from rlm_mcp.records.events import (
    CellBegun,
    Event,
    RootAsked,
    RunEnded,
    RunLeft,
    SubAsked,
    UnknownEvent,
    event_from_json,
)
from rlm_mcp.records.fold import FoldChange, RunFold, run_state

ASKED = SubAsked(path="", turn=1, key="k", kind="llm", prompt_head="Is it?")
CHILD = SubAsked(path="", turn=1, key="c", kind="rlm", prompt_head="Why?", child="ab12")
ENDED = RunEnded(status="cancelled", stopped_by="cancelled", message="")


def fold_of(*events: Event) -> RunFold:
    """A second passes between two events."""
    fold = RunFold()
    for second, event in enumerate(events):
        fold.apply(event, float(second))
    return fold


def test_work_begins_and_ends_with_its_events() -> None:
    fold = RunFold()
    begun = fold.apply(CellBegun(turn=1, block=1, code="ask()"), 1.0)
    asked = fold.apply(ASKED, 2.0)
    answered = fold.apply(
        event_from_json({"event": "sub_reply", "key": "k", "value": "yes", "spent": {"sub_calls": 1}})
    )
    ran = fold.apply(event_from_json({"event": "cell", "turn": 1, "block": 1, "code": "ask()"}))
    run = fold.open_runs[""]
    assert begun.begun is not None
    assert asked.begun is not None
    assert (asked.begun.begun, asked.begun.since) == (ASKED, 2.0)
    assert answered == FoldChange(run=run, ended=(asked.begun,))
    assert ran == FoldChange(run=run, ended=(begun.begun,))
    assert (fold.spent, fold.phase, run.doing, run.counts.asked) == ({"sub_calls": 1}, "asking", "starting", 0)


def test_a_child_run_knows_the_call_that_it_answers() -> None:
    fold = fold_of(CHILD, RootAsked(path="ab12", turn=1, model="m"), replace(ASKED, path="ab12"))
    child = fold.open_runs["ab12"]
    assert child.call is not None
    assert (child.call.begun, child.query, child.depth, child.since) == (CHILD, "Why?", 1, 1.0)
    assert fold.open_runs[""].counts.asked == 1


def test_the_end_of_a_run_ends_everything_below_it() -> None:
    fold = fold_of(CHILD, RootAsked(path="ab12", turn=1, model="m"), replace(ASKED, path="ab12", turn=1))
    call, *below = [fold.open_runs[""].calls["c"][0], fold.open_runs["ab12"].work, *fold.open_runs["ab12"].in_flight()]
    of_child = fold.apply(replace(ENDED, path="ab12"))
    assert of_child.ended == tuple(below)
    assert of_child.run is not None
    assert (of_child.run.call, list(fold.open_runs), fold.ended) == (call, [""], None)
    assert fold.apply(ENDED).ended == (call,)
    assert (fold.open_runs, fold.ended) == ({}, ENDED)


def test_an_end_no_longer_counts_once_the_run_is_left_to_another_process() -> None:
    assert run_state([ENDED]).status == "cancelled"
    assert run_state([ENDED, RunLeft()]).status == "running"


def test_events_of_a_later_version_change_nothing_but_their_number() -> None:
    later = event_from_json({"event": "invented_later", "path": "ab12", "turn": 3})
    assert isinstance(later, UnknownEvent)
    fold = fold_of(later)
    assert (fold.events, fold.turn, fold.open_runs, fold.phase) == (1, 0, {}, "starting")

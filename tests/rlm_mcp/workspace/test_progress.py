"""The progress of a run, as heartbeats tell it."""

from rlm_mcp.records.events import event_from_json
from rlm_mcp.records.fold import RunFold
from rlm_mcp.workspace.progress import Progress, progress_of


def test_progress_follows_the_events_of_a_run_and_its_children() -> None:
    fold = RunFold()
    for event in [
        {"event": "routed", "path": "", "turn": 0},
        {"event": "root_reply", "path": "", "turn": 1, "spent": {"sub_calls": 0, "cost_usd": 0.5}},
        {"event": "root_reply", "path": "1.2", "turn": 9, "spent": {"sub_calls": 4, "cost_usd": 0.75}},
    ]:
        fold.apply(event_from_json(event))
    assert progress_of(fold) == Progress(
        events=3, iteration=1, depth=2, sub_calls=4, cost_usd=0.75, doing="running its code"
    )


def test_progress_counts_the_sub_calls_that_are_not_answered_yet() -> None:
    fold = RunFold()
    for event in [
        {"event": "cell_begun", "path": "", "turn": 1, "code": "ask()"},
        *({"event": "sub_asked", "path": "", "turn": 1, "key": key} for key in "abc"),
        {"event": "sub_reply", "path": "", "turn": 1, "key": "b", "value": "x"},
    ]:
        fold.apply(event_from_json(event))
    assert progress_of(fold).in_flight == 2

from types import SimpleNamespace

import pytest

from rlm_mcp.progress import Progress, advance
from rlm_mcp.runs import RunState
from rlm_mcp.waiting import eta, longest_wait


@pytest.mark.parametrize(
    ("client", "seconds"),
    [
        ("claude-code", 100),
        ("Claude Desktop", 55),
        ("codex-mcp-client", 55),
        ("GitHub Copilot JetBrains", 25),
        (None, 55),
    ],
)
def test_a_wait_ends_below_the_limit_of_its_client(client: str | None, seconds: float) -> None:
    params = None if client is None else SimpleNamespace(client_info=SimpleNamespace(name=client))
    assert longest_wait(SimpleNamespace(session=SimpleNamespace(client_params=params))) == seconds  # type: ignore[arg-type] # a stand-in, or wrong on purpose


def test_a_running_run_tells_the_next_call_and_a_guess_of_the_time() -> None:
    state = RunState(run_id="run-1", status="running", query="q", contexts=(), created_at="")
    told = eta(state, Progress(iteration=2, sub_calls=7, seconds=20, seconds_left=100, doing="asking the root model"))
    assert told == (
        "Still running: turn 2 · 7 sub-calls · 20 s · asking the root model; usually done in 20-80 s more, at most "
        "100 s. Call rlm_result(run_id='run-1') to wait on; do not start it again."
    )


def test_progress_follows_the_events_of_a_run_and_its_children() -> None:
    progress = Progress()
    for event in [
        {"event": "routed", "path": "", "turn": 0},
        {"event": "root_reply", "path": "", "turn": 1, "spent": {"sub_calls": 0, "cost_usd": 0.5}},
        {"event": "root_reply", "path": "1.2", "turn": 9, "spent": {"sub_calls": 4, "cost_usd": 0.75}},
    ]:
        progress = advance(progress, event)
    assert progress == Progress(events=3, iteration=1, depth=2, sub_calls=4, cost_usd=0.75, doing="running its code")

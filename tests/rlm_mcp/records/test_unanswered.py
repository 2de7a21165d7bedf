"""What was in flight where a record ends: counted once, in the usage of whoever continues the run."""

from rlm_mcp.records.events import (
    Event,
    RootAsked,
    RootReply,
    RunEnded,
    RunResumed,
    SubAsked,
    SubFailed,
    SubReply,
    event_from_json,
)
from rlm_mcp.records.fold import run_state
from rlm_mcp.records.unanswered import in_flight, with_unanswered
from rlm_mcp.spending import Spent

ROOT = RootAsked(turn=1, model="m", request=1, prompt_tokens=100)
REPLY = RootReply(
    turn=1, prompt_hash="", text="", finish_reason="stop", model="m", temperature=None, left={}, shrinks=0, usage={},
    seconds=1.0, spent={},
)  # fmt: skip


def asked(key: str, *, path: str = "", request: int | None = 1, tokens: int | None = 10) -> SubAsked:
    return SubAsked(path=path, turn=1, key=key, kind="llm", prompt_head="?", request=request, prompt_tokens=tokens)


def answered(key: str, *, path: str = "") -> SubReply:
    return SubReply(path=path, turn=1, key=key, kind="llm", prompt_head="?", value="", seconds=1.0, spent={})


def failed(key: str) -> SubFailed:
    return SubFailed(turn=1, key=key, kind="llm", prompt_head="?", error="", seconds=1.0, spent={})


def test_the_requests_without_a_reply_are_added_to_what_the_run_has_spent() -> None:
    events: list[Event] = [ROOT, REPLY, asked("a"), asked("b"), asked("c"), answered("b"), failed("c")]
    spent = Spent(root_calls=1, sub_calls=1, failed_calls=1, unanswered_prompt_tokens=7)

    assert with_unanswered(spent, events) == Spent(
        root_calls=1, sub_calls=1, failed_calls=2, unanswered_prompt_tokens=17
    )
    assert with_unanswered(Spent(), [ROOT]) == Spent(failed_calls=1, unanswered_prompt_tokens=100)


def test_a_second_request_of_a_call_tells_the_tokens_of_both() -> None:
    events = [asked("a"), asked("a", request=2, tokens=25)]
    assert [(one.request, one.prompt_tokens) for one in in_flight(events)] == [(2, 25)]


def test_calls_of_child_runs_count_too_and_end_with_their_run() -> None:
    child = RootAsked(path="ab12", turn=1, model="m", request=1, prompt_tokens=40)
    events: list[Event] = [child, asked("a", path="ab12.cd34"), asked("b")]
    assert with_unanswered(Spent(), events) == Spent(failed_calls=3, unanswered_prompt_tokens=60)

    ended = RunEnded(path="ab12", status="failed", stopped_by="error", message="")
    assert with_unanswered(Spent(), [*events, ended]) == Spent(failed_calls=1, unanswered_prompt_tokens=10)


def test_what_a_resumed_run_has_counted_is_in_its_usage_and_not_counted_again() -> None:
    counted = with_unanswered(Spent(root_calls=1), [asked("a")])
    events: list[Event] = [ROOT, REPLY, asked("a"), RunResumed(spent=counted.to_json()), asked("b")]

    assert run_state(events).usage == counted
    assert with_unanswered(run_state(events).usage, events) == Spent(
        root_calls=1, failed_calls=2, unanswered_prompt_tokens=20
    )


def test_records_in_which_listeners_alone_were_told_count_nothing() -> None:
    early = [event_from_json({"event": "run_resumed"}), asked("a", request=None, tokens=None)]
    assert with_unanswered(Spent(), early) == Spent()

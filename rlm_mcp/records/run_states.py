"""Shared parts of stores of records: the id that a shortened one means, and the state of a run."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from rlm_mcp.errors import AmbiguousRun, RlmError, UnknownRun
from rlm_mcp.records.events import Event
from rlm_mcp.records.fold import run_state
from rlm_mcp.records.types import RunState

_NO_BEGINNING = "its record has no readable beginning, so there is nothing to show or to resume"


def full_run_id(given: str, ids: Collection[str]) -> str:
    """The only id that begins with what was given; `run-` may be left out. Raises UnknownRun, AmbiguousRun."""
    found = [one for one in ids if given and (one.startswith(given) or one.removeprefix("run-").startswith(given))]
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousRun(f"{given[:80]!r} fits {len(found)} runs ({', '.join(found[:5])}): give more of the id")
    raise UnknownRun(
        f"there is no run {given[:80]!r} among the {len(ids)} stored: give the run_id that rlm_solve returned, or "
        "list them with `rlm-mcp runs list`"
    )


def read_state(
    run_id: str, is_live: Callable[[], bool], events: Callable[[], Iterable[Event]], stored_answer: Callable[[], Any]
) -> RunState:
    """The state that events lead to, with what they do not tell: the stored answer, and that the run was cut off."""
    goes_on = is_live()  # first: a run that ends in between has its end on record when the record is read
    state = run_state(events())
    if state.answer is None and state.status != "running":
        answer = stored_answer()
        if answer is not None:
            state = replace(state, answer=answer)
    if not state.run_id:
        return replace(state, run_id=run_id, status="failed", stopped_by="error", message=_NO_BEGINNING)
    if state.run_id != run_id:  # a damaged or copied record: an id is looked up by where the record lies
        state = replace(state, run_id=run_id)
    if state.status == "running" and not goes_on:
        message = (
            f"the process that ran it ended first: the same question, or `rlm-mcp runs resume {run_id}`, continues it"
        )
        state = replace(state, status="failed", stopped_by="error", message=message)
    return state


def unreadable_state(run_id: str, error: RlmError) -> RunState:
    """The state of a run that cannot be read. It is listed as failed, so that it hides no others."""
    return RunState(
        run_id=run_id,
        status="failed",
        query="",
        contexts=(),
        created_at="",
        stopped_by="error",
        message=str(error),
    )

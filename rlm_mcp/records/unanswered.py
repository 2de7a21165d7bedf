"""The requests of a killed process that had no reply yet, according to its record.

A provider may bill such a request. Each is on record before it is sent, so the process that continues the run counts
its tokens against the limits and reports them, whether or not the same request is sent again. If it is, that is a
second request of the same call, as after a broken connection: the number of calls stays.
"""

from collections.abc import Iterable
from dataclasses import replace

from rlm_mcp.records.events import Event, RootAsked, RootReply, RunEnded, RunResumed, SubAsked, SubFailed, SubReply
from rlm_mcp.records.fold import is_below
from rlm_mcp.spending import Spent

_Asked = tuple[str, int | str]
"""the path of the run that asked, and its turn or the key of the sub-call"""


def with_unanswered(spent: Spent, events: Iterable[Event]) -> Spent:
    """`spent` and the requests that were in flight where the record ends."""
    calls = in_flight(events)
    return replace(
        spent,
        failed_calls=spent.failed_calls + len(calls),
        unanswered_prompt_tokens=spent.unanswered_prompt_tokens + sum(call.prompt_tokens or 0 for call in calls),
    )


def in_flight(events: Iterable[Event]) -> list[RootAsked | SubAsked]:
    """The latest request of each call that is neither answered, nor failed, nor in what the run says it has spent."""
    calls: dict[_Asked, RootAsked | SubAsked] = {}
    for event in events:
        match event:
            case RootAsked(request=int()):
                calls[event.path, event.turn] = event
            case SubAsked(request=int()):
                calls[event.path, event.key] = event
            case RootReply():
                calls.pop((event.path, event.turn), None)
            case SubReply() | SubFailed():
                calls.pop((event.path, event.key), None)
            case RunEnded():
                calls = {call: asked for call, asked in calls.items() if not is_below(call[0], event.path)}
            case RunResumed() if event.spent is not None:
                calls.clear()
    return list(calls.values())

"""How far long work is: a live run in one look, out of its events, and a source that is being taken in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlm_mcp.records.events import (
    Cell,
    CellBegun,
    Event,
    RootAsked,
    RootReply,
    Routed,
    RunEnded,
    RunEvent,
    RunStarted,
    SubAsked,
    SubFailed,
    SubReply,
)

HEARTBEAT_SECONDS = 5.0
"""Progress is reported at least so often; clients that reset their time-out on progress want it every ten seconds."""

DOING: Mapping[type[RunEvent], str] = {
    RunStarted: "starting",
    Routed: "asking the root model",
    RootAsked: "asking the root model",
    RootReply: "running its code",
    CellBegun: "running its code",
    SubAsked: "running its code, asking sub-models",
    SubReply: "running its code, asking sub-models",
    SubFailed: "running its code, asking sub-models",
    Cell: "asking the root model",
    RunEnded: "done",
}
"""event of a run -> what the run does from then on, for the progress text"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A live run in one look, for heartbeats. `events` only grows."""

    events: int = 0
    iteration: int = 0
    depth: int = 0
    sub_calls: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    seconds_left: float | None = None
    doing: str = "starting"

    def __str__(self) -> str:
        parts = [
            f"turn {self.iteration}",
            f"depth {self.depth}" if self.depth else "",
            f"{self.sub_calls} sub-calls",
            "" if self.cost_usd is None else f"${self.cost_usd:.4f}",
            f"{self.seconds:.0f} s",
            self.doing,
        ]
        return " · ".join(part for part in parts if part)


def advance(progress: Progress, event: Event) -> Progress:
    """The progress after one more event of the run or of one of its child runs."""
    spent: Mapping[str, Any] = event.spent if isinstance(event, RootReply | SubReply | SubFailed) else {}
    depth = event.path.count(".") + bool(event.path)
    top = depth == 0
    return replace(
        progress,
        events=progress.events + 1,
        iteration=max(progress.iteration, event.turn) if top else progress.iteration,
        depth=max(progress.depth, depth),
        sub_calls=max(progress.sub_calls, spent.get("sub_calls") or 0),
        cost_usd=spent.get("cost_usd", progress.cost_usd),
        doing=DOING.get(type(event), progress.doing),
    )


@dataclass(slots=True)
class IngestProgress:
    """What has been taken in of a source so far. One thread adds, another may look."""

    files: int = 0
    bytes: int = 0

    def add(self, files: int, size: int) -> None:
        """Counts more of it."""
        self.files += files
        self.bytes += size

    def __str__(self) -> str:
        return f"{self.files:,} files, {self.bytes / 1e6:,.1f} MB taken in"

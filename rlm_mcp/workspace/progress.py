"""Progress of long work: of a live run, and of a source that is being ingested."""

from collections.abc import Mapping
from dataclasses import dataclass

from rlm_mcp.records.fold import Phase, RunFold

HEARTBEAT_SECONDS = 5.0
"""Progress is reported at least so often; clients that reset their time-out on progress want it every ten seconds."""

DOING: Mapping[Phase, str] = {
    "starting": "starting",
    "asking": "asking the root model",
    "running": "running its code",
    "calling": "running its code, asking sub-models",
    "done": "done",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Snapshot of a run that goes on, sent as a heartbeat. `events` only grows."""

    events: int = 0
    iteration: int = 0
    depth: int = 0
    sub_calls: int = 0
    in_flight: int = 0
    """sub-calls that are not answered yet"""
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


def progress_of(fold: RunFold, *, seconds: float = 0.0, seconds_left: float | None = None) -> Progress:
    """The progress of a run after the events in `fold`."""
    return Progress(
        events=fold.events,
        iteration=fold.turn,
        depth=fold.depth,
        sub_calls=fold.spent.get("sub_calls") or 0,
        in_flight=sum(1 for run in fold.open_runs.values() for _ in run.in_flight()),
        cost_usd=fold.spent.get("cost_usd"),
        seconds=seconds,
        seconds_left=seconds_left,
        doing=DOING[fold.phase],
    )


@dataclass(slots=True)
class IngestProgress:
    """How much of a source has been ingested. One thread adds, others may read."""

    files: int = 0
    bytes: int = 0

    def add(self, files: int, size: int) -> None:
        """Counts more files and bytes."""
        self.files += files
        self.bytes += size

    def __str__(self) -> str:
        return f"{self.files:,} files, {self.bytes / 1e6:,.1f} MB taken in"

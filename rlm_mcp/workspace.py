"""What one process holds open: the store, the runs on disk, live runs, models, the sandbox and the inspect REPLs.

    async with open_workspace(settings) as workspace:
        run_id = await workspace.start(SolveRequest(query="…", contexts=("app.log",)))
        state = await workspace.wait(run_id, seconds=45)

Runs are tasks of the workspace: they outlive the request that started them and end with it at the latest.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from rlm_mcp.cells import CellResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveRequest:
    """A question about contexts, as a caller asks it. None means: as the settings say."""

    query: str
    contexts: tuple[str, ...]
    """ids or names"""
    mode: Literal["auto", "direct", "rlm"] = "auto"
    max_depth: int | None = None
    max_usd: float | None = None
    max_sub_calls: int | None = None
    max_seconds: float | None = None
    max_iterations: int | None = None
    model: str | None = None
    sub_model: str | None = None
    output_schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A live run in one look, for heartbeats. `events` only grows."""

    run_id: str
    events: int
    iteration: int
    depth: int
    sub_calls: int
    cost_usd: float | None
    seconds: float
    doing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that resources show has changed: the list of them, or one of them (`uri`)."""

    uri: str | None = None

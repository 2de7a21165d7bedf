"""The algorithm: a root model writes code over a context it has not seen, until code sets the final answer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rlm_mcp.cells import GuestCalls, Repl
from rlm_mcp.contexts.store import Context, Store
from rlm_mcp.models.base import Model
from rlm_mcp.runs import Citation, Coverage, Run, RunUsage, Status, StoppedBy, Tape

Event = Mapping[str, Any]
"""One thing that happened in a run, as `runs.py` writes it: always an "event" name, "path" of the (child) run, and facts."""


class OpenRepl(Protocol):
    """Opens a REPL in which `context` and `contexts` are bound.

    For the run a client asked for they are the stored `contexts`. A child run has none: its `context` is `value`, a JSON
    value (text, list, or mapping of path to text) that the parent's code passed to `rlm_query`.
    """

    def __call__(
        self, contexts: Sequence[Context], calls: GuestCalls, *, value: object = None
    ) -> AbstractAsyncContextManager[Repl]:
        """Starts it on entering and closes it on leaving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question. `value` is the context of a child run, which has no stored contexts."""

    query: str
    contexts: tuple[Context, ...] = ()
    value: object = None
    mode: Literal["auto", "direct", "rlm"] = "auto"
    max_depth: int | None = None
    """None: as deep as the router thinks fit"""
    output_schema: Mapping[str, Any] | None = None
    path: str = ""
    """"" for the run a client asked for, "1" or "1.2" … for child runs"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, and with what. The best answer so far is there even when a limit stopped the run."""

    status: Status
    answer: Any
    stopped_by: StoppedBy
    answered_by: str = ""
    citations: tuple[Citation, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    usage: RunUsage = field(default_factory=RunUsage)
    iterations: int = 0
    mode: str = ""
    mode_reason: str = ""
    depth: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What every level of one run shares: the models, the REPL opener, the stored text, the record."""

    root: Model
    sub: Model
    open_repl: OpenRepl
    store: Store
    run: Run
    on_event: Callable[[Event], None] = lambda event: None
    tape: Tape = field(default_factory=Tape)
    """what the record already holds: empty for a new run, the run's own events on resume, strict on replay"""

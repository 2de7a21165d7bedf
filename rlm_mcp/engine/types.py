"""Types of one run before it begins: its specification, its dependencies, and the event that starts its record."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.coverage import Reading
from rlm_mcp.engine.guest_calls import AskSub
from rlm_mcp.models.base import Model
from rlm_mcp.packages.library import PackageImage
from rlm_mcp.records.events import Event, RunStarted
from rlm_mcp.records.protocols import Record
from rlm_mcp.records.tape import Tape
from rlm_mcp.repl.guest_functions import GuestFunction
from rlm_mcp.repl.types import GuestCalls, Repl
from rlm_mcp.spending import RunLimits


async def _nothing() -> None:
    """Does nothing: there are no calls to stop."""


class OpenRepl(Protocol):
    """Opens a REPL in which `context` and `contexts` are bound.

    For the run that a client asked for they are the stored `contexts`. A child run has none: its `context` is `value`,
    a JSON value (text, list, or mapping of path to text) that the parent's code passed to `rlm_query`.
    """

    def __call__(
        self, contexts: Sequence[Context], calls: GuestCalls, *, value: object = None
    ) -> AbstractAsyncContextManager[Repl]:
        """Starts the REPL on entering and closes it on leaving."""


class Replies(Protocol):
    """Replies of models by the key of their request (reply_cache.reply_key), in any run of one owner. Thread-safe.

    What cannot be read or kept is only asked again, so nothing raises.
    `tests/rlm_mcp/engine/test_reply_cache.py` is what every implementation has to pass.
    """

    def get(self, key: str) -> str | None:
        """The reply stored under `key`, or None."""

    def put(self, key: str, reply: str) -> None:
        """Stores a reply."""

    def close(self) -> None:
        """Releases what it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """The task of a run. `value` is the context of a child run, which has no stored contexts."""

    query: str
    contexts: tuple[Context, ...] = ()
    value: object = None
    mode: Literal["auto", "direct", "rlm"] = "auto"
    max_depth: int | None = None
    """None leaves the depth to the router"""
    output_schema: Mapping[str, Any] | None = None
    summaries: bool = False
    """whether the root model sums up a dialogue that gets too long for its window"""
    takes_notes: bool = False
    """whether a child run is to answer with notes about `value` (notes.py)"""
    path: str = ""
    """empty for the run that a client asked for; for child runs, names joined by dots"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDeps:
    """The collaborators that every level of one run shares. `reading` collects what the whole tree of runs reads."""

    root: Model
    sub: Model
    ask_sub: AskSub
    open_repl: OpenRepl
    store: Store
    record: Record
    imports: tuple[str, ...] = ()
    """what code can import besides the standard library"""
    functions: tuple[GuestFunction, ...] = ()
    """what code can call of the caller's"""
    on_event: Callable[[Event], None] = lambda _: None
    stop_calls: Callable[[], Awaitable[None]] = _nothing
    """ends the sub-calls that nobody waits for any more, and returns once all are settled"""
    tape: Tape = field(default_factory=Tape)
    """what is already paid for: nothing for a new run, the run's own events on resume, a record (strict) on replay"""
    reading: Reading = field(default_factory=Reading)
    save_after_seconds: float = 1.0
    """The REPL is saved while the root model is being asked, if that takes longer than this; if 0, before it is asked.

    A checkpoint takes some 15 ms of processor time: nothing beside a call of seconds, much beside one of tenths of a
    second, which calls to an instant model take where 50 runs share the processor. Without one, blocks are run again on
    resume, with their sub-calls answered from the record.
    """


def started_event(
    spec: RunSpec,
    *,
    root: Model,
    sub: Model,
    limits: RunLimits,
    image: PackageImage | None = None,
    functions: Sequence[GuestFunction] = (),
) -> RunStarted:
    """The first event of a run: enough to resume it and to replay it, and no machine path, URL or key."""
    return RunStarted(
        query=spec.query,
        contexts=[
            {
                "context_id": context.context_id,
                "name": context.name,
                "kind": context.kind,
                "chars": context.chars,
                "lines": context.lines,
                "files": context.files,
            }
            for context in spec.contexts
        ],
        mode_asked=spec.mode,
        max_depth=spec.max_depth,
        output_schema=spec.output_schema,
        summaries=spec.summaries or None,
        models={
            "root": {"name": root.name, "profile": asdict(root.profile)},
            "sub": {"name": sub.name, "profile": asdict(sub.profile)},
        },
        limits=asdict(limits),
        functions=[{"name": one.name, "line": one.line} for one in functions] or None,
        packages=recorded_packages(image),
    )


def recorded_packages(image: PackageImage | None) -> dict[str, Any] | None:
    """An image as records name it."""
    return None if image is None else {"image": image.sha256, "packages": list(image.packages)}

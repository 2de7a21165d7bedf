"""The async face of a sandbox session: one persistent Python namespace with the contexts in it.

Together with `workspace.py` the only file that knows `wasm_runtime`. A cell runs on a worker thread, one at a time for
a session. What its code asks of the run (`GuestCalls`) is handed to the event loop as a future, so that many sub-calls
are in flight from one cell; time spent waiting for them is not the cell's. Cancelling `run` interrupts the guest, which
cancels the calls it waits for; the namespace is kept.

A Sandbox is what all sessions of a process share. Loading it takes milliseconds when the compiled image is cached and
seconds when it is not, so a server begins it on a thread when it starts, and only the first cell waits for it.
"""

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from anyio.from_thread import BlockingPortal
from pydantic import TypeAdapter, ValidationError

from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import RlmError
from rlm_mcp.repl.call_queue import Call, Lane, Soon
from rlm_mcp.repl.types import CellError, CellResult, Final, GuestCalls, RawCitation, Read, Repl, Variable

if TYPE_CHECKING:
    from wasm_runtime import ExecResult, Limits, Runtime, Session, Template

CELL_SECONDS = 30.0
"""CPU time of one cell unless the caller says otherwise; counting and parsing 100 MB takes a few."""

MEMORY_BYTES = 512 << 20
OUTPUT_BYTES = 1 << 20
MOST_NOTES = 10
HISTORY_CHARS = 200_000
"""Of one cell's stdout, kept for code that looks back at `history`."""

SEARCH_MATCHES = 10_000
"""The most lines that one search brings into the namespace."""

INTERRUPT_SECONDS = 0.5
"""Between two interrupts of a cell that is no longer wanted: longer than the grace that each gives it."""

THREADS = 64
"""Cells of different sessions that run at once; a cell that waits for sub-calls holds its thread too."""

CALLS_AT_ONCE = 256
"""Sub-calls of one REPL that are under way, as many as a provider is ever sent. The rest of a batch waits as futures:
it neither crowds out the calls of other runs nor fills memory with tasks."""

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class SandboxUnavailable(RlmError):
    """The sandbox could not be loaded on this machine."""


class SandboxFailed(RlmError):
    """A session could not be made, or ended under the cell that it ran."""


class Sandbox:
    """The wasm runtime of this process and the way from its threads back to the event loop. Made by `open_sandbox`."""

    def __init__(
        self,
        cache_dir: Path,
        soon: "Soon",
        tasks: TaskGroup,
        memory_bytes: int | None = None,
        on_loaded: Callable[[], None] | None = None,
    ) -> None:
        """`soon` has the event loop call a function, from any thread and without waiting for it."""
        self._on_loaded = on_loaded
        self._cache_dir = cache_dir
        self._memory_bytes = memory_bytes
        self._room_bytes = 0
        self._soon = soon
        self._tasks = tasks
        self._crossing = threading.Lock()
        self._came = anyio.Event()
        self._coming: list[tuple[Lane, Call]] = []
        self._freeway = Lane(tasks, soon)
        self._loading = False
        self._loaded = anyio.Event()
        self._runtime: Runtime | None = None
        self._prepared = _Prepared()
        self._failure: Exception | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sandbox")

    def __repr__(self) -> str:
        waiting = "loading" if self._loading else "not loaded"
        return f"<Sandbox {'loaded' if self._runtime else 'broken' if self._failure else waiting}>"

    @property
    def is_loaded(self) -> bool:
        """Whether a cell could run now."""
        return self._runtime is not None

    def has_room(self) -> bool:
        """Whether a session may become as large as they may, or take a quarter of all memory where that is less."""
        return self._runtime is None or self._runtime.budget.available() >= self._room_bytes

    def begin_loading(self) -> None:
        """Loads the compiled image in the background, or compiles it once, which takes seconds."""
        if not self._loading:
            self._loading = True
            self._tasks.start_soon(self._load)

    async def _load(self) -> None:
        """A failure is kept for whoever needs the sandbox."""
        try:
            start = partial(_start_runtime, self._cache_dir, self._memory_bytes)
            self._runtime = await anyio.to_thread.run_sync(start, abandon_on_cancel=True)
            self._room_bytes = min(MEMORY_BYTES, self._runtime.budget.available() // 4)
        except Exception as error:
            log.exception("the sandbox could not be loaded")
            self._failure = error
        finally:
            self._loaded.set()
            if self._on_loaded is not None:
                self._on_loaded()

    async def runtime(self) -> "Runtime":
        """The runtime, once it is loaded. Raises SandboxUnavailable."""
        self.begin_loading()
        await self._loaded.wait()
        if self._runtime is None:
            raise SandboxUnavailable(
                f"the Python sandbox could not be loaded ({self._failure}): see the log, or reinstall rlm-mcp."
            ) from self._failure
        return self._runtime

    async def close(self) -> None:
        """Closes the runtime if it was loaded; a load that is still going on is left to the end of the process."""
        if self._runtime is not None:
            await self.on_thread(self._runtime.close)
        self._threads.shutdown()

    def on_a_thread(self, function: Callable[..., _T], *args: Any) -> "tuple[Future[_T], anyio.Event]":
        """Begins a blocking call on a thread of the sandbox: its outcome, and the event that it is there."""
        done = anyio.Event()
        future = self._threads.submit(function, *args)
        future.add_done_callback(lambda _: self._soon(done.set))
        return future, done

    async def on_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        """Waits for such a call, which cancellation does not interrupt."""
        future, done = self.on_a_thread(function, *args)
        with anyio.CancelScope(shield=True):
            await done.wait()
        return future.result()

    def call(self, function: Callable[[], Any], lane: "Lane | None" = None) -> "Future[Any]":
        """From a sandbox thread: runs `function` (async or not) on the event loop. Cancelling the future cancels it.

        What may wait for other calls must not queue up behind them in a lane.
        """
        future: Future[Any] = Future()
        with self._crossing:
            self._coming.append((lane or self._freeway, (function, future)))
            is_first = len(self._coming) == 1
        if is_first:  # otherwise the loop has been told
            self._soon(self._came.set)
        return future

    async def serve_calls(self) -> None:
        """Puts the calls that come in into their lanes. A batch crosses from the guest's thread in a few steps."""
        while True:
            await self._came.wait()
            self._came = anyio.Event()
            with self._crossing:
                calls, self._coming = self._coming, []
            for lane, call in calls:
                lane.add(call)

    @asynccontextmanager
    async def open_repl(
        self, store: Store, contexts: Sequence[Context], calls: GuestCalls, *, value: object = None
    ) -> AsyncIterator[Repl]:
        """A REPL with these contexts bound, or with `value` as the context of a child run. Closed on leaving."""
        from wasm_runtime import Limits

        runtime = await self.runtime()
        limits = Limits(memory_bytes=MEMORY_BYTES, cell_seconds=CELL_SECONDS, output_bytes=OUTPUT_BYTES)
        with anyio.CancelScope(shield=True):
            session = await self.on_thread(
                partial(_open_session, runtime, self._prepared, limits),
                store,
                contexts,
                self._handlers(store, contexts, calls),
                value,
            )
        try:
            yield SandboxRepl(self, session)
        finally:
            session.interrupt()
            with anyio.CancelScope(shield=True):
                await self.on_thread(session.close)

    def _handlers(self, store: Store, contexts: Sequence[Context], calls: GuestCalls) -> dict[str, Callable[..., Any]]:
        """What guest code may call on the host. Everything it passes is checked here: it comes from outside."""
        from wasm_runtime import Starts

        by_name = {context.name: context for context in contexts}
        lane = Lane(self._tasks, self._soon, most=CALLS_AT_ONCE)

        def llm_query(prompt: object, model: object = None, schema: object = None, material: object = None) -> Any:
            if not isinstance(prompt, str) or not isinstance(model, str | None) or not isinstance(material, str | None):
                raise _refused("llm_query takes a prompt, and optionally model= and schema=")
            asked = partial(calls.llm_query, prompt, model=model, schema=schema, material=material)
            return self.call(partial(_answer, asked), lane)

        def rlm_query(query: object, context: object) -> Any:
            if not isinstance(query, str):
                raise _refused("rlm_query takes a query and a context")
            return self.call(partial(_answer, partial(calls.rlm_query, query, context)))

        def budget() -> Any:
            return self.call(calls.budget)

        def search_context(
            pattern: object,
            name: object,
            path: object,
            most: object,
            around: object,
            ignore_case: object,
            literal: object,
        ) -> Any:
            if not (isinstance(pattern, str) and isinstance(path, str | None)):
                raise _refused("search takes a pattern as text")
            found = _spoken(
                partial(
                    search,
                    store,
                    _named(by_name, name),
                    pattern,
                    path=path,
                    max_matches=min(max(_whole(most), 1), SEARCH_MATCHES),
                    context_lines=min(max(_whole(around), 0), 50),
                    ignore_case=bool(ignore_case),
                    literal=bool(literal),
                )
            )
            matches = [{"path": m.path, "line": m.line, "text": m.text} for m in found.matches]
            return {"matches": matches, "total": found.total}

        def read_chars(name: object, path: object, start: object, end: object) -> Any:
            context = _named(by_name, name)
            return _spoken(partial(store.read_chars, context, _whole(start), _whole(end), path=str(path)))

        def read_lines(name: object, path: object, first: object, last: object) -> Any:
            context, line = _named(by_name, name), _whole(first)
            read = partial(store.read_lines, context, line, _whole(last), path=str(path), max_chars=4 << 20)
            lines = _spoken(read)
            begin = store.locate_line(context, line, path=str(path)).char
            return {"lines": lines.text.splitlines(), "start": begin, "end": begin + len(lines.text)}

        return {
            "llm_query": Starts(llm_query),
            "rlm_query": Starts(rlm_query),
            "budget": budget,
            "search": search_context,
            "read_chars": read_chars,
            "read_lines": read_lines,
        }


class SandboxRepl:
    """A Repl over one session. One cell at a time; others wait for their turn."""

    def __init__(self, sandbox: Sandbox, session: "Session") -> None:
        self._sandbox = sandbox
        self._session = session
        self._lock = anyio.Lock()

    def __repr__(self) -> str:
        return f"<SandboxRepl {self._session!r}>"

    async def run(self, code: str, *, seconds: float | None = None) -> CellResult:
        """Executes one cell. Cancellation interrupts it and keeps the namespace."""
        async with self._lock:
            return await self._interruptibly(_run_cell, self._session, code, seconds)

    async def variables(self) -> tuple[Variable, ...]:
        """All user variables, newest first."""
        async with self._lock:
            return await self._whole(_variables, self._session)

    async def complete(self, text: str) -> tuple[str, ...]:
        """The names that `text` begins, from inside: computed attributes run there, for as long as a cell may."""
        async with self._lock:
            return await self._whole(_complete, self._session, text)

    async def checkpoint(self) -> bytes:
        """The namespace as bytes, small: only what differs from the image."""
        async with self._lock:
            return await self._whole(lambda: self._session.checkpoint().to_bytes())

    async def restore(self, data: bytes) -> None:
        """Replaces the namespace by a checkpoint's, which may come from another process."""
        from wasm_runtime import Checkpoint

        async with self._lock:
            await self._whole(lambda: self._session.restore(Checkpoint.from_bytes(data)))

    async def _interruptibly(self, function: Callable[..., _T], *args: Any) -> _T:
        """A blocking call of the session. When the caller is cancelled, the guest is interrupted and then waited for.

        What the interrupted cell had printed is returned; the cancellation takes effect where the caller next waits.
        """
        future, done = self._sandbox.on_a_thread(function, *args)
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                while not done.is_set():  # again, because it is lost between two of the calls that make up a cell
                    self._session.interrupt()
                    with anyio.move_on_after(INTERRUPT_SECONDS):
                        await done.wait()
            if anyio.current_effective_deadline() != -math.inf:
                raise  # it came from outside anyio, which tells it once
        return future.result()

    async def _whole(self, function: Callable[..., _T], *args: Any) -> _T:
        """The same for a call whose result means nothing to a caller that was cancelled."""
        result = await self._interruptibly(function, *args)
        await anyio.lowlevel.checkpoint_if_cancelled()
        return result


@asynccontextmanager
async def open_sandbox(
    cache_dir: Path, *, memory_bytes: int | None = None, on_loaded: Callable[[], None] | None = None
) -> AsyncIterator[Sandbox]:
    """The sandbox of this process; the first REPL loads it, or `begin_loading`, which servers call at once.

    `memory_bytes` is what all sessions may hold, half of the machine's memory unless given. `on_loaded` is called when
    the sandbox could be loaded or not, on the event loop.
    """
    async with BlockingPortal() as portal, anyio.create_task_group() as tasks:
        sandbox = Sandbox(cache_dir, _soon(portal), tasks, memory_bytes, on_loaded)
        tasks.start_soon(sandbox.serve_calls)
        try:
            yield sandbox
        finally:
            with anyio.CancelScope(shield=True):
                await sandbox.close()
            tasks.cancel_scope.cancel()


def _soon(portal: BlockingPortal) -> Soon:
    """On asyncio without a wait for the loop to turn, which a batch of calls would wait for again and again."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:  # trio
        return portal.start_task_soon


# --- on a sandbox thread


def _start_runtime(cache_dir: Path, memory_bytes: int | None) -> "Runtime":
    from wasm_runtime import Runtime

    # Compiling takes seconds, once for a machine: whoever waits for it is told, on stderr.
    return Runtime(cache_dir, on_progress=log.warning, memory_budget_bytes=memory_bytes)


@cache
def _guest_source(module: str) -> str:
    return files("rlm_mcp.repl.guest").joinpath(f"{module}.py").read_text("utf-8")


class _Prepared:
    """Sessions with the prelude in them: installing it takes 20 ms, beginning where it is installed a fraction of 1."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._template: Template | None = None

    def template(self, runtime: "Runtime", names: Iterable[str]) -> "Template":
        """Made once. `names` are the host functions that every session has."""
        with self._lock:
            if self._template is None:
                with runtime.session(calls=dict.fromkeys(names, _never)) as session:
                    for module in ("texts", "subcalls", "prelude"):
                        session.install(module, _guest_source(module))
                    self._template = runtime.template(session.checkpoint())
        return self._template


def _never(*_: object, **__: object) -> object:
    raise _refused("nothing runs here")


def _open_session(
    runtime: "Runtime",
    prepared: _Prepared,
    limits: "Limits",
    store: Store,
    contexts: Sequence[Context],
    handlers: Mapping[str, Callable[..., Any]],
    value: object,
) -> "Session":
    """A session with the contexts mounted, the prelude in it and `context` bound."""
    mounted: dict[str, bytes | str | Path] = {}
    described = []
    for context in contexts:
        at = f"/context/{context.name}"
        mounts = store.mounts(context)
        mounted |= {f"{at}/{path}": file for path, file in mounts.items()}
        entries = {entry.path: entry for entry in store.files(context)}
        described.append(
            {
                "name": context.name,
                "kind": context.kind,
                "files": [
                    {"path": e.path, "guest": f"{at}/{path}", "bytes": e.bytes, "chars": e.chars, "lines": e.lines}
                    for path, e in zip(mounts, entries.values(), strict=True)
                ],
            }
        )
    with _told():
        template = prepared.template(runtime, handlers)
        session = runtime.session(limits=limits, files=mounted, calls=handlers, template=template)
        try:
            session.call("prelude:start", described, value, not contexts)
        except BaseException:
            session.close()
            raise
    return session


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """What the prelude says of a cell. It comes out of the sandbox, so it is validated as anything from outside."""

    final: Final | None = None
    citations: tuple[RawCitation, ...] = ()
    notes: tuple[str, ...] = ()
    reads: tuple[tuple[str, str, int, int], ...] = ()
    variables: tuple[Variable, ...] = ()
    changed: tuple[str, ...] = ()


_DAMAGED = "The REPL's own functions did not answer after this block: free memory, or go on with what you have."


def _run_cell(session: "Session", code: str, seconds: float | None) -> CellResult:
    """The cell itself, and what the prelude noticed around it.

    A full heap or a broken prelude costs the notices, never the cell.
    """
    from wasm_runtime import GuestCallError

    with _told():
        done = session.exec(code, seconds=seconds, prepare="prelude:before")
        try:
            if done.undone:  # and with it what was done before: the prelude still holds what the last cell left
                session.call("prelude:before", "")
            left = _left().validate_python(session.call("prelude:after", done.stdout[:HISTORY_CHARS]))
        except (GuestCallError, ValidationError):
            left = _Left(notes=(_DAMAGED,))
    return _cell(code, done, left)


def _cell(code: str, done: "ExecResult", left: _Left) -> CellResult:
    raised = done.error
    error = raised and CellError(**{name: getattr(raised, name) for name in CellError.__slots__})
    return CellResult(
        code=code,
        stdout=done.stdout,
        stderr=done.stderr,
        value=done.value,
        error=error or None,
        truncated=done.truncated,
        stdout_chars=done.stdout_chars,
        seconds=done.seconds,
        stopped_by=done.stopped_by,
        undone=done.undone,
        variables=left.variables,
        changed=left.changed,
        final=left.final,
        citations=left.citations,
        reads=tuple(Read(context=c, path=p, start=s, end=e) for c, p, s, e in left.reads),
        notes=left.notes[:MOST_NOTES],
    )


def _variables(session: "Session") -> tuple[Variable, ...]:
    from wasm_runtime import GuestCallError

    with _told():
        try:
            return _left().validate_python({"variables": session.call("prelude:variables")}).variables
        except (GuestCallError, ValidationError):
            return ()


def _complete(session: "Session", text: str) -> tuple[str, ...]:
    from wasm_runtime import GuestCallError

    with _told():
        try:
            session.install("completion", _guest_source("completion"))
            return TypeAdapter(tuple[str, ...]).validate_python(session.call("completion:complete", text))
        except (GuestCallError, ValidationError):
            return ()


@cache
def _left() -> TypeAdapter[_Left]:
    return TypeAdapter(_Left)


@contextmanager
def _told() -> Iterator[None]:
    """Turns what the runtime raises into an error whose text may be shown."""
    from wasm_runtime import RuntimeFailure, SessionBusy, SessionClosed

    try:
        yield
    except (SessionClosed, SessionBusy) as error:  # busy with being closed: cells themselves take turns
        raise SandboxFailed("the REPL was closed or reset while this block ran: run it again.") from error
    except RuntimeFailure as error:
        raise SandboxFailed(f"the sandbox failed: {error}") from error


# --- host calls


async def _answer(asked: Callable[[], Any]) -> object:
    """A sub-call whose refusals speak to the guest; other exceptions stay generic there and are logged."""
    try:
        return await asked()
    except RlmError as error:
        raise _refused(str(error)) from error


def _spoken(function: Callable[[], _T]) -> _T:
    try:
        return function()
    except RlmError as error:
        raise _refused(str(error)) from error


def _refused(text: str) -> Exception:
    from wasm_runtime import CallRefused

    return CallRefused(text)


def _named(by_name: Mapping[str, Context], name: object) -> Context:
    if not isinstance(name, str) or name not in by_name:
        raise _refused(f"there is no context {name!r} here; there are: {', '.join(by_name)}")
    return by_name[name]


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise _refused(f"{value!r} is not a whole number")
    return value

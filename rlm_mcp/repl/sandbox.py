"""The wasm runtime of this process and the REPLs over it.

A Sandbox is shared by all sessions of a process. Loading it takes milliseconds when the compiled image is cached and
seconds when it is not, so a server starts loading on a thread when it starts, and only the first cell waits for it.
Cells run on worker threads. Calls of their code (`GuestCalls`) are handed to the event loop and come back as futures,
so that one cell may have many sub-calls in flight.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup
from anyio.from_thread import BlockingPortal

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import RlmError
from rlm_mcp.repl.call_queue import CallHandoff, CallSoon
from rlm_mcp.repl.host_calls import foresight, host_calls
from rlm_mcp.repl.maps import MapSupply, ShareMap
from rlm_mcp.repl.session import SandboxRepl, SessionTemplate, image_with_prelude, open_session, work_on_map
from rlm_mcp.repl.threads import SandboxThreads
from rlm_mcp.repl.types import GuestCalls, Repl

if TYPE_CHECKING:
    from wasm_runtime import Limits, Runtime

CELL_SECONDS = 30.0
"""CPU time of one cell unless the caller says otherwise; counting and parsing 100 MB takes a few."""

MEMORY_BYTES = 512 << 20
OUTPUT_BYTES = 1 << 20

log = logging.getLogger(__name__)


class SandboxUnavailable(RlmError):
    """The sandbox could not be loaded on this machine."""


class Sandbox:
    """The wasm runtime of this process, loaded once, and the threads of its sessions. Made by `open_sandbox`."""

    def __init__(
        self,
        cache_dir: Path,
        tasks: TaskGroup,
        handoff: CallHandoff,
        threads: SandboxThreads,
        *,
        image: Path | None = None,
        memory_bytes: int | None = None,
        on_loaded: Callable[[], None] | None = None,
    ) -> None:
        """`image` is the folder of an image with packages."""
        self._cache_dir = cache_dir
        self._image = image
        self._others: dict[Path | None, Sandbox] = {}
        self._tasks = tasks
        self._handoff = handoff
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._on_loaded = on_loaded
        self._room_bytes = 0
        self._loading = False
        self._loaded = anyio.Event()
        self._runtime: Runtime | None = None
        self._failure: Exception | None = None
        self._template = SessionTemplate(cache_dir)

    def __repr__(self) -> str:
        waiting = "loading" if self._loading else "not loaded"
        return f"<Sandbox {'loaded' if self._runtime else 'broken' if self._failure else waiting}>"

    @property
    def is_loaded(self) -> bool:
        """Whether a cell could run now."""
        return self._runtime is not None

    def is_compiled(self) -> bool:
        """Whether the image can be loaded at once. If it cannot, it begins to be compiled in the background."""
        from wasm_runtime.compile_cache import is_compiled, load_image

        if self.is_loaded or is_compiled(load_image(self._image), self._cache_dir):
            return True
        self.begin_loading()
        return False

    def has_room(self, owner: str | None = None) -> bool:
        """Whether memory is left for a session of the largest size, or a quarter of all memory where that is less."""
        return self._runtime is None or self._runtime.budget.available(owner) >= self._room_bytes

    def with_image(self, image: Path | None) -> "Sandbox":
        """The sandbox with another image, on the same threads; it is closed together with this one."""
        if image == self._image:
            return self
        if image not in self._others:
            self._others[image] = Sandbox(
                self._cache_dir, self._tasks, self._handoff, self._threads, image=image, memory_bytes=self._memory_bytes
            )
        return self._others[image]

    def begin_loading(self) -> None:
        """Loads the compiled image in the background, or compiles it once, which takes seconds."""
        if not self._loading:
            self._loading = True
            self._tasks.start_soon(self._load)

    async def _load(self) -> None:
        """Loads the runtime; a failure is kept and raised where the runtime is needed."""
        try:
            start = partial(_start_runtime, self._cache_dir, self._image, self._memory_bytes)
            self._runtime = await anyio.to_thread.run_sync(start, abandon_on_cancel=True)
            self._room_bytes = min(MEMORY_BYTES, self._runtime.budget.available() // 4)
        except Exception as error:  # raised to all who wait for the sandbox
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
        """Closes the runtime if it was loaded; a load that is still running is left to the end of the process."""
        for sandbox in (self, *self._others.values()):
            await sandbox.close_runtime()
        self._threads.shutdown()

    async def close_runtime(self) -> None:
        """Closes the runtime of this image only."""
        if self._runtime is not None:
            await self._threads.run(self._runtime.close)

    @asynccontextmanager
    async def open_repl(
        self,
        store: Store,
        contexts: Sequence[Context],
        calls: GuestCalls,
        *,
        value: object = None,
        owner: str | None = None,
        share_map: ShareMap | None = None,
        packages: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Repl]:
        """A REPL with these contexts bound, or with `value` as the context of a child run. Closed on leaving.

        Named owners have threads of their own, and leave memory to others. Other processes work on items of
        `parallel_map`, if there is `share_map`; `packages` names the image for them.
        """
        runtime = await self.runtime()
        functions = host_calls(store, contexts, calls, self._handoff)
        opening = partial(
            open_session,
            runtime,
            self._template,
            _limits(),
            store,
            contexts,
            functions,
            value,
            owner,
            foresight(calls, self._handoff),
            tuple(calls.functions),
            share_map,
            packages,
        )
        threads = self._threads.of(owner)
        session = await threads.run(opening)
        try:
            yield SandboxRepl(session, threads, image=runtime.image.sha256, imports=runtime.image.imports)
        finally:
            session.interrupt()
            await threads.run(session.close)

    async def image_id(self) -> str:
        """Identifies the image together with the prelude, as checkpoints and maps do."""
        return image_with_prelude((await self.runtime()).image.sha256)

    async def work_on_map(
        self,
        store: Store,
        contexts: Sequence[Context],
        checkpoint: bytes,
        supply: MapSupply,
        *,
        workers: int,
        seconds: float,
        owner: str | None = None,
    ) -> None:
        """Works on items of a map whose code waits in another process, until the supply ends. Raises SandboxFailed."""
        working = partial(
            work_on_map,
            await self.runtime(),
            _limits(),
            store,
            contexts,
            checkpoint,
            supply,
            workers=workers,
            seconds=seconds,
            owner=owner,
        )
        await self._threads.of(owner).run(working)


def _limits() -> "Limits":
    """Those of every session."""
    from wasm_runtime import Limits

    return Limits(memory_bytes=MEMORY_BYTES, cell_seconds=CELL_SECONDS, output_bytes=OUTPUT_BYTES)


def holds_more_values(text: bytes, most: int) -> bool:
    """Whether a JSON text holds more values, counted as the sandbox counts those in messages of its guests."""
    from wasm_runtime.json_parts import parts_beyond

    return parts_beyond(text, most)


def import_runtime() -> None:
    """Imports what the first REPL needs, in a process from which those with REPLs are forked."""
    from wasm_runtime import compile_cache, runtime  # noqa: F401 - imported for those that are forked


@asynccontextmanager
async def open_sandbox(
    cache_dir: Path,
    *,
    image: Path | None = None,
    memory_bytes: int | None = None,
    on_loaded: Callable[[], None] | None = None,
) -> AsyncIterator[Sandbox]:
    """The sandbox of this process, loaded by the first REPL, or by `begin_loading`, which servers call at once.

    `image` is the folder of an image with packages. `memory_bytes` limits the memory of all sessions together, by
    default to half of the machine's. `on_loaded` is called on the event loop when loading has succeeded or failed.
    """
    async with BlockingPortal() as portal, anyio.create_task_group() as tasks:
        call_soon = _call_soon(portal)
        handoff = CallHandoff(tasks, call_soon)
        sandbox = Sandbox(
            cache_dir,
            tasks,
            handoff,
            SandboxThreads(call_soon),
            image=image,
            memory_bytes=memory_bytes,
            on_loaded=on_loaded,
        )
        tasks.start_soon(handoff.serve)
        try:
            yield sandbox
        finally:
            with anyio.CancelScope(shield=True):
                await sandbox.close()
            tasks.cancel_scope.cancel()


def _call_soon(portal: BlockingPortal) -> CallSoon:
    """On asyncio, a function that does not wait for the loop to turn: a batch would wait for that at every call."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:  # trio
        return portal.start_task_soon


def _start_runtime(cache_dir: Path, image: Path | None, memory_bytes: int | None) -> "Runtime":
    from wasm_runtime import Runtime

    # Compiling takes seconds, once per machine: its progress is shown on stderr.
    return Runtime(cache_dir, image=image, on_progress=log.warning, memory_budget_bytes=memory_bytes)

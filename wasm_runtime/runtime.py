"""The Runtime: what all sessions share. One engine, one compiled module, one linker, one watch."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from wasm_runtime.budget import MemoryBudget, default_budget_bytes
from wasm_runtime.compile_cache import compiled_module, load_image
from wasm_runtime.deadlines import Watch
from wasm_runtime.errors import RuntimeFailure
from wasm_runtime.limits import Limits
from wasm_runtime.linking import make_linker
from wasm_runtime.machine.engine import make_engine
from wasm_runtime.machine.interpreter import Interpreter
from wasm_runtime.machine.memory import GuestMemory
from wasm_runtime.machine.pages import Buffers, CopiedPages, MappedPages, Pages, Start, make_start, page_map_available
from wasm_runtime.session import FileSource, Session
from wasm_runtime.snapshot import Checkpoint, Template

# Host functions that were submitted and block; those that return futures hold no thread.
_SUBMITTED_AT_ONCE = 64
_COPIES_AT_ONCE = 64


class Runtime:
    """Makes sessions. Safe to use from many threads; close it after its sessions, or use it in a `with`."""

    def __init__(
        self,
        cache_dir: Path | None = None,
        *,
        memory_budget_bytes: int | None = None,
        on_progress: Callable[[str], None] | None = None,
        page_map: bool | None = None,
    ) -> None:
        """Load the compiled image, or compile it once for this machine (about 10 s) into `cache_dir`.

        `memory_budget_bytes` bounds what all sessions hold beyond the shared image, copies made by guests among
        them; half of this machine's memory unless another bound is given. `page_map=False` copies
        memory instead of asking the system what was written, as on systems that cannot tell.
        Raises ImageError.
        """
        self.image = load_image()
        self.engine = make_engine()
        module = compiled_module(self.engine, self.image, cache_dir, on_progress or (lambda _: None))
        self.prelinked = make_linker(self.engine, module).instantiate_pre(module)
        self.watch = Watch()
        self.budget = MemoryBudget(default_budget_bytes() if memory_budget_bytes is None else memory_budget_bytes)
        self._page_map = page_map_available() if page_map is None else page_map
        self._buffers = Buffers()
        self._fresh_memory: bytes | None = None
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._crew_threads: ThreadPoolExecutor | None = None
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._starts: list[Start] = []
        self._closed = False

    def session(
        self,
        *,
        limits: Limits | None = None,
        files: Mapping[str, FileSource] | None = None,
        calls: Mapping[str, Callable[..., object]] | None = None,
        template: Template | None = None,
    ) -> Session:
        """Return a new session, in the state of `template` where one is given.

        files   absolute guest path -> bytes, text or a file of the host; read-only, a host file is not copied
        calls   name -> function called with the guest's JSON arguments on the guest's thread; it returns a JSON
                value, or a `concurrent.futures.Future` of one so that many can be in flight; `CallRefused`
                shows its text to the guest, any other exception only a general one. One of many submitted at once
                is called on a thread of the Runtime, unless it is wrapped in `Starts`
        Raises OSError for a file that cannot be read, ValueError for a guest path that is not absolute,
        OutOfMemoryBudget for a template that does not fit.
        """
        if self._closed:
            raise RuntimeFailure(f"{self!r} was closed: make a new Runtime")
        session = self.enrol(Session(self, limits=limits or Limits(), files=files or {}, calls=calls or {}))
        if template is not None:
            try:
                session.begin_at(template)
            except BaseException:
                session.close()
                raise
        return session

    def template(self, saved: Checkpoint) -> Template:
        """Return a state for new sessions of this Runtime to begin in. They share its memory until they write to it.

        Raises SnapshotMismatch.
        """
        saved.require_image(self.image.sha256)
        scratch = Interpreter(self.engine, self.prelinked, memory_bytes=saved.memory_bytes)
        try:
            scratch.grow(saved.memory_bytes)
            start = make_start(scratch.memory, saved.runs, in_file=self._page_map)
        finally:
            scratch.close()
        with self._lock:
            self._starts.append(start)
        return Template(saved, start)

    def close(self) -> None:
        """Close every session, then the threads."""
        with self._lock:
            self._closed = True
            sessions, starts, self._starts = list(self._sessions), self._starts, []
        for session in sessions:
            session.close()
        for start in starts:
            start.close()
        self.watch.close()
        for threads in (self._executor, self._crew_threads):
            if threads is not None:
                threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._sessions)} sessions"
        return f"<Runtime {state}, image {self.image.sha256[:12]}, {self.budget!r}>"

    # for sessions

    def pages(self, memory: GuestMemory, start: Start | None = None) -> Pages:
        """Return the page tracker for a fresh instance's memory, which becomes `start`."""
        if self._page_map:
            return MappedPages(
                memory,
                self._buffers,
                image_bytes=self.image.memory_bytes,
                dead=(self.image.stack_low, self.image.globals[0]),
                start=start,
            )
        with self._lock:
            if self._fresh_memory is None:
                self._fresh_memory = bytes(memory.view(0, self.image.memory_bytes))
        return CopiedPages(memory, self._fresh_memory, start=start)

    def executor(self) -> Executor:
        """Return the threads for submitted host functions, made when first needed."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_SUBMITTED_AT_ONCE, thread_name_prefix="wasm-call")
            return self._executor

    def crew_threads(self) -> Executor:
        """Return the threads that copies made inside a cell run on, made when first needed."""
        with self._lock:
            if self._crew_threads is None:
                self._crew_threads = ThreadPoolExecutor(_COPIES_AT_ONCE, thread_name_prefix="wasm-copy")
            return self._crew_threads

    def enrol(self, session: Session) -> Session:
        """Take a new session into account, so that `close` closes it too."""
        with self._lock:
            self._sessions.add(session)
        return session

    def forget(self, session: Session) -> None:
        """Take notice that a session was closed."""
        with self._lock:
            self._sessions.discard(session)

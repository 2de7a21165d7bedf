"""State of the sessions of one Runtime: engine and linked image, deadline thread, memory budget, thread pools."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

from wasm_runtime.budget import MemoryBudget
from wasm_runtime.compile_cache import compiled_module, load_image
from wasm_runtime.deadlines import DeadlineThread
from wasm_runtime.linking import make_linker
from wasm_runtime.machine.engine import make_engine
from wasm_runtime.machine.interpreter import Interpreter
from wasm_runtime.machine.mapped_pages import BufferPool, MappedPages
from wasm_runtime.machine.memory import GuestMemory
from wasm_runtime.machine.pages import CopiedPages, Pages
from wasm_runtime.machine.template_memory import TemplateMemory
from wasm_runtime.places import Places
from wasm_runtime.priority import compute_behind_others, processor_count
from wasm_runtime.vfs.shared_files import SharedFiles
from wasm_runtime.vfs.site_files import site_files
from wasm_runtime.vfs.time_zones import zone_files

# Threads for submitted host functions that block; functions that return futures hold no thread.
_CALL_THREADS = 64
_COPY_THREADS = 64
# The same for each named owner of sessions: an owner who fills them delays no one else. Host functions of Python take
# turns with the rest of the process, so that every further thread would make everybody wait longer.
_OWNER_CALL_THREADS = 8
_OWNER_COPY_THREADS = 32
# Cells of one owner that compute at once; those that wait for the host do not count.
_COMPUTING = 64


class OpenSession(Protocol):
    """A session, as the Runtime that closes it sees it."""

    owner: str | None

    def close(self) -> None:
        """End the session."""


class Shared:
    """Made and closed by the Runtime, used by its sessions from many threads."""

    def __init__(
        self,
        cache_dir: Path | None,
        *,
        image: Path | None,
        budget: MemoryBudget,
        on_progress: Callable[[str], None],
        page_map: bool,
    ) -> None:
        """Load the compiled image, or compile it into `cache_dir`. Raises ImageError."""
        self.image = load_image(image)
        self.engine = make_engine()
        module = compiled_module(self.engine, self.image, cache_dir, on_progress)
        self.prelinked = make_linker(self.engine, module).instantiate_pre(module)
        site = self.image.site
        self.files = SharedFiles([zone_files] if site is None else [zone_files, partial(site_files, site)])
        self.deadlines = DeadlineThread()
        self.budget = budget
        self.page_map = page_map
        self._buffers = BufferPool()
        self._fresh_memory: bytes | None = None
        self._lock = threading.Lock()
        self._threads: dict[tuple[str | None, str], ThreadPoolExecutor] = {}
        self._places: weakref.WeakValueDictionary[str | None, Places] = weakref.WeakValueDictionary()
        self._sessions: weakref.WeakSet[OpenSession] = weakref.WeakSet()

    def pages(self, memory: GuestMemory, template: TemplateMemory | None = None) -> Pages:
        """Return the page tracker for a fresh instance's memory, which becomes that of the template if one is given."""
        if self.page_map:
            return MappedPages(
                memory,
                self._buffers,
                image_bytes=self.image.memory_bytes,
                free_stack=(self.image.stack_low, self.image.globals[0]),
                image_part=self.image_part,
                template=template,
            )
        with self._lock:
            if self._fresh_memory is None:
                self._fresh_memory = bytes(memory.view(0, self.image.memory_bytes))
        return CopiedPages(memory, self._fresh_memory, template=template)

    def image_part(self, start: int, length: int) -> bytes:
        """Return a part of the image's memory, from a fresh instance."""
        scratch = Interpreter(self.engine, self.prelinked, memory_bytes=self.image.memory_bytes)
        try:
            return bytes(scratch.memory.view(start, length))
        finally:
            scratch.close()

    def places(self, owner: str | None) -> Places:
        """Return the places of an owner's cells that compute; they last as long as one of his sessions."""
        with self._lock:
            places = self._places.get(owner)
            if places is None:
                places = self._places[owner] = Places(self.deadlines, processor_count() + 1, _COMPUTING)
            return places

    def call_threads(self, owner: str | None) -> Executor:
        """Return the threads for submitted host functions; they are created on first use."""
        return self._threads_of(owner, "wasm-call", _CALL_THREADS if owner is None else _OWNER_CALL_THREADS)

    def copy_threads(self, owner: str | None) -> Executor:
        """Return the threads that the parallel copies of guests run on; they are created on first use."""
        return self._threads_of(owner, "wasm-copy", _COPY_THREADS if owner is None else _OWNER_COPY_THREADS)

    def _threads_of(self, owner: str | None, name: str, most: int) -> Executor:
        with self._lock:
            threads = self._threads.get((owner, name))
            if threads is None:
                threads = ThreadPoolExecutor(most, name, compute_behind_others)
                self._threads[owner, name] = threads
            return threads

    def add_session(self, session: OpenSession) -> None:
        """Register a new session, so that `close` closes it."""
        with self._lock:
            self._sessions.add(session)

    def remove_session(self, session: OpenSession) -> None:
        """Unregister a session that was closed. The threads of an owner end with his last session."""
        unused = []
        with self._lock:
            self._sessions.discard(session)
            if session.owner is not None and all(other.owner != session.owner for other in self._sessions):
                unused = [self._threads.pop(key) for key in list(self._threads) if key[0] == session.owner]
        for threads in unused:
            threads.shutdown(wait=False, cancel_futures=True)

    def session_count(self) -> int:
        """Return how many sessions are open."""
        return len(self._sessions)

    def close(self) -> None:
        """Close every session, then end the threads."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()
        self.deadlines.close()
        for threads in self._threads.values():
            threads.shutdown(cancel_futures=True)

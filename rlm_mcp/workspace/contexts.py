"""The contexts of one owner, as the event loop uses them.

The store is synchronous and does disk work, so every call of it happens on a worker thread.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import BinaryIO

import anyio
import anyio.from_thread

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.describe.overview import Overview, describe
from rlm_mcp.contexts.search import SearchResult, search
from rlm_mcp.contexts.sources.address import is_address
from rlm_mcp.contexts.store.lookup import MOST_LISTED
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context, LineRange, Page
from rlm_mcp.errors import RlmError, SourceRefused, UnknownContext
from rlm_mcp.workspace.change_feed import Bulletin, ResourceChange
from rlm_mcp.workspace.progress import IngestProgress

log = logging.getLogger(__name__)

FETCHES_AT_ONCE = 4
"""Sources by address that one owner fetches at once; others wait."""


class WorkspaceContexts:
    """Registers, reads and searches contexts. Announces what it changes to the change feed."""

    def __init__(self, store: Store, changes: Bulletin) -> None:
        self.store = store
        self._changes = changes
        self._fetching = anyio.Semaphore(FETCHES_AT_ONCE)

    async def register(
        self,
        *,
        source: str = "",
        text: str = "",
        name: str | None = None,
        supersedes: bool = False,
        include_secrets: bool = False,
        encoding: str | None = None,
        progress: IngestProgress | None = None,
        stdin: BinaryIO | None = None,
    ) -> Context:
        """Stores a source or a text; the same content under the same name is the same context.

        A text that `supersedes` is the next version of another text of its name; otherwise that is NameTaken.
        `taken` is updated while files are read. Cancellation acts within milliseconds and leaves nothing behind.
        """
        so_far = IngestProgress() if progress is None else progress

        def on_progress(files: int, size: int) -> None:
            anyio.from_thread.check_cancelled()
            so_far.add(files, size)

        if source:
            register = partial(
                self.store.register_source,
                source,
                name=name,
                include_secrets=include_secrets,
                encoding=encoding,
                on_progress=on_progress,
                stdin=stdin,
            )
            context = await (self._fetch(register) if is_address(source) else anyio.to_thread.run_sync(register))
        else:
            context = await run_in_thread(self.store.register_text, text, name=name, supersedes=supersedes)
        self._changes.add(ResourceChange())
        return context

    async def _fetch(self, register: Callable[[], Context]) -> Context:
        """Registers from an address, on a thread that waits for other machines and belongs to no pool."""
        async with self._fetching:
            return await anyio.to_thread.run_sync(register, limiter=anyio.CapacityLimiter(1))

    async def find_or_register(
        self,
        source: str,
        *,
        encoding: str | None = None,
        progress: IngestProgress | None = None,
        stdin: BinaryIO | None = None,
    ) -> Context:
        """The context that `source` means: an existing path is registered, anything else is an id or a name.

        Where both exist, the log says which was used. The store's error tells what is wrong where neither does.
        """
        named = None
        with suppress(UnknownContext):
            named = await self.get(source)
        if named is not None and not await anyio.Path(source).exists():
            if encoding is not None:
                raise SourceRefused(
                    f"{source!r} is a registered context, so that an encoding changes nothing: "
                    "name the file itself to register it again"
                )
            return named
        context = await self.register(source=source, encoding=encoding, progress=progress, stdin=stdin)
        if named is not None and named.source != context.source:
            log.warning(
                "%r is a path and the name of a context: the path was taken; the context is %s",
                source,
                named.context_id,
            )
        return context

    async def get(self, ref: str) -> Context:
        """The context with this id or name. Raises UnknownContext."""
        return await run_in_thread(self.store.get, ref)

    async def exists(self, context_id: str) -> bool:
        """Whether there is a context with this id, current or superseded."""
        try:
            return (await self.get(context_id)).context_id == context_id
        except UnknownContext:
            return False

    async def list_page(self, query: str = "", *, limit: int = 20, cursor: str | None = None) -> Page:
        """One page of contexts, newest first."""
        return await run_in_thread(self.store.list, query, limit=limit, cursor=cursor)

    async def list_all(self) -> list[Context]:
        """Every context, newest first."""
        return list((await self.list_page(limit=MOST_LISTED)).contexts)

    async def list_paths(self, ref: str) -> list[str]:
        """The paths of a context's files."""
        files = await run_in_thread(self.store.files, await self.get(ref))
        return [file.path for file in files]

    async def describe(self, context: Context) -> Overview:
        """The overview of a context: its structure, beginning, end and largest files."""
        return await run_in_thread(describe, self.store, context)

    async def read_lines(
        self, context: Context, start_line: int, end_line: int | None, path: str | None, *, max_chars: int
    ) -> LineRange:
        """Some lines of a context or of one of its files."""
        return await run_in_thread(self.store.read_lines, context, start_line, end_line, path=path, max_chars=max_chars)

    async def search(
        self, context: Context, pattern: str, *, path: str | None, max_matches: int, context_lines: int
    ) -> SearchResult:
        """Lines that match a pattern."""
        return await run_in_thread(
            search, self.store, context, pattern, path=path, max_matches=max_matches, context_lines=context_lines
        )

    async def remove(self, ref: str) -> Context:
        """Forgets a context. Raises ContextInUse while a run reads it."""
        context = await run_in_thread(self.store.remove, ref)
        self._changes.add(ResourceChange())
        return context

    async def refresh(self, ref: str) -> Context:
        """Registers the current content of a context's source: the same context, or the next version of it."""
        source = (await self.get(ref)).source
        refresh = partial(self.store.refresh, ref, on_progress=lambda *_: anyio.from_thread.check_cancelled())
        context = await (self._fetch(refresh) if is_address(source) else anyio.to_thread.run_sync(refresh))
        self._changes.add(ResourceChange())
        return context

    async def watch(
        self,
        context: Context,
        *,
        stop: threading.Event,
        on_version: Callable[[Context], None],
        on_error: Callable[[RlmError], None],
    ) -> None:
        """Registers a source again whenever it changes. Only `stop` ends it; cancellation does not.

        Both functions are called on another thread. Raises SourceRefused.
        """
        from rlm_mcp.contexts.watch import watch

        def announce(latest: Context) -> None:
            anyio.from_thread.run_sync(self._changes.add, ResourceChange())
            on_version(latest)

        watching = partial(watch, self.store, context.name, stop=stop, on_version=announce, on_error=on_error)
        await anyio.to_thread.run_sync(watching)

"""Fetches many texts at once, where finding each takes a request: those of buckets, and of a cluster's store."""

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress

from rlm_mcp.contexts.store.protocols import Blobs
from rlm_mcp.contexts.store.references import is_object, is_reference
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import FileEntry
from rlm_mcp.errors import StorageUnreachable

FETCHING_SHARE = 0.75
"""Of the time of a search: longer it does not wait for what must be fetched."""

FETCHED_AT_ONCE = 16
"""Objects that one search fetches at the same time."""


class TextFetcher:
    """Fetches texts of one store, before or while they are read. Any thread may use it."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._ahead: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<TextFetcher for {self._blobs!r}>"

    def close(self) -> None:
        """Begins nothing more of what `fetch_ahead` was asked for."""
        with self._lock:
            if self._ahead is not None:
                self._ahead.shutdown(wait=False, cancel_futures=True)

    def fetch(self, files: Sequence[FileEntry], timeout: Timeout) -> Sequence[FileEntry]:
        """Looks for many texts at once where each takes a request; gives those that were there in time.

        A share of the time is left to search what is there. What is being fetched then goes on, so that the next search
        finds it.
        """
        at_once = self._blobs.looked_for_at_once
        if any(is_object(entry.key) for entry in files):
            at_once = FETCHED_AT_ONCE
        if at_once == 1 or not files:
            return files
        located: set[str] = set()
        timeout = Timeout(FETCHING_SHARE * timeout.seconds_left)
        self._prepare(files)

        def locate(some: Sequence[FileEntry]) -> None:
            for entry in some:
                if timeout.expired:
                    return
                entry.locate()
                located.add(entry.path)

        threads = ThreadPoolExecutor(at_once, thread_name_prefix="fetch")
        try:
            begun = [threads.submit(locate, files[n::at_once]) for n in range(at_once)]
            done, _ = wait(begun, timeout.seconds_left, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            threads.shutdown(wait=False)
        in_time = frozenset(located)
        return [entry for entry in files if entry.path in in_time]

    def fetch_ahead(self, files: Sequence[FileEntry]) -> None:
        """Starts to fetch texts that will probably be read next, where that takes requests.

        They stay on this machine as long as their entries. What goes wrong is told when they are read.
        """
        if self._blobs.looked_for_at_once == 1 and not any(is_object(entry.key) for entry in files):
            return
        with suppress(StorageUnreachable):
            self._prepare(files)
        with self._lock:
            if self._ahead is None:
                self._ahead = ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch-ahead")
            for entry in files:
                self._ahead.submit(entry.locate)

    def _prepare(self, files: Sequence[FileEntry]) -> None:
        self._blobs.prepare([entry.key for entry in files if not is_reference(entry.key)])

"""Limits on memory: of one session, and of all sessions of a Runtime. Memory is reserved before it is used."""

import os
import threading
from collections import Counter

from wasm_runtime.errors import OutOfMemoryBudget


def default_budget_bytes() -> int | None:
    """Return half of this machine's memory, or None where the system does not report its size (Windows)."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


class MemoryBudget:
    """Bytes that all sessions of a Runtime may hold beyond the shared image. None means no limit.

    A named owner of sessions must leave as much free as his sessions hold: alone he can take half, beside another who
    does the same a third, so that there is always room for one more.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._used_by: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reserve(self, n: int, owner: str | None = None) -> bool:
        """Reserve n bytes and return True, or reserve nothing and return False."""
        with self._lock:
            if n > self.available(owner):
                return False
            self._used += n
            if owner is not None:
                self._used_by[owner] += n
            return True

    def release(self, n: int, owner: str | None = None) -> None:
        """Return n reserved bytes."""
        with self._lock:
            self._used -= n
            if owner is not None:
                self._used_by[owner] -= n
                if not self._used_by[owner]:
                    del self._used_by[owner]

    def available(self, owner: str | None = None) -> int:
        """Return how many bytes can be reserved now."""
        free = (1 << 62) if self._limit is None else max(0, self._limit - self._used)
        return free if owner is None else max(0, (free - self._used_by.get(owner, 0)) // 2)

    def __repr__(self) -> str:
        limit = "no limit" if self._limit is None else f"{self._limit >> 20} MiB"
        return f"<MemoryBudget {self._used >> 20} MiB of {limit}>"


class SessionMemory:
    """The memory of one session: its heap, its files, and what the host holds for it.

    It is the `Quota` of the session's file system. `reserve` and `release` may be called from any thread: an answer to
    a host call arrives on the thread that has made the call.
    """

    def __init__(self, limit_bytes: int, image_bytes: int, budget: MemoryBudget, owner: str | None = None) -> None:
        """The image counts towards the session's limit, but not towards the budget, because it is shared."""
        self._owner = owner
        self._limit = limit_bytes
        self._image_bytes = image_bytes
        self._budget = budget
        self._reserved = 0
        self._lock = threading.Lock()

    def reserve(self, n: int) -> bool:
        """Reserve n bytes of both limits and return True, or reserve nothing and return False."""
        if not n:  # as for most messages, which are short
            return True
        with self._lock:
            if self._image_bytes + self._reserved + n > self._limit or not self._budget.reserve(n, self._owner):
                return False
            self._reserved += n
            return True

    def release(self, n: int) -> None:
        """Return n reserved bytes to both limits."""
        if not n:
            return
        with self._lock:
            self._budget.release(n, self._owner)
            self._reserved -= n

    @property
    def reserved(self) -> int:
        """How many bytes are reserved: of the heap, the files and what the host holds."""
        return self._reserved

    def available(self) -> int:
        """Return how many bytes both limits have left."""
        return max(0, min(self._limit - self._image_bytes - self._reserved, self._budget.available(self._owner)))

    def require(self, n: int) -> None:
        """Reserve n bytes, or raise OutOfMemoryBudget."""
        if not self.reserve(n):
            raise OutOfMemoryBudget(
                f"{n >> 20} MiB more are needed and {self.available() >> 20} MiB are left: close other sessions, "
                "or raise memory_bytes of this one or memory_budget_bytes of the Runtime"
            )

    def close(self) -> None:
        """Return everything that is reserved."""
        self.release(self._reserved)

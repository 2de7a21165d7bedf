"""Memory, counted before it is used: per session, and for all sessions of a process together."""

import os
import threading

from wasm_runtime.errors import OutOfMemoryBudget


def default_budget_bytes() -> int | None:
    """Half of this machine's memory, or None where the system does not tell how much it has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


class MemoryBudget:
    """Bytes that all sessions of a Runtime may hold beyond the shared image. None means no bound."""

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._lock = threading.Lock()

    def reserve(self, n: int) -> bool:
        """Take n bytes, or nothing and return False."""
        with self._lock:
            if self._limit is not None and self._used + n > self._limit:
                return False
            self._used += n
            return True

    def release(self, n: int) -> None:
        """Give back n bytes that were reserved."""
        with self._lock:
            self._used -= n

    def available(self) -> int:
        """Bytes that could be reserved now."""
        return (1 << 62) if self._limit is None else max(0, self._limit - self._used)

    def __repr__(self) -> str:
        bound = "no bound" if self._limit is None else f"{self._limit >> 20} MiB"
        return f"<MemoryBudget {self._used >> 20} MiB of {bound}>"


class SessionMemory:
    """What one session holds, heap and files together; a `Quota` for its file system."""

    def __init__(self, limit_bytes: int, image_bytes: int, budget: MemoryBudget) -> None:
        """The image counts towards the session's limit, but not towards the budget: it is shared."""
        self._limit = limit_bytes
        self._image_bytes = image_bytes
        self._budget = budget
        self._taken = 0

    def reserve(self, n: int) -> bool:
        """Take n bytes from both, or nothing and return False."""
        if self._image_bytes + self._taken + n > self._limit or not self._budget.reserve(n):
            return False
        self._taken += n
        return True

    def release(self, n: int) -> None:
        """Give back n bytes to both."""
        self._budget.release(n)
        self._taken -= n

    def available(self) -> int:
        """Bytes that both have left."""
        return max(0, min(self._limit - self._image_bytes - self._taken, self._budget.available()))

    def require(self, n: int) -> None:
        """Take n bytes, or raise OutOfMemoryBudget."""
        if not self.reserve(n):
            raise OutOfMemoryBudget(
                f"{n >> 20} MiB more are needed and {self.available() >> 20} MiB are left: close other sessions, "
                "or raise memory_bytes of this one or memory_budget_bytes of the Runtime"
            )

    def close(self) -> None:
        """Give everything back."""
        self.release(self._taken)

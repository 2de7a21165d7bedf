"""What a guest's files may cost in host memory.

The tree asks before it allocates and gives back what it drops. A session passes a quota that shares its limit
with the guest's linear memory, so that filling `/tmp` and filling the heap end at the same number.
"""

from typing import Protocol


class Quota(Protocol):
    """A budget in bytes. It is asked on the guest's thread only."""

    def reserve(self, n: int) -> bool:
        """Take n bytes and return True, or take nothing and return False."""

    def release(self, n: int) -> None:
        """Give back n bytes that were reserved."""

    def available(self) -> int:
        """Bytes that could be reserved now; shown to the guest as free disk space."""


class FixedQuota:
    """A quota of its own, shared with nothing."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    def reserve(self, n: int) -> bool:
        """Take n bytes, or return False where they would pass the limit."""
        if self.used_bytes + n > self.limit_bytes:
            return False
        self.used_bytes += n
        return True

    def release(self, n: int) -> None:
        """Give back n bytes."""
        self.used_bytes -= n

    def available(self) -> int:
        """Bytes below the limit."""
        return max(0, self.limit_bytes - self.used_bytes)

    def __repr__(self) -> str:
        return f"<FixedQuota {self.used_bytes} of {self.limit_bytes} bytes>"

"""A limit on the host memory that a guest's files use.

The tree reserves bytes before it allocates them, and releases them afterwards. A session passes a quota that shares its
limit with the guest's linear memory, so that files and heap together cannot exceed it.
"""

from typing import Protocol


class Quota(Protocol):
    """A budget in bytes. Used on the guest's thread only."""

    def reserve(self, n: int) -> bool:
        """Reserve n bytes and return True, or reserve nothing and return False."""

    def release(self, n: int) -> None:
        """Return n reserved bytes."""

    def available(self) -> int:
        """Return how many bytes can be reserved now; the guest sees this as free disk space."""


class FixedQuota:
    """A quota with a fixed limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    def reserve(self, n: int) -> bool:
        """Reserve n bytes, or return False if they would exceed the limit."""
        if self.used_bytes + n > self.limit_bytes:
            return False
        self.used_bytes += n
        return True

    def release(self, n: int) -> None:
        """Return n reserved bytes."""
        self.used_bytes -= n

    def available(self) -> int:
        """Return how many bytes are left."""
        return max(0, self.limit_bytes - self.used_bytes)

    def __repr__(self) -> str:
        return f"<FixedQuota {self.used_bytes} of {self.limit_bytes} bytes>"

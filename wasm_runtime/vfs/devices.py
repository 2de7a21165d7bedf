"""Character devices: where a guest's reads and writes leave the file system.

The host binds its own under `/dev` (standard input and output, the host channel). They are streams, so `lseek` on them
is ESPIPE. `/dev/null`, `/dev/zero` and `/dev/urandom` always exist, and `lseek` on them returns 0, as on Linux.
"""

from collections.abc import Callable
from typing import Protocol

# A guest may ask for 2 GiB in one read. A short read is allowed, and keeps the host's buffer small.
LONGEST_READ = 1 << 20


class Device(Protocol):
    """Something that bytes are read from and written to. Instead of raising, it returns a negated `Errno`."""

    def read(self, n: int) -> bytes | int:
        """Return at most n bytes (none at the end of input), or a negated `Errno`."""

    def write(self, data: memoryview) -> int:
        """Take a prefix of data and return its length, or a negated `Errno`.

        The view is guest memory: it is valid only during the call.
        """


class NullDevice:
    """`/dev/null`: always at its end, accepts everything."""

    def read(self, n: int) -> bytes:  # noqa: ARG002 - Device's signature
        """Return nothing."""
        return b""

    def write(self, data: memoryview) -> int:
        """Take all of it."""
        return len(data)


class ZeroDevice(NullDevice):
    """`/dev/zero`: an endless source of zeros."""

    def read(self, n: int) -> bytes:
        """Return zeros."""
        return bytes(min(n, LONGEST_READ))


class RandomDevice(NullDevice):
    """`/dev/urandom`: bytes from the given source of randomness."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random

    def read(self, n: int) -> bytes:
        """Return bytes of the source."""
        return self._random(min(n, LONGEST_READ))

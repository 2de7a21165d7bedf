"""The guest that calls a host function: all that the function may touch."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wasm_runtime.machine.memory import GuestMemory
from wasm_runtime.vfs.filesystem import Vfs

# A date that a file may have in a zip archive too, which knows none before 1980.
FIXED_NS = 946_684_800 * 10**9


def _from_zero() -> Callable[[], int]:
    """Return a clock that starts now: the host's own would reveal how long this machine has been running."""
    started = time.monotonic_ns()
    return lambda: time.monotonic_ns() - started


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The time and the random bytes that a guest gets: in nothing else do two guests that run the same code differ.

    `start_monotonic` returns the monotonic clock of a new guest.
    """

    clock_ns: Callable[[], int] = time.time_ns
    start_monotonic: Callable[[], Callable[[], int]] = _from_zero
    random: Callable[[int], bytes] = os.urandom


REAL = Surroundings()
# Clocks that stand still, and zeros for random bytes: for guests that come to the same state in every process.
FIXED = Surroundings(clock_ns=lambda: FIXED_NS, start_monotonic=lambda: lambda: 0, random=bytes)


@dataclass(slots=True, kw_only=True)
class Guest:
    """One running interpreter: its memory, its files, its clock, and how it ended if it did.

    `grow` extends the memory to a size in bytes, or returns False. Each time the guest looks at a clock, that is ahead
    by `hurry_ns` more. `ended` is "exit" or "abort" once the guest
    has asked to end; the module traps right after. `failure` is the first exception of a host function: it must
    not cross the wasm boundary, so the session raises it after the guest has returned.
    """

    memory: GuestMemory
    vfs: Vfs
    grow: Callable[[int], bool]
    clock_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = field(default_factory=_from_zero)
    random: Callable[[int], bytes] = os.urandom
    ended: str | None = None
    exit_status: int = 0
    failure: BaseException | None = field(default=None, repr=False)
    hurry_ns: int = 0
    _ahead_ns: int = 0
    _used_ns: int = 0
    _entered_ns: int = 0

    def start_clock(self) -> None:
        """Start counting CPU time, before the guest's code runs."""
        self._entered_ns = self.monotonic_ns()

    def stop_clock(self) -> None:
        """Stop counting CPU time, after the guest's code has returned."""
        self._used_ns = self.cpu_ns()
        self._entered_ns = self.monotonic_ns()

    def ahead_ns(self) -> int:
        """Return how far ahead the clocks are at this look."""
        self._ahead_ns += self.hurry_ns
        return self._ahead_ns

    def cpu_ns(self) -> int:
        """Return how long the guest's code has run. Idle time does not count: `clock` of C fails after 35 minutes."""
        return self._used_ns + self.monotonic_ns() - self._entered_ns

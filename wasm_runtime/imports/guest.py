"""What a host function may touch: the guest it was called by, and nothing else."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wasm_runtime.machine.memory import GuestMemory
from wasm_runtime.vfs.filesystem import Vfs


def _from_zero() -> Callable[[], int]:
    """A clock that starts now: the host's own would tell how long this machine has been up."""
    started = time.monotonic_ns()
    return lambda: time.monotonic_ns() - started


@dataclass(slots=True, kw_only=True)
class Guest:
    """One running interpreter: its memory, its files, its clock, and how it ended if it did.

    `grow` gives the memory a new size in bytes, or refuses with False. `ended` is "exit" or "abort" once the
    guest asked to end; the module traps right after. `failure` holds the first exception that a host function
    met: it may not cross the wasm boundary, so the session raises it after the guest has returned.
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
    _used_ns: int = 0
    _entered_ns: int = 0

    def enter(self) -> None:
        """Take notice that its code begins to run."""
        self._entered_ns = self.monotonic_ns()

    def leave(self) -> None:
        """Take notice that its code has ended."""
        self._used_ns = self.cpu_ns()
        self._entered_ns = self.monotonic_ns()

    def cpu_ns(self) -> int:
        """How long its code has run. The C library's `clock` fails beyond 35 minutes, so idle time is left out."""
        return self._used_ns + self.monotonic_ns() - self._entered_ns

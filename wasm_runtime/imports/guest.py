"""What a host function may touch: the guest it was called by, and nothing else."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wasm_runtime.memory import GuestMemory
from wasm_runtime.vfs import Vfs


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
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    random: Callable[[int], bytes] = os.urandom
    ended: str | None = None
    exit_status: int = 0
    failure: BaseException | None = field(default=None, repr=False)

"""Limits of one session."""

from dataclasses import dataclass

LARGEST_MEMORY = 4 << 30  # of a 32-bit WebAssembly module


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one session. Raises ValueError for a value out of range.

    memory_bytes   the guest's heap and its files together; beyond this the guest gets MemoryError or ENOSPC. What the
                   packages of an image take comes on top
    cell_seconds   how long one cell may run, not counting its waits for host functions
    output_bytes   how much of stdout, and of stderr, is kept per cell: half from its beginning, half from its end
    """

    memory_bytes: int = 512 << 20
    cell_seconds: float = 30.0
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        # The interpreter itself takes 30 MiB; with less than twice that, ordinary imports fail in unexpected places.
        if not 64 << 20 <= self.memory_bytes <= LARGEST_MEMORY:
            raise ValueError(f"memory_bytes is {self.memory_bytes}: give from 64 MiB ({64 << 20}) to 4 GiB ({4 << 30})")
        if not 0 < self.cell_seconds <= 86400:
            raise ValueError(f"cell_seconds is {self.cell_seconds}: give more than 0 and at most 86400")
        if not 1024 <= self.output_bytes <= 1 << 30:
            raise ValueError(f"output_bytes is {self.output_bytes}: give from 1024 to 1073741824")

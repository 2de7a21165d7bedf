"""What each of several processes has for its sessions: a share of the memory, and a cache directory of its own."""

from pathlib import Path


def memory_share(processes: int) -> int | None:
    """The memory that the sessions of one of several processes may use together; None if it is not known."""
    from wasm_runtime.budget import default_budget_bytes

    half = default_budget_bytes()
    return None if half is None else half // processes


def processor_count() -> int:
    """How many sessions of this process can compute at the same time."""
    from wasm_runtime.priority import processor_count

    return processor_count()


def cache_of_workers(cache_dir: Path) -> Path:
    """The cache directory of processes that may be taken over; the others never run what is compiled in it.

    The image without packages is copied, others are compiled there once more.
    """
    from wasm_runtime.compile_cache import copy_compiled, load_image

    own = cache_dir / "workers"
    own.mkdir(parents=True, exist_ok=True, mode=0o700)
    copy_compiled(load_image(), cache_dir, own)
    return own

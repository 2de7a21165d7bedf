"""Functions shared by the drivers: repeat and time an action, read memory, print samples, run cells."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import CACHE_DIR

TEXT_BYTES = 100_000_000
SUB_CALLS = 64
MEMORY_BYTES = 512 << 20
SUB_CALL_SECONDS = 0.05
STOP_SECONDS = 0.3
QUICK = "quick" in sys.argv[2:]


def often(full: int, *, quick: int) -> int:
    """Return the number of repetitions."""
    return quick if QUICK else full


def sample(action: Callable[[], object], *, repeats: int, seconds: float = 8.0) -> list[float]:
    """Return the durations of `repeats` runs of `action`, or of as many as fit into `seconds`."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < repeats:
        started = time.perf_counter()
        action()
        ended = time.perf_counter()
        times.append(ended - started)
        if ended > until:
            break
    return times


def anonymous_bytes(pids: Iterable[int] = ()) -> int:
    """Return the anonymous memory of this process and of `pids`."""
    total = 0
    for pid in [os.getpid(), *pids]:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += _kilobytes(rollup, "Anonymous")
    return total


def resident_bytes(*, peak: bool = False) -> int:
    """Return the current or peak resident memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return _kilobytes(status, "VmHWM" if peak else "VmRSS")


def _kilobytes(text: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def text_file() -> Path:
    """Return a file of TEXT_BYTES of ASCII, written on first use."""
    path = CACHE_DIR / "hundred-megabytes" / "big.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        line = b"2026-01-01 12:00:00 service alpha answered request 0123456789 after a short while, no retry needed\n"
        path.write_bytes((line * (TEXT_BYTES // len(line) + 1))[:TEXT_BYTES])
    return path


def workload_source() -> str:
    """Return the ten CPU workloads as one program."""
    settings = "SIZE, ROUNDS = 2_000_000, 1\n" if QUICK else "SIZE, ROUNDS = 10_000_000, 1\n"
    return settings + Path(__file__).parents[1].joinpath("workloads.py").read_text(encoding="utf-8")


def tell(**figures: Sequence[float]) -> None:
    """Print samples as a line of JSON."""
    print(json.dumps(figures), flush=True)


def serve_cells(run: Callable[[str, float], str]) -> None:
    """Run a cell for each line of JSON on stdin, `code` and `seconds`, and print what it `said` as a line of JSON."""
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            said = run(asked["code"], asked["seconds"])
        except Exception as error:  # noqa: BLE001 - whatever a sandbox raises is its answer
            said = f"{type(error).__name__}: {error}"
        print(json.dumps({"said": said[:100_000] + said[-100_000:], "chars": len(said)}), flush=True)


def drive(groups: Mapping[str, Callable[[], None]]) -> None:
    """Measure the group named on the command line."""
    if sys.argv[1] in groups:
        groups[sys.argv[1]]()

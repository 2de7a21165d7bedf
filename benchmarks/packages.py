"""Sessions with packages beside sessions without, in the same run: `python -m benchmarks.packages --image FOLDER`.

The image must have numpy and pandas. Every figure is the least of its repetitions, taken in turns, which a busy machine
disturbs least. With numpy and pandas installed on the host, ten operations are timed on both sides; the ratio is how
many times longer the sandbox takes.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from wasm_runtime import Limits, Runtime, Session

_ROUNDS, _REPETITIONS = 20, 5
_LIMITS = Limits(memory_bytes=1 << 30, cell_seconds=120.0)
_SETUP = """
import io, time
import numpy as np, pandas as pd
rng = np.random.default_rng(1)
a, m = rng.random(1_000_000), rng.random((200, 200))
frame = pd.DataFrame({"k": rng.integers(0, 100, 200_000), "x": rng.random(200_000)})
frame["s"] = "row " + frame.k.astype(str)
text = frame.head(50_000).to_csv(index=False)
def least(code):
    times = []
    for _ in range(3):
        started = time.perf_counter()
        eval(code, globals())
        times.append(time.perf_counter() - started)
    return min(times)
"""
_HELD_OBJECTS = "held = [bytes(4000) for _ in range(13_000)]"
_HELD_ARRAYS = "held = [a + n for n in range(6)]"
OPERATIONS = {
    "read_csv, 50,000 rows": "pd.read_csv(io.StringIO(text))",
    "groupby sum, 200,000 rows": "frame.groupby('k').x.sum()",
    "merge with 100 rows": "frame.merge(frame.drop_duplicates('k'), on='k')",
    "str.contains": "frame.s.str.contains('9')",
    "value_counts": "frame.k.value_counts()",
    "sort_values": "frame.sort_values('x')",
    "elementwise, a million": "a * 2 + 1",
    "sum, a million": "a.sum()",
    "sort, a million": "np.sort(a)",
    "matmul, 200 x 200": "m @ m",
}


def sessions(runtimes: dict[str, Runtime]) -> None:
    """Print what a session costs with each image."""
    rows: dict[str, dict[str, float]] = {}

    def timed(row: str, name: str, action: Callable[[], object]) -> None:
        started = time.perf_counter()
        action()
        taken = (time.perf_counter() - started) * 1000
        rows.setdefault(row, {})[name] = min(taken, rows.get(row, {}).get(name, taken))

    for _ in range(_ROUNDS):
        for name, runtime in runtimes.items():
            timed("fresh session", name, partial(_open, runtime))
            with runtime.session(limits=_LIMITS) as session:
                timed("first exec", name, partial(session.exec, "1"))
                timed("x = 1", name, partial(session.exec, "x = 1"))
                if name != "base":
                    timed("import numpy, pandas", name, partial(session.exec, "import numpy, pandas"))
                timed("fork", name, partial(_fork, session))
                timed("checkpoint", name, session.checkpoint)
    for name, runtime in runtimes.items():
        with runtime.session(limits=_LIMITS) as session:
            session.exec(_HELD_OBJECTS if name == "base" else f"{_SETUP}\n{_HELD_ARRAYS}")
            for _ in range(_REPETITIONS):
                timed("cell after 50 MB", name, partial(session.exec, "1"))
    print("| ms, least | " + " | ".join(runtimes) + " |\n|---|" + "---|" * len(runtimes))
    for row, figures in rows.items():
        print(f"| {row} | " + " | ".join(f"{figures[n]:.2f}" if n in figures else "" for n in runtimes) + " |")


def _open(runtime: Runtime) -> None:
    runtime.session(limits=_LIMITS).close()


def _fork(session: Session) -> None:
    session.fork().close()


def operations(session: Session) -> None:
    """Print how many times longer each operation takes than natively, where numpy and pandas are installed."""
    session.exec(_SETUP)
    native: dict[str, object] = {}
    if importlib.util.find_spec("numpy") and importlib.util.find_spec("pandas"):
        exec(_SETUP, native)  # noqa: S102 - our own text
    print("\n| operation | sandbox, ms | native, ms | ratio |\n|---|---|---|---|")
    for name, code in OPERATIONS.items():
        here = float(session.exec(f"least({code!r})").value or "nan")
        there = float(eval(f"least({code!r})", native)) if native else float("nan")  # noqa: S307 - our own text
        print(f"| {name} | {here * 1000:.2f} | {there * 1000:.2f} | {here / there:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True, help="the folder of an image with numpy and pandas")
    options = parser.parse_args()
    with Runtime() as base, Runtime(image=options.image) as packages:
        sessions({"base": base, "packages": packages})
        with packages.session(limits=_LIMITS) as session:
            operations(session)


if __name__ == "__main__":
    main()

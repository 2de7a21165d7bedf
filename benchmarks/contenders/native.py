"""Driver for the system's Python without a sandbox, the reference for speed. Runs under that Python itself."""

import json
import select
import subprocess
import sys

from benchmarks.contenders.measuring import drive, often, sample, serve_cells, tell, text_file, workload_source

_CHILD = """
import contextlib, io, json, sys
names = {}
for line in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            exec(json.loads(line), names)
        except BaseException as error:
            print(type(error).__name__, error)
    print(json.dumps(said.getvalue()), flush=True)
"""


def fresh() -> None:
    start = lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)  # noqa: E731 - sampled by name
    tell(fresh=sample(start, repeats=often(20, quick=5)))


def text() -> None:
    tell(text_seconds=sample(lambda: text_file().read_text(encoding="utf-8"), repeats=3))


def cpu() -> None:
    exec(workload_source(), {"__name__": "__main__"})  # noqa: S102 - our own file, as the sandboxes run it


def cells() -> None:
    children: list[subprocess.Popen[str]] = []

    def run(code: str, seconds: float) -> str:
        if not children:
            pipe = subprocess.PIPE
            command = [sys.executable, "-c", _CHILD]
            children.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))  # noqa: S603 - our own code
        child = children[0]
        assert child.stdin is not None
        assert child.stdout is not None
        print(json.dumps(code), file=child.stdin, flush=True)
        ready, _, _ = select.select([child.stdout], [], [], seconds)
        line = child.stdout.readline() if ready else ""
        if not line:
            child.kill()
            child.communicate()
            children.clear()
        return str(json.loads(line)) if line else "ended"

    serve_cells(run)


if __name__ == "__main__":
    drive({"fresh": fresh, "text": text, "cpu": cpu, "cells": cells})

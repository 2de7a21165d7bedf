"""Start of stdio servers: time from the start of the process to the answers that a client asks for first.

    python -m benchmarks.startup [--starts 10] [--peers DIR]

Each server is asked for its lists as soon as it has answered `initialize` (or, in the newer protocol,
`server/discover`), and is then killed. CPU is that of the process at the last answer. A minimal server of the MCP SDK
with one tool is measured beside ours; `--peers` is a directory in which `npm install @playwright/mcp
@upstash/context7-mcp` was run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MINIMAL_SERVER = """
from mcp.server import MCPServer
server = MCPServer("minimal")
@server.tool()
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b
server.run("stdio")
"""
PEERS = {
    "playwright-mcp": "node_modules/@playwright/mcp/cli.js",
    "context7": "node_modules/@upstash/context7-mcp/dist/index.js",
}
META = "io.modelcontextprotocol/"
INFO = {"name": "benchmark", "version": "1"}
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": INFO}
ENVELOPE = {
    "_meta": {META + "protocolVersion": "2026-07-28", META + "clientInfo": INFO, META + "clientCapabilities": {}}
}
LISTS = ("tools/list", "prompts/list", "resources/templates/list")
TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of a server: seconds until each answer, and CPU seconds of the process until the last."""

    answers: Mapping[str, float]
    cpu: float


def started(command: Sequence[str], environ: Mapping[str, str], era: str) -> Start:
    """Starts a server and asks for the lists that it says it has; a method that it lacks is an answer too."""
    begun = time.perf_counter()
    answers = {}
    with server(command, environ) as process:
        for method, params in _requests(era):
            _write(process, {"id": method, "method": method, "params": params})
            while _read(process).get("id") != method:
                pass
            answers[method] = time.perf_counter() - begun
            if method == "initialize":
                _write(process, {"method": "notifications/initialized"})
        return Start(answers=answers, cpu=_cpu_seconds(process.pid))


@contextmanager
def server(command: Sequence[str], environ: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A server process that is killed after the block."""
    with subprocess.Popen(  # noqa: S603 - the command of this benchmark
        command, env=dict(environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _requests(era: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
    if era == "legacy":
        return [("initialize", HELLO), *((method, {}) for method in LISTS)]
    return [(method, ENVELOPE) for method in ("server/discover", *LISTS)]


def _write(process: "subprocess.Popen[bytes]", message: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()


def _read(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert process.stdout is not None
    message: dict[str, Any] = json.loads(process.stdout.readline())
    return message


def _cpu_seconds(pid: int) -> float:
    """User and system time of all threads, to a nanosecond where the system has it and else to a hundredth."""
    try:
        return (
            sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
        )
    except OSError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK


def measure(name: str, command: Sequence[str], environ: Mapping[str, str], *, era: str, starts: int) -> None:
    """Prints the medians of several starts, after one that is not counted."""
    started(command, environ, era)
    measured = [started(command, environ, era) for _ in range(starts)]
    first, *_, last = measured[0].answers
    seconds = {method: statistics.median(start.answers[method] for start in measured) for method in (first, last)}
    cpu = statistics.median(start.cpu for start in measured)
    slowest = max(start.answers[last] for start in measured)
    print(
        f"{name:<16} {era:<7} first answer {seconds[first] * 1e3:5.0f} ms, lists {seconds[last] * 1e3:5.0f} ms "
        f"(slowest {slowest * 1e3:5.0f}), CPU {cpu * 1e3:5.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--peers", type=Path, help="directory with the npm packages of other servers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environ = {"PATH": os.environ["PATH"], "HOME": home}
        own = [str(Path(sys.executable).parent / "rlm-mcp")]
        for era in ("legacy", "modern"):
            measure("rlm-mcp", own, environ, era=era, starts=options.starts)
            measure("minimal SDK", [sys.executable, "-c", MINIMAL_SERVER], environ, era=era, starts=options.starts)
        for name, path in PEERS.items() if options.peers else ():
            if (script := options.peers / path).exists():
                measure(name, ["node", str(script)], environ, era="legacy", starts=options.starts)
        begun = time.perf_counter()
        subprocess.run([*own, "--version"], env=environ, check=True, capture_output=True)  # noqa: S603 - our own command
        print(f"rlm-mcp --version {(time.perf_counter() - begun) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()

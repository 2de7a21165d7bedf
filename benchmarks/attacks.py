"""Latency for others while one tenant attacks a server, a figure of `python -m benchmarks.workers attacks`.

Starts `rlm-mcp serve --http` with two tokens. While ann repeats one attack after the other, GET /health and
`tools/list` of bob are timed from this process, and the memory of the server is read. One line for each attack: p50,
p99 and maximum of both in milliseconds, and the resident memory at its highest.
"""

import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client, MCPError

from rlm_mcp.server.transports.token_file import digest_of
from rlm_mcp.settings import load_settings
from tests.peers.openai_server import OpenAIServer, Request
from tests.peers.places import COMMAND, at, environment, http_process, listening
from wasm_runtime import Runtime

ANN, BOB = "token-of-ann", "token-of-bob"
PROBE_SECONDS = 0.1
AT_ONCE = 8

Attack = Callable[[Client, int], Awaitable[object]]
"""one of its calls, and its number"""


def _cell(code: str) -> Attack:
    return lambda ann, number: ann.call_tool(
        "inspect_context", {"context": f"c{number % AT_ONCE}", "code": code, "timeout_seconds": 2}
    )


def _search(path: str) -> Attack:
    return lambda ann, _: ann.call_tool("inspect_context", {"context": "c0", "search": "x", "path": path})


def _run(reply: str, **more: Any) -> Attack:
    """A run whose root model says what `reply` names."""
    question = {"contexts": ["c0"], "mode": "rlm", "wait_seconds": 20, **more}
    return lambda ann, number: ann.call_tool("rlm_solve", {"query": f"say-{reply} {number}", **question})


REPLIES = {
    "blanks": "```" + " " * 4_000 + "!",
    "fences": "```\n" * 250_000,
    "brackets": "```repl\nx = " + "(" * 200_000 + "\n```",
    "quotes": "```repl\nFINAL('“' * 64_000)\n```",
    "letters": '```repl\nFINAL({"a": "' + "a" * 40 + '!"})\n```',
}
PATTERN = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a|a)*$"}}}
SLICES = "s = slice(1)\nfor _ in range(60): s = slice(s, s, s)\nhash(s)"
UNFETCHED = "import host\nfor _ in range(40): host.submit_all('read_chars', [(['c0', 'text.txt', 0, 90_000], {})] * 20)"

ATTACKS: Mapping[str, Attack | None] = {
    "nothing": None,
    "cells that loop": _cell("while True: pass"),
    "cells that recurse": _cell(SLICES),
    "cells that search in a loop": _cell("while True: search('x')"),
    "answers that nobody fetches": _cell(UNFETCHED),
    "globs of stars": _search("*" * 40 + "z"),
    "globs of directories": _search("**/" * 300 + "z"),
    **{f"replies of {name}": _run(name) for name in REPLIES},
    "schemas that backtrack": _run("letters", output_schema=PATTERN),
}


@dataclass(slots=True)
class Measured:
    """Measurements of another tenant during one attack."""

    health: list[float] = field(default_factory=list)
    listing: list[float] = field(default_factory=list)
    rss_bytes: int = 0


async def measure(url: str, pid: int, attack: Attack | None, ann: Client, bob: Client, seconds: float) -> Measured:
    """Repeats the attack AT_ONCE times beside the probes."""
    seen, numbers = Measured(), itertools.count()

    async def attack_again() -> None:
        while attack is not None:
            try:
                await attack(ann, next(numbers))
            except MCPError:
                await anyio.sleep(0.1)

    async def probe(times: list[float], ask: Callable[[], Awaitable[object]]) -> None:
        while True:
            began = time.monotonic()
            await ask()
            times.append((time.monotonic() - began) * 1_000)
            seen.rss_bytes = max(seen.rss_bytes, resident_bytes(pid))
            await anyio.sleep(PROBE_SECONDS)

    async with httpx2.AsyncClient(timeout=120) as http:
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for _ in range(AT_ONCE):
                    tasks.start_soon(attack_again)
                tasks.start_soon(probe, seen.health, lambda: http.get(f"{url}/health"))
                tasks.start_soon(probe, seen.listing, lambda: bob.list_tools(cache_mode="bypass"))
    return seen


def resident_bytes(pid: int) -> int:
    """The resident memory of a process; 0 where there is no /proc."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")), 0)


def shown(times: list[float]) -> str:
    """p50, p99 and maximum."""
    order = sorted(times) or [float("nan")]
    return " ".join(f"{order[min(len(order) - 1, int(len(order) * share))]:7.0f}" for share in (0.5, 0.99, 1.0))


def reply_to(request: Request) -> str:
    """The reply that the query of a run names."""
    return next((reply for name, reply in REPLIES.items() if f"say-{name} " in request.text), "```repl\nFINAL(1)\n```")


HEADING = f"{'attack':30} {'/health p50, p99, max':>24} {'tools/list p50, p99, max':>26} {'MB':>6}"


async def measure_all(workers: int, seconds: float) -> None:
    """Prints one line for each attack. The memory is that of the process that listens."""
    with tempfile.TemporaryDirectory() as scratch, OpenAIServer(reply_to).run_in_thread() as endpoint:
        directory = Path(scratch)
        tokens = directory / "tokens"
        tokens.write_text(f"ann {digest_of(ANN)}\nbob {digest_of(BOB)}\n")
        cache = load_settings().cache_dir
        with Runtime(cache) as runtime, runtime.session() as session:
            session.exec("1")  # the sandbox is compiled
        environ = environment(directory, cache, endpoint.base_url)
        with http_process(environ, "--token-file", str(tokens), command=COMMAND, workers=workers) as (process, url):
            await listening(url)
            async with at(url, "auto", ANN) as ann, at(url, "auto", BOB) as bob:
                for number in range(AT_ONCE):
                    await ann.call_tool("register_context", {"text": "hello x\n" * 12_000, "name": f"c{number}"})
                await ann.call_tool("inspect_context", {"context": "c0", "code": "1"})
                for name, attack in ATTACKS.items():
                    seen = await measure(url, process.pid, attack, ann, bob, seconds)
                    print(
                        f"{name:30} {shown(seen.health):>24} {shown(seen.listing):>26} {seen.rss_bytes >> 20:6}",
                        flush=True,
                    )

"""The scripted models of `benchmarks.engine` in a process of their own: the root model follows the question.

python -m benchmarks.engine_server LATENCY SUB_LATENCY FAULTS
"""

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from benchmarks.dialects import DIALECTS
from tests.peers.openai_server import Fault, OpenAIServer, Request

LOOPS = {
    "statement": "notes = []\nfor i in range(64):\n    notes.append(llm_query(f'item {i}: what is it?'))",
    "comprehension": "notes = [llm_query(f'item {i}: what is it?') for i in range(64)]",
    "helper": "def ask(i):\n    return llm_query(f'item {i}: what is it?')\nnotes = []\nfor i in range(64):\n"
    "    notes.append(ask(i))",
    "summary": "notes = ['']\nfor i in range(16):\n    notes.append(llm_query(f'item {i}, {notes[-1][-20:]}'))",
    "exit": "notes = []\nfor i in range(64):\n    notes.append(llm_query(f'item {i}: what is it?'))\n"
    "    if notes[-1].startswith('ok item 9:'):\n        break",
    "silent": "notes = []\nfor i in range(300_000):\n    notes.append(i)",
}
"""Blocks with a plain loop of sub-calls."""


TURNS, BATCH = 6, 7
"""Turns and sub-calls a turn of a program whose failures are counted."""
BROKEN = 3
"""The turn in which it raises, is out of time, or is killed."""
NEEDED = TURNS * (BATCH + 1) + 1
LIMIT_SECONDS, HANG_SECONDS = 3.0, 6.0
"""The limit of a run whose model hangs once, after the turn in which it breaks, and for how long."""


def program(question: str) -> tuple[list[str], str]:
    """The cells of `turns N`, `batch N`, `plain loop X` or `work [and raise]` after `number N:`, and the variable."""
    if loop := re.search(r"number \w+: plain loop (\w+)", question):
        return [LOOPS[loop[1]] + "\ncount = len(notes)"], "count"
    if re.search(r"number \w+: work", question):
        cells = [part_of_work(number) for number in range(1, TURNS + 1)]
        if "and raise" in question:
            cells.insert(BROKEN, cells[BROKEN - 1])  # the model corrects its mistake
            cells[BROKEN - 1] += "\nraise ValueError('a mistake of the model')"
        return cells, "total"
    asked = re.search(r"number \w+: (turns|batch) (\d+)", question)
    kind, number = (asked[1], int(asked[2])) if asked else ("turns", 1)
    if kind == "batch":
        batch = f"replies = llm_query_batched([f'question {{i}}: ' + 'x' * 500 for i in range({number})])"
        return [f"{batch}\ndone = sum(1 for reply in replies if reply.startswith('ok'))\nprint(done)"], "done"
    cells = [f"seen_{n} = context[{n * 100}:{n * 100 + 40}]\nprint({n}, seen_{n})" for n in range(1, number)]
    return cells, f"seen_{number - 1}"


def part_of_work(number: int) -> str:
    """A batch of sub-calls that a variable keeps, so that the cell can run again without them."""
    return (
        f"if 'part_{number}' not in dir():\n"
        f"    part_{number} = llm_query_batched([f'part {number}.{{n}}' for n in range({BATCH})])\n"
        f"total = ' '.join(part_{number})[:80]"
    )


def behave(request: Request) -> str:
    """Replies as the root model of the engine that asks, or as a sub-model."""
    dialect = DIALECTS[request.body["model"].removeprefix("openai/")]
    if not dialect.is_root(request):
        return "ok " + request.last[:40]
    return dialect.reply(request, *program(request.text))


def fault_for(request: Request) -> Fault | None:
    """All kinds of failure, spread over the requests."""
    ways = {
        5: Fault(status=429, retry_after=0.01, latency=0.0),
        11: Fault(status=500, latency=0.0),
        17: Fault(drop="before"),
        23: Fault(drop="during"),
    }
    return ways.get(request.number % 29)


def serve(latency: float, sub_latency: float, *, faults: bool) -> None:
    """Runs the server until killed; prints its base URL."""
    hung: list[Request] = []

    def slowly(request: Request) -> Fault | None:
        fault = fault_for(request) if faults else None
        if fault is not None:
            return fault
        dialect = DIALECTS[request.body["model"]]
        if not dialect.is_root(request):
            return Fault(latency=sub_latency)
        if not hung and "and hang" in request.text and dialect.turn(request) == BROKEN + 1:
            hung.append(request)
            return Fault(latency=HANG_SECONDS)
        return Fault(latency=latency)

    async def main() -> None:
        async with OpenAIServer(behave, faults=slowly, models=[*DIALECTS], keep_requests=False) as server:
            print(server.base_url, flush=True)
            await anyio.sleep_forever()

    anyio.run(main)


@asynccontextmanager
async def serving(*, latency: float = 0.0, sub_latency: float = 0.0, faults: bool = False) -> AsyncIterator[str]:
    """Runs a server in a separate process; yields its base URL."""
    command = [sys.executable, "-m", "benchmarks.engine_server", str(latency), str(sub_latency), str(int(faults))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220, S603 # our own server, made once
        assert process.stdout is not None
        url = await anyio.to_thread.run_sync(process.stdout.readline)
        try:
            yield url.strip()
        finally:
            process.kill()


if __name__ == "__main__":
    serve(float(sys.argv[1]), float(sys.argv[2]), faults=sys.argv[3] == "1")

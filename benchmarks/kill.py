"""Kills processes in the middle of runs, goes on with the runs, and counts what was asked twice.

    python -m benchmarks.kill [--runs 100] [--seed 0]

Each run is one of `rlm-mcp solve` in a process of its own, over a scripted OpenAI-compatible server that keeps every
request. SIGKILL comes some milliseconds after an event of the record, both drawn by lot, so that the moments spread
over the whole run however busy the machine is; runs that were over by then do not count.
Another process goes on with `rlm-mcp runs resume`. A call that is on record must not be asked again, and the answer
must be that of a run that nobody killed. What the server had answered and the killed process had not put on record,
a few milliseconds' worth, is asked again: it is told beside. The cache of sub-calls, which would hide repetitions, is
switched off.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_mcp.cli.main import main as main_of_rlm_mcp
from tests.peers.openai_server import OpenAIServer, Request

CACHE_DIR = Path(tempfile.gettempdir()) / "rlm-mcp-benchmark"  # the compiled sandbox is made once
TURNS, BATCH = 6, 7
ANSWER = str(sum(range(TURNS * BATCH)))
LATENCY = 0.02
# Processes are forks of one that has imported everything: importing takes three times as long as a run.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["rlm_mcp.server.server", "rlm_mcp.cli.commands.solving", "rlm_mcp.cli.commands.runs", __name__]
)

EVENTS = 2 + TURNS * (BATCH + 3)
"""Of a run before its last turn: its start and its way; a turn has a reply, a cell, a decision and its sub-calls."""
LONGEST_PAUSE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """One run that was killed and went on. `repeated` were on record; `lost` had been answered and were not."""

    turns_on_record: int
    calls_on_record: int
    repeated: int
    lost: int
    is_right: bool


def behave(request: Request) -> str:
    """A root model that asks a batch of sub-calls a turn and adds their replies up; sub-calls reply their number."""
    if "FINAL" not in request.text:
        return re.sub(r"\D", "", request.last)
    turn = _turn(request)
    if turn > TURNS:
        return "```repl\nFINAL(str(total))\n```"
    numbers = range((turn - 1) * BATCH, turn * BATCH)
    start = "total = 0\n" if turn == 1 else ""
    return (
        f"```repl\n{start}replies = llm_query_batched([f'say {{n}}' for n in {list(numbers)}])\n"
        "total += sum(int(reply) for reply in replies)\nprint(total)\n```"
    )


async def killed_and_resumed(directory: Path, events: int, pause: float, cache_dir: Path = CACHE_DIR) -> Killed | None:
    """One run, killed `pause` seconds after it had `events` on record; None where it was over by then."""
    (directory / "input.txt").write_text("a line\n" * 20_000)
    async with OpenAIServer(behave, latency=LATENCY) as server:
        environ = _environ(server.base_url, directory / "data", cache_dir)
        command = ["solve", "--quiet", "--mode", "rlm", "add it up", str(directory / "input.txt")]
        process = _PROCESSES.Process(target=_carry_out, args=(environ, command, directory / "told.txt"))
        process.start()
        try:
            record = await asyncio.to_thread(_wait_for_record, directory / "data" / "runs", events)
            await asyncio.sleep(pause)
        finally:
            process.kill()
            await asyncio.to_thread(process.join)
        on_record = _events(record)
        if any(event["event"] == "run_ended" for event in on_record):
            return None
        answered = Counter(map(_asked, server.requests))
        known = {f"turn {event['turn']}" for event in on_record if event["event"] == "root_reply"}
        turns = len(known)
        known |= {event["prompt_head"] for event in on_record if event["event"] == "sub_reply"}
        server.requests.clear()
        command = ["runs", "resume", record.parent.name, "--json"]
        resumed = _PROCESSES.Process(target=_carry_out, args=(environ, command, directory / "told.txt"))
        resumed.start()
        await asyncio.to_thread(resumed.join)
        told = (directory / "told.txt").read_text()
        again = Counter(map(_asked, server.requests))
    return Killed(
        turns_on_record=turns,
        calls_on_record=len(known),
        repeated=sum(again[name] for name in known),
        lost=sum((answered & again).values()),
        is_right=resumed.exitcode == 0
        and json.loads(told)["answer"] == ANSWER
        and all(times == 1 for times in again.values()),
    )


def _turn(request: Request) -> int:
    return [message["role"] for message in request.messages].count("assistant") + 1


def _asked(request: Request) -> str:
    return f"turn {_turn(request)}" if "FINAL" in request.text else request.last


def _environ(base_url: str, data_dir: Path, cache_dir: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(data_dir.parent),
        "RLM_MCP_BASE_URL": base_url,
        "RLM_MCP_MODEL": "scripted",
        "RLM_MCP_DATA_DIR": str(data_dir),
        "RLM_MCP_CACHE_DIR": str(cache_dir),
        "RLM_MCP_SUB_CALL_CACHE": "false",
    }


def _carry_out(environ: dict[str, str], command: list[str], told: Path) -> None:
    """In a process of its own: `rlm-mcp` with this command, its stdout in a file."""
    os.environ.clear()
    os.environ.update(environ)
    with told.open("w") as out, Path(os.devnull).open("w") as nothing:
        os.dup2(out.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        sys.exit(main_of_rlm_mcp(command))


def _wait_for_record(runs: Path, events: int) -> Path:
    """The record of the only run there, once it has so many events or the last one."""
    latest = time.monotonic() + 120
    while time.monotonic() < latest:
        for record in runs.glob("*/events.jsonl"):
            data = record.read_bytes()
            if data.count(b"\n") >= events or b'"run_ended"' in data:
                return record
        time.sleep(0.002)
    raise TimeoutError(f"no run has {events} events on record after two minutes")


def _events(record: Path) -> list[dict[str, Any]]:
    """Whole lines only: the kill may have torn the last."""
    return [json.loads(line) for line in record.read_bytes().split(b"\n")[:-1]]


async def _measure(runs: int, seed: int) -> None:
    dice = random.Random(seed)
    found: list[Killed] = []
    while len(found) < runs:
        with tempfile.TemporaryDirectory() as directory:
            drawn = dice.randint(1, EVENTS), dice.uniform(0.0, LONGEST_PAUSE)
            killed = await killed_and_resumed(Path(directory), *drawn)
        if killed is not None:
            found.append(killed)
            if len(found) % 10 == 0:
                print(f"{len(found)} runs …", flush=True)
            if killed.repeated or not killed.is_right:
                print(f"NOT RIGHT: {killed}", flush=True)
    spread = Counter(killed.turns_on_record for killed in found)
    right = sum(killed.is_right and not killed.repeated for killed in found)
    print(f"{right} of {runs} killed runs went on with nothing repeated and the right answer (seed {seed})")
    print(
        f"calls on record {sum(k.calls_on_record for k in found)}, of them asked again {sum(k.repeated for k in found)}"
    )
    print(f"calls answered and not on record when the kill came: {sum(k.lost for k in found)}")
    print("turns on record at the kill:", ", ".join(f"{turns}: {spread[turns]} runs" for turns in sorted(spread)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills runs and goes on with them.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(_measure(options.runs, options.seed))


if __name__ == "__main__":
    main()

"""Kills processes during runs, resumes the runs, and counts repeated model calls.

    python -m benchmarks.kill [--runs 100] [--seed 0]

Each run is an `rlm-mcp solve` in a separate process, over a scripted OpenAI-compatible server that keeps every request.
SIGKILL is sent a random number of milliseconds after a random event of the record, so that the kills spread over the
whole run under any load. Runs that had ended by then do not count. Each run has a seed, one more than that of the run
before, so that `--runs 1 --seed SEED` repeats it.

Another process continues with `rlm-mcp runs resume`. It must not repeat a recorded call, and its answer must be that of
an undisturbed run. Calls that were answered but not yet recorded, within a few milliseconds, are repeated and counted
separately. The sub-call cache, which would hide repetitions, is off.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import CACHE_DIR
from benchmarks.sums import Sums
from rlm_mcp.records.events import event_from_json
from rlm_mcp.records.unanswered import in_flight
from tests.peers.forking import forked_command
from tests.peers.openai_server import OpenAIServer

SUMS = Sums(turns=6, batch=7)
LATENCY = 0.02
KEY = "sk-of-the-process-that-resumes"

EVENTS = 2 + SUMS.turns * 2 * (SUMS.batch + 2)
"""Events of a run before its last turn: start, route, and for each turn a cell, a decision, and for each call two."""
LONGEST_PAUSE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """One killed and resumed run. `repeated` calls were on record; `lost` calls had been answered but not recorded.

    `in_flight` requests were on record without a reply; the resumed run has to tell as many failed calls.
    """

    turns_on_record: int
    calls_on_record: int
    repeated: int
    lost: int
    in_flight: int
    is_right: bool

    @property
    def survived(self) -> bool:
        """Whether the answer is right and no recorded call was made again."""
        return self.is_right and not self.repeated


async def killed_and_resumed(directory: Path, events: int, pause: float, cache_dir: Path = CACHE_DIR) -> Killed | None:
    """One run, killed `pause` seconds after it had recorded `events` events; None if it had ended by then."""
    (directory / "input.txt").write_text("a line\n" * 20_000)
    async with OpenAIServer(SUMS.reply_to, latency=LATENCY) as server:
        environ = environ_of(server.base_url, directory / "data", cache_dir)
        process = start(environ, "solve", "--quiet", "--mode", "rlm", "add it up", str(directory / "input.txt"))
        try:
            record = await asyncio.to_thread(_wait_for_record, directory / "data" / "runs", events)
            await asyncio.sleep(pause)
        finally:
            process.kill()
            await asyncio.to_thread(process.communicate)  # until its stdout is closed: it has ended
        on_record = _events(record)
        if any(event["event"] == "run_ended" for event in on_record):
            return None
        answered = Counter(map(SUMS.name_of, server.requests))
        known = {SUMS.name_of_turn("", event["turn"]) for event in on_record if event["event"] == "root_reply"}
        turns = len(known)
        unanswered = len(in_flight(map(event_from_json, on_record)))
        known |= {event["prompt_head"] for event in on_record if event["event"] == "sub_reply"}
        # By its key: a busy server may not yet have read what the killed process sent.
        resumed = start(environ | {"RLM_MCP_API_KEY": KEY}, "runs", "resume", record.parent.name, "--json")
        printed, _ = await asyncio.to_thread(resumed.communicate)
        its_own = [request for request in server.requests if request.headers.get("authorization") == f"Bearer {KEY}"]
        again = Counter(map(SUMS.name_of, its_own))
    return Killed(
        turns_on_record=turns,
        calls_on_record=len(known),
        repeated=sum(again[name] for name in known),
        lost=sum((answered & again).values()),
        in_flight=unanswered,
        is_right=resumed.returncode == 0
        and (result := json.loads(printed))["answer"] == SUMS.answer
        and result["usage"]["failed_calls"] == unanswered
        and all(times == 1 for times in again.values()),
    )


def environ_of(base_url: str, data_dir: Path, cache_dir: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(data_dir.parent),
        "RLM_MCP_BASE_URL": base_url,
        "RLM_MCP_MODEL": "scripted",
        "RLM_MCP_DATA_DIR": str(data_dir),
        "RLM_MCP_CACHE_DIR": str(cache_dir),
        "RLM_MCP_SUB_CALL_CACHE": "false",
    }


def start(environ: dict[str, str], *arguments: str) -> "subprocess.Popen[bytes]":
    command = [*forked_command(), *arguments]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603 # our own command


def _wait_for_record(runs: Path, events: int) -> Path:
    """Waits until the record of the only run there has this many events or its last one."""
    latest = time.monotonic() + 120
    while time.monotonic() < latest:
        for record in runs.glob("*/events.jsonl"):
            data = record.read_bytes()
            if data.count(b"\n") >= events or b'"run_ended"' in data:
                return record
        time.sleep(0.002)
    raise TimeoutError(f"no run has {events} events on record after two minutes")


def _events(record: Path) -> list[dict[str, Any]]:
    """Events of the complete lines; the kill may have truncated the last."""
    return [json.loads(line) for line in record.read_bytes().split(b"\n")[:-1]]


async def killed_runs(runs: int, seed: int) -> AsyncIterator[tuple[int, Killed]]:
    """So many killed runs with their seeds, from `seed` on."""
    found = 0
    while found < runs:
        dice = random.Random(seed)
        with tempfile.TemporaryDirectory() as directory:
            drawn = dice.randint(1, EVENTS), dice.uniform(0.0, LONGEST_PAUSE)
            killed = await killed_and_resumed(Path(directory), *drawn)
        if killed is not None:
            found += 1
            yield seed, killed
        seed += 1


async def _measure(runs: int, seed: int) -> None:
    found: list[Killed] = []
    async for used, killed in killed_runs(runs, seed):
        found.append(killed)
        if len(found) % 10 == 0:
            print(f"{len(found)} runs …", flush=True)
        if not killed.survived:
            print(f"WRONG with seed {used}: {killed}", flush=True)
    spread = Counter(killed.turns_on_record for killed in found)
    right = sum(killed.survived for killed in found)
    print(f"{right} of {runs} killed runs were resumed with no repeated call and the right answer (from seed {seed})")
    print(
        f"recorded calls: {sum(k.calls_on_record for k in found)}, of which repeated: {sum(k.repeated for k in found)}"
    )
    print(f"calls answered but not recorded at the kill: {sum(k.lost for k in found)}")
    print(f"requests in flight at the kill, all in the usage of the resumed run: {sum(k.in_flight for k in found)}")
    print("recorded turns at the kill:", ", ".join(f"{turns}: {spread[turns]} runs" for turns in sorted(spread)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills runs and resumes them.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(_measure(options.runs, options.seed))


if __name__ == "__main__":
    main()

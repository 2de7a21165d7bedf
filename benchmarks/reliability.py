"""Runs, calls and clients that survive failures, out of how many tries, with the seed of each loss.

    python -m benchmarks.reliability [FIGURE …] [--tries 20] [--minutes 1] [--seed 0] [--json]

    kills       runs killed by SIGKILL at a random moment and resumed (kill.py)
    workers     workers killed or stopped under running runs (workers.py)
    provider    runs while a fifth of the requests fails: 429, 5xx, broken connections, a body without a reply
    disk        runs on a disk that is nearly full, resumed or asked again once there is space; needs the right to mount
    clients     many clients that leave, drop, die or kill their server, while workers die (soak.py)

A try of `kills`, `provider` and `disk` is repeated with `--tries 1 --seed SEED`; the others depend on timing, too.
"""

import argparse
import asyncio
import json
import os
import random
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import rlm_mcp
from benchmarks import CACHE_DIR, kill
from benchmarks.figures import figure, machine, survived, tell
from benchmarks.soak import soak
from benchmarks.workers import killed_workers
from rlm_mcp.settings import load_settings
from tests.peers.openai_server import Fault, OpenAIServer, Request
from tests.peers.small_disk import CannotMount, small_disk
from wasm_runtime import Runtime

FAULTS = (
    Fault(status=429, retry_after=0.01),
    Fault(status=500),
    Fault(status=503, retry_after=0.01),
    Fault(drop="before"),
    Fault(drop="during"),
    Fault(status=502, message="<html>Bad gateway</html>"),
    Fault(body='{"choices": []}'),
)
FAULT_RATE = 0.2
CLIENTS, KILL_EVERY = 20, 10.0
RUNS_OF_WORKERS = "runs while workers were killed or stopped"

Rows = list[dict[str, Any]]


def row(name: str, outcomes: Mapping[int, bool]) -> dict[str, Any]:
    """How many tries went well, and the seeds of the others."""
    failed = ", ".join(str(seed) for seed, good in outcomes.items() if not good)
    return survived(name, [*outcomes.values()], failed=f"seeds {failed}" if failed else "")


async def kills(options: argparse.Namespace) -> Rows:
    found = {seed: killed async for seed, killed in kill.killed_runs(options.tries, options.seed)}
    repeated = sum(killed.repeated for killed in found.values())
    recorded = sum(killed.calls_on_record for killed in found.values())
    return [
        row("runs killed and resumed: right answer", {seed: killed.is_right for seed, killed in found.items()}),
        figure(
            "runs killed and resumed: recorded calls made again", "", [repeated], text=f"{repeated} of {recorded:,}"
        ),
    ]


async def workers(options: argparse.Namespace) -> Rows:
    seen = await killed_workers(options.tries, options.seed)
    outcomes = [True] * seen.right + [False] * len(seen.wrong)
    return [
        survived(f"{RUNS_OF_WORKERS}: right answer", outcomes),
        figure(
            f"{RUNS_OF_WORKERS}: recorded calls made again",
            "",
            [seen.repeated],
            text=f"{seen.repeated} of {seen.calls_on_record:,}",
        ),
        figure("until another worker goes on with a run", "s", [*seen.takeovers["killed"], *seen.takeovers["stopped"]]),
        figure("workers killed or stopped", "", [seen.times], better="higher"),
    ]


async def provider(options: argparse.Namespace) -> Rows:
    right, exact = {}, {}
    for seed in range(options.seed, options.seed + options.tries):
        right[seed], exact[seed] = await run_under_faults(seed)
    return [
        row(f"runs while {FAULT_RATE:.0%} of the requests failed: right answer", right),
        row(f"runs while {FAULT_RATE:.0%} of the requests failed: tokens as served", exact),
    ]


async def run_under_faults(seed: int, cache: Path = CACHE_DIR) -> tuple[bool, bool]:
    """Whether the answer is right, and whether the tokens are those that the provider served."""
    dice = random.Random(seed)

    def fault(_: Request) -> Fault | None:
        return dice.choice(FAULTS) if dice.random() < FAULT_RATE else None

    with tempfile.TemporaryDirectory() as directory:
        async with OpenAIServer(kill.SUMS.reply_to, faults=fault) as server:
            given = {"base_url": server.base_url, "model": "scripted", "sub_call_cache": False}
            places = {"data_dir": Path(directory), "cache_dir": cache}
            settings = load_settings({**given, **places}, environ={}, config_file=Path(os.devnull))
            state = await rlm_mcp.solve("add it up", {"text": "a line\n" * 20_000}, mode="rlm", settings=settings)
            served = server.counts.prompt_tokens + server.counts.completion_tokens
    return state.answer == kill.SUMS.answer, state.usage.prompt_tokens + state.usage.completion_tokens == served


async def disk(options: argparse.Namespace) -> Rows:
    seeds = range(options.seed, options.seed + options.tries)
    try:
        found = {seed: await run_on_a_full_disk(seed) for seed in seeds}
    except CannotMount:
        return []
    return [
        row("runs on a disk that fills up: one sentence says so", {seed: said for seed, (said, _) in found.items()}),
        row(
            "the same runs, resumed or asked again once there is space: right answer",
            {s: right for s, (_, right) in found.items()},
        ),
    ]


async def run_on_a_full_disk(seed: int, cache: Path = CACHE_DIR) -> tuple[bool, bool]:
    """Whether the first process says what is wrong or ends well, and whether a second one has the right answer."""
    leave = random.Random(seed).randrange(16 << 10, 400 << 10)
    with tempfile.TemporaryDirectory() as scratch, small_disk(Path(scratch) / "disk") as small:
        source = Path(scratch) / "input.txt"
        source.write_text("a line\n" * 2_000)
        async with OpenAIServer(kill.SUMS.reply_to) as server:
            environ = kill.environ_of(server.base_url, small.data, cache)
            question = ("solve", "--quiet", "--mode", "rlm", "--json", "add it up", str(source))
            small.fill(leave=leave)
            status, printed, said = await finished(environ, *question)
            right = status == 0 and json.loads(printed)["answer"] == kill.SUMS.answer
            is_named = re.search("disk .*is full|No space left on device", said + printed) is not None
            told = right or (is_named and "Traceback" not in said)
            small.free()
            if not right:
                runs = sorted((small.data / "runs").glob("*/events.jsonl"))
                again = ("runs", "resume", runs[0].parent.name, "--json") if runs else question
                status, printed, said = await finished(environ, *again)
                right = status == 0 and json.loads(printed)["answer"] == kill.SUMS.answer
    if not (told and right):
        print(f"seed {seed}, {leave} bytes: {status} {said[-500:]}", file=sys.stderr)
    return told, right


async def finished(environ: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command."""
    process = kill.start(dict(environ), *arguments)
    printed, said = await asyncio.to_thread(process.communicate)
    return process.returncode, printed.decode(), said.decode()


async def clients(options: argparse.Namespace) -> Rows:
    with redirect_stdout(sys.stderr):
        done = await asyncio.to_thread(
            soak, minutes=options.minutes, clients=CLIENTS, workers=2, kill_every=KILL_EVERY
        )  # fmt: skip
    names = {
        "steps": f"calls of {CLIENTS} clients while clients and workers die",
        "accepted": "accepted runs of these clients: on record",
        "ended": "all runs of these clients: ended properly",
        "resumed": "interrupted runs of these clients: resumed and finished",
    }
    return [
        survived(title, [number < good for number in range(tried)])
        for name, title in names.items()
        for tried, good in [done.tried[name]]
        if tried
    ]


FIGURES: Mapping[str, Callable[[argparse.Namespace], Awaitable[Rows]]] = {
    "kills": kills,
    "workers": workers,
    "provider": provider,
    "disk": disk,
    "clients": clients,
}


async def measured(names: Sequence[str], options: argparse.Namespace) -> AsyncIterator[dict[str, Any]]:
    """The rows of these figures."""
    for name in names:
        print(name, file=sys.stderr, flush=True)
        for each in await FIGURES[name](options):
            yield each


async def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    with Runtime(CACHE_DIR) as runtime, runtime.session() as session:
        session.exec("1")  # the sandbox is compiled
    begun = machine()
    found = [each async for each in measured(options.figures or [*FIGURES], options)]
    tell(found, [begun, f"seeds from {options.seed} on"], as_json=options.json)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", choices=[[], *FIGURES])
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=1.0, help="of the many clients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    asyncio.run(main(parser.parse_args()))

"""Faults of the parts of a cluster while clients ask on, and what the records of the runs say about them."""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.cluster_processes import SUMS, ClusterProcesses, ask_by
from tests.peers.balancer import Balancer

STANDING_SECONDS = 4.5
"""Longer than a lease lasts."""

BUCKET_AWAY_SECONDS = 15.0

Fault = Literal["kill", "stop", "server", "database", "bucket"]


@dataclass(slots=True)
class Patient:
    """A client behind a balancer that makes a call again when the server died with which it had begun."""

    cluster: ClusterProcesses
    delays: list[float] = field(default_factory=list)
    """seconds from the end of a server until the call is answered by another, without what the call itself takes"""

    async def __call__(self, tool: str, **arguments: object) -> dict[str, Any]:
        """The structured result of a tool call."""
        failed_at = 0.0
        while True:
            balancer = Balancer(self.cluster.urls)
            try:
                async with balancer.client("auto") as client:
                    if failed_at:
                        self.delays.append(time.monotonic() - failed_at)
                        failed_at = 0.0
                    result = await client.call_tool(tool, arguments)
            except Exception:  # noqa: BLE001 - a client whose server is dead raises this or that
                failed_at = failed_at or time.monotonic()
                await asyncio.sleep(0.05)
                continue
            assert not result.is_error, result.content
            assert result.structured_content is not None
            return dict(result.structured_content)


@dataclass(slots=True, kw_only=True)
class Findings:
    """Failures and counts of a time under faults."""

    runs: int = 0
    takeovers: int = 0
    on_record: int = 0
    wrong: list[str] = field(default_factory=list)
    repeated: int = 0
    """calls that were asked again although their reply was on record"""
    unrecorded: int = 0
    """requests that the model got and that are not on record"""
    old_epochs: int = 0
    gaps: list[float] = field(default_factory=list)
    """seconds from the last event of a dead worker to the first of its successor"""
    delays: list[float] = field(default_factory=list)
    """seconds until another server than a dead one could be asked"""


def examine(cluster: ClusterProcesses, runs: Sequence[dict[str, Any]]) -> Findings:
    """Checks the records of the runs, and compares them with what the model was asked."""
    findings = Findings(runs=len(runs))
    for run in runs:
        if (run["status"], str(run["answer"])) != ("completed", SUMS.answer):
            findings.wrong.append(f"{run['run_id']} {run['status']} {run['answer']!r} {run['message']}")
    asked: Counter[str] = Counter()
    with cluster.database() as database:
        ids = [run_id for (run_id,) in database.rows("SELECT run_id FROM rlm_runs ORDER BY run_id")]
        for run_id in ids:
            rows = database.rows("SELECT epoch, line FROM rlm_events WHERE run_id = %s ORDER BY seq", (run_id,))
            epochs = [epoch for epoch, _ in rows]
            findings.old_epochs += epochs != sorted(epochs)
            _examine_record([json.loads(line) for _, line in rows], asked, findings)
    sent = Counter(map(SUMS.name_of, cluster.model.requests))
    findings.unrecorded = sum((sent - asked).values())
    return findings


def _examine_record(events: Sequence[dict[str, Any]], asked: "Counter[str]", findings: Findings) -> None:
    query, answered = "", set[str]()
    for before, event in zip([{}, *events], events, strict=False):
        match event["event"]:
            case "run_started":
                query = event["query"]
            case "run_resumed":
                findings.takeovers += 1
                findings.gaps.append(event["at"] - before.get("at", 0.0))
            case "root_asked" | "sub_asked" if event.get("request") is not None:
                name = (
                    SUMS.name_of_turn(query, event["turn"]) if event["event"] == "root_asked" else event["prompt_head"]
                )
                asked[name] += 1
                findings.repeated += name in answered
            case "root_reply":
                answered.add(SUMS.name_of_turn(query, event["turn"]))
                findings.on_record += 1
            case "sub_reply":
                answered.add(event["prompt_head"])
                findings.on_record += 1
            case _:
                pass


async def make_faults(cluster: ClusterProcesses, dice: random.Random, until: float, faults: Sequence[Fault]) -> None:
    """Lets something happen every few seconds; in the end all workers go on."""
    while time.monotonic() < until:
        await asyncio.sleep(dice.uniform(0.5, 3.0))
        worker = dice.choice(cluster.workers)
        match dice.choice(faults):
            case "kill":
                await asyncio.to_thread(cluster.kill_worker, worker)
                cluster.start_worker()
            case "stop":
                worker.send_signal(signal.SIGSTOP)
                await asyncio.sleep(STANDING_SECONDS)
                worker.send_signal(signal.SIGCONT)
            case "server":
                await asyncio.to_thread(cluster.kill_server, dice.choice(cluster.servers))
                await cluster.start_server()
            case "bucket":
                cluster.bucket_is_away.set()
                await asyncio.sleep(BUCKET_AWAY_SECONDS)
                cluster.bucket_is_away.clear()
            case "database":
                await asyncio.to_thread(cluster.postgres.stop)
                await asyncio.sleep(3)
                await asyncio.to_thread(cluster.postgres.start)


async def run_under_faults(
    cluster: ClusterProcesses, *, seconds: float, clients: int, faults: Sequence[Fault], seed: int = 0
) -> Findings:
    """Clients ask for this time while faults happen; then all runs are brought to their end and examined."""
    patient = Patient(cluster)
    await patient("register_context", text="a line\n" * 20_000, name="lines")
    until, runs, numbers = time.monotonic() + seconds, list[dict[str, Any]](), iter(range(10**9))

    async def ask_on() -> None:
        while time.monotonic() < until:
            runs.append(await ask_by(patient, "lines", next(numbers)))

    asking = [asyncio.create_task(ask_on()) for _ in range(clients)]
    breaking = asyncio.create_task(make_faults(cluster, random.Random(seed), until, faults))
    try:
        await asyncio.gather(breaking, *asking)
    finally:
        for task in (breaking, *asking):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
    findings = await asyncio.to_thread(examine, cluster, runs)
    findings.delays = patient.delays
    return findings

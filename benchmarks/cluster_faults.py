"""Faults of the parts of a cluster while clients ask on, and what the records of the runs say about them."""

import asyncio
import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.cluster_processes import SUMS, ClusterProcesses, ask_by
from rlm_mcp.records.lease import EXPIRY_SECONDS
from tests.peers.balancer import Balancer
from tests.peers.places import ServerEnded

STANDING_SECONDS = 4.5
"""Longer than a lease lasts."""

CUT_SECONDS = (4.0, 12.0)
"""The shortest one is longer than a lease lasts, the longest than broken connections are kept."""

BUCKET_AWAY_SECONDS = 30.0
DATABASE_AWAY_SECONDS = 3.0
RESTART_SECONDS = 1.0

SECONDS_BETWEEN = (0.5, 3.0)

SETTLING_SECONDS = 300.0
"""A run that has not ended this long after the last fault does not end."""

EPOCHS_OF_TAKEOVER = 2
"""One is given when a run is handed over, and one when it is taken."""

Fault = Literal["kill", "stop", "cut", "server", "database", "bucket"]


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
    made: "Counter[Fault]" = field(default_factory=Counter)
    sent_at_first: int = 0
    """requests of workers that were cut off, before they may have been given up"""
    sent_later: int = 0
    """the same, after they may have been given up and before they were connected again"""
    gaps: list[float] = field(default_factory=list)
    """seconds from the last event of a dead worker to the first of its successor

    Where successors died before their first event, for each of those that died."""
    delays: list[float] = field(default_factory=list)
    """seconds until another server than a dead one could be asked"""

    @property
    def is_right(self) -> bool:
        """Whether nothing happened that must not happen."""
        return not (self.wrong or self.repeated or self.unrecorded or self.old_epochs or self.sent_later)


@dataclass(slots=True, kw_only=True)
class Cut:
    """A worker that was cut off from database and bucket, and still reached the model."""

    sender: str
    began: float
    ended: float = float("inf")


def examine(cluster: ClusterProcesses, runs: Sequence[dict[str, Any]], cuts: Sequence[Cut]) -> Findings:
    """Checks the records of the runs, and compares them with what the model was asked."""
    findings = Findings(runs=len(runs))
    for cut in cuts:
        requests = [one for one in cluster.model.requests if one.sender == cut.sender and one.at <= cut.ended]
        delays = [request.at - cut.began for request in requests]
        findings.sent_at_first += sum(0 <= seconds < EXPIRY_SECONDS for seconds in delays)
        findings.sent_later += sum(seconds >= EXPIRY_SECONDS for seconds in delays)
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
            _examine_record([(epoch, json.loads(line)) for epoch, line in rows], asked, findings)
    sent = Counter(map(SUMS.name_of, cluster.model.requests))
    findings.unrecorded = sum((sent - asked).values())
    return findings


def _examine_record(events: Sequence[tuple[int, dict[str, Any]]], asked: "Counter[str]", findings: Findings) -> None:
    query, answered = "", set[str]()
    for (epoch_before, before), (epoch, event) in zip([(0, {}), *events], events, strict=False):
        match event["event"]:
            case "run_started":
                query = event["query"]
            case "run_resumed":
                findings.takeovers += 1
                died = max(1, (epoch - epoch_before) // EPOCHS_OF_TAKEOVER)
                findings.gaps.append((event["at"] - before["at"]) / died)
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


class Breaker:
    """Lets parts of a cluster fail, none of them in two ways at the same time."""

    def __init__(self, cluster: ClusterProcesses, dice: random.Random) -> None:
        self._cluster = cluster
        self._dice = dice
        self._broken: set[object] = set()
        self.cuts: list[Cut] = []
        self.made: Counter[Fault] = Counter()

    async def make_faults(self, until: float, faults: Sequence[Fault], between: tuple[float, float]) -> None:
        """Makes one fault after the other; in the end all parts work."""
        while time.monotonic() < until:
            await asyncio.sleep(self._dice.uniform(*between))
            fault = self._dice.choice(faults)
            if fault in {"kill", "stop", "cut"}:
                workers = [worker for worker in self._cluster.workers if worker.pid not in self._broken]
                if workers:
                    worker = self._dice.choice(workers)
                    await self._break(fault, worker.pid, self._break_worker(fault, worker))
            elif fault not in self._broken:
                await self._break(fault, fault, self._break_part(fault))

    async def _break(self, fault: Fault, key: object, breaking: Awaitable[None]) -> None:
        self._broken.add(key)
        try:
            await breaking
        finally:
            self._broken.discard(key)
        self.made[fault] += 1

    async def _break_worker(self, fault: Fault, worker: "subprocess.Popen[bytes]") -> None:
        match fault:
            case "kill":
                await asyncio.to_thread(self._cluster.kill_worker, worker)
                self._cluster.start_worker()
            case "stop":
                self._cluster.signal_worker(worker, signal.SIGSTOP)
                await asyncio.sleep(STANDING_SECONDS)
                self._cluster.signal_worker(worker, signal.SIGCONT)
            case _:
                node = self._cluster.nodes[worker.pid]
                cut = Cut(sender=node.models_address, began=time.monotonic())
                self.cuts.append(cut)
                await asyncio.to_thread(node.cut)
                await asyncio.sleep(self._dice.uniform(*CUT_SECONDS))
                cut.ended = time.monotonic()
                await asyncio.to_thread(node.mend)

    async def _break_part(self, fault: Fault) -> None:
        cluster = self._cluster
        match fault:
            case "server":
                await asyncio.to_thread(cluster.kill_server, self._dice.choice(cluster.servers))
                await self._start_server()
            case "bucket":
                cluster.bucket_is_away.set()
                await asyncio.sleep(BUCKET_AWAY_SECONDS)
                cluster.bucket_is_away.clear()
            case _:
                await asyncio.to_thread(cluster.postgres.stop)
                await asyncio.sleep(DATABASE_AWAY_SECONDS)
                await asyncio.to_thread(cluster.postgres.start)

    async def _start_server(self) -> None:
        """Starts a server until one runs, as what supervises services does: without its database, it ends."""
        while True:
            try:
                await self._cluster.start_server()
            except ServerEnded:
                await asyncio.sleep(RESTART_SECONDS)
            else:
                return


async def run_under_faults(
    cluster: ClusterProcesses,
    *,
    seconds: float,
    clients: int,
    faults: Sequence[Fault],
    at_once: int = 1,
    between: tuple[float, float] = SECONDS_BETWEEN,
    seed: int = 0,
) -> Findings:
    """Clients ask for this time while faults happen; then all runs are brought to their end and examined."""
    patient = Patient(cluster)
    await patient("register_context", text="a line\n" * 20_000, name="lines")
    until, runs, numbers = time.monotonic() + seconds, list[dict[str, Any]](), iter(range(10**9))

    async def ask_on() -> None:
        while time.monotonic() < until:
            runs.append(await ask_by(patient, "lines", next(numbers)))

    asking = [asyncio.create_task(ask_on()) for _ in range(clients)]
    breaker = Breaker(cluster, random.Random(seed))
    breaking = [asyncio.create_task(breaker.make_faults(until, faults, between)) for _ in range(at_once)]
    late = list[str]()
    try:
        await asyncio.gather(*breaking)
        async with asyncio.timeout(SETTLING_SECONDS):
            await asyncio.gather(*asking)
    except TimeoutError:
        ended = sum(task.done() and not task.cancelled() for task in asking)
        late.append(f"{clients - ended} runs have not ended {SETTLING_SECONDS:.0f} s later")
    finally:
        for task in (*breaking, *asking):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
    findings = await asyncio.to_thread(examine, cluster, runs, breaker.cuts)
    findings.delays, findings.made = patient.delays, breaker.made
    findings.wrong += late
    return findings

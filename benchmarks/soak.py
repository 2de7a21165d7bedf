"""Soak test: a server under many clients for minutes, checked for growth, latency and lost runs.

    python -m benchmarks.soak [--minutes 15] [--clients 50] [--workers 2] [--kill-every SECONDS]

There is one real `rlm-mcp serve --http` with its workers and, on the data of the same tenants, one `rlm-mcp` on stdio
for every eighth client. With --kill-every, one worker after the other dies by SIGKILL. Clients are processes
(soak_client.py) of both protocol eras that register, inspect with code, read, solve with a scripted model, cancel,
abandon and disconnect; a third of them die by SIGKILL, as do some stdio servers. Five more clients only measure, all
the time: four measure `tools/list`, one measures the time until a cancelled run stops calling the model. The other
clients represent other machines, so the kernel gives cores to the server and these five first. Everything runs on
127.0.0.1 and in a temporary directory, and is stopped at the end. The exit status is 1 if a verdict is BAD.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import count
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import anyio

from benchmarks import CACHE_DIR
from benchmarks.soak_client import Ending, Measures, Plan, live, lower_priority
from benchmarks.soak_processes import MARK, Sample, machine_load, marked, sample, workers_of
from rlm_mcp.errors import RlmError
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from rlm_mcp.records.types import RunState
from rlm_mcp.server.transports.token_file import digest_of
from rlm_mcp.settings import load_settings
from rlm_mcp.workspace.workspace import open_workspace
from tests.peers.openai_server import Fault, OpenAIServer, Request

TENANTS = 10
STDIO_EVERY = 8
LISTING, MEASURING = 4, 5
SAMPLE_SECONDS = 5.0
LEAST_SAMPLES = 3
"""One for each third of the time whose medians are compared."""
WARM_UP = 1 / 3
"""Share of the time, at least 20 s: until every tenant has connected, every cache is warm, and as many sessions of dead
clients are closed (after 300 s) as begin."""


LATENCY, SUB_LATENCY = 0.3, 0.5
OF_KILLS = re.compile(
    r"another takes its place|which a server that has ended left|was cancelled while its server ended"
)
"""Warnings that are due when workers are killed."""

RESUMED = 10
"""Number of interrupted or cancelled runs that are resumed at the end."""

# --- the scripted model ---------------------------------------------------------------------------------------------

CODE = {
    "sum": "parts = llm_query_batched([f'soak-{tag} part {{i}}: {{context[i * 100 :][:80]}}' for i in range(4)])",
    "flood": "parts = llm_query_batched([f'soak-{tag} part {{i}}' for i in range(100)])",
    "spin": "while True: pass",
    "turns": "seen = context[len(context) // 2 :][:80]\nprint(seen)",
}
TURNS = {"sum": 2, "flood": 2, "spin": 2, "turns": 5}


def behave(request: Request) -> str:
    """Root model that follows the tag in its question; sub-model that replies ok."""
    asked = re.search(r"soak-((\w+)-\d+-\d+)", request.text)
    if asked is None or "FINAL" not in request.text:
        return "ok"
    tag, kind = asked.groups()
    if request.turn >= TURNS[kind]:
        return f"```repl\nFINAL('{kind} is done: ' + str(len(context)))\n```"
    return f"```repl\n{CODE[kind].format(tag=tag)}\nprint({request.turn})\n```"


def serve_model(log: Path) -> None:
    """Serves until killed; prints its base URL and logs the arrival of tagged requests."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def slowly(request: Request) -> Fault:
        if asked := re.search(r"soak-((?:flood|spin)-\d+-\d+)", request.text):
            os.write(file, f"{asked.group(1)} {time.monotonic()}\n".encode())
        return Fault(latency=(LATENCY if "FINAL" in request.text else SUB_LATENCY) * random.uniform(0.5, 1.5))

    async def main() -> None:
        async with OpenAIServer(behave, faults=slowly, keep_requests=False) as server:
            print(server.base_url, flush=True)
            await anyio.sleep_forever()

    anyio.run(main)


# --- what runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Directory, addresses and tokens of one soak test."""

    directory: Path
    url: str
    model_url: str
    mark: str
    tokens: dict[str, str]

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    def data_dir_of(self, tenant: str) -> Path:
        return self.directory / "data" / "owners" / tenant

    def environ(self, data_dir: Path) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "RLM_MCP_DATA_DIR": str(data_dir),
            "RLM_MCP_CACHE_DIR": str(CACHE_DIR),
            "RLM_MCP_BASE_URL": self.model_url,
            "RLM_MCP_MODEL": "scripted",
            "RLM_MCP_SUB_CALL_CACHE": "0",
            MARK: self.mark,
        }


@contextmanager
def model_server(log: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.soak", "--model-log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:  # noqa: S603 # our own server
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def http_server(setup: Setup, watched: Path | None, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    program = ["rlm_mcp.cli"] if watched is None else ["benchmarks.loop_watch", str(watched)]
    (tokens := setup.directory / "tokens").write_text(
        "".join(f"{tenant} {digest_of(token)}\n" for tenant, token in setup.tokens.items())
    )
    address = setup.url.removeprefix("http://")
    command = [sys.executable, "-m", *program, "serve", "--http", address, "--token-file", str(tokens)]
    command += ["--workers", str(workers)]
    with (setup.directory / "server.log").open("wb") as log:
        # In a separate session, like a service.
        process = subprocess.Popen(  # noqa: S603 # our own server
            command, env=setup.environ(setup.directory / "data"), stderr=log, start_new_session=True
        )
        try:
            while not is_ready(setup.url):
                assert process.poll() is None, (setup.directory / "server.log").read_text()
                time.sleep(0.1)
            yield process
        finally:
            process.kill()
            process.wait()


def is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/ready") as answer:  # noqa: S310 # our own server
            return bool(answer.status == 200)
    except (URLError, ConnectionError):
        return False


class ClientPool:
    """Keeps the given number of clients alive."""

    def __init__(self, setup: Setup, clients: int, until: float) -> None:
        self._setup = setup
        self._until = until
        self._numbers = count()
        self._fork = multiprocessing.get_context("forkserver")
        self._fork.set_forkserver_preload(["benchmarks.soak_client"])
        self._chance = random.Random(1)
        self._alive: dict[int, ForkServerProcess | None] = dict.fromkeys(range(clients))
        self._watchers = [self._start(self._watcher(number)) for number in range(MEASURING)]
        self.endings: Counter[str] = Counter()

    def keep_up(self) -> None:
        """Starts a client in each vacant place, a short time apart."""
        for place, process in self._alive.items():
            if process is not None and not process.is_alive():
                process.join()
                process.close()
                self._alive[place] = None
            if self._alive[place] is None and time.monotonic() < self._until - 2:
                plan = self._plan(place)
                self.endings[plan.ending] += 1
                self._alive[place] = self._start(plan)
                time.sleep(0.02)

    def end(self) -> None:
        """Waits for the clients to end, and kills those that do not."""
        for process in [*self._alive.values(), *self._watchers]:
            if process is not None:
                process.join(max(0.0, self._until + 20 - time.monotonic()))
                process.kill()
                process.join()

    def _start(self, plan: Plan) -> ForkServerProcess:
        process = self._fork.Process(target=live, args=(plan,))
        process.start()
        return process

    def _plan(self, place: int) -> Plan:
        on_stdio = place % STDIO_EVERY == 0
        endings: list[Ending] = ["leaves", "drops", "dies", *(["kills its server"] if on_stdio else [])]  # type: ignore[list-item] # literals
        seconds = self._chance.uniform(20, 60) if on_stdio else self._chance.uniform(10, 40)
        seconds = max(1.0, min(seconds, self._until - time.monotonic()))
        return self._made(place, on_stdio=on_stdio, seconds=seconds, ending=self._chance.choice(endings))

    def _watcher(self, number: int) -> Plan:
        seconds = self._until - time.monotonic()
        measures: Measures = "lists" if number < LISTING else "cancels"
        return self._made(number, on_stdio=number == 3, seconds=seconds, ending="leaves", measures=measures)

    def _made(self, place: int, *, on_stdio: bool, seconds: float, ending: Ending, measures: Measures = "") -> Plan:
        setup, number = self._setup, next(self._numbers)
        tenant = f"watcher{place}" if measures else f"tenant{place % TENANTS}"
        return Plan(
            number=number,
            tenant=tenant,
            era="auto" if number % 2 else "legacy",
            url=setup.url,
            token=setup.tokens[tenant],
            command=(sys.executable, "-m", "rlm_mcp.cli") if on_stdio else (),
            environ=setup.environ(setup.data_dir_of(tenant)),
            seconds=seconds,
            ending=ending,
            measures=measures,
            journal=setup.journal,
        )


# --- the report -----------------------------------------------------------------------------------------------------


class Report:
    """Prints lines and verdicts, and counts bad ones. `tried` has how often something was tried, and went well."""

    def __init__(self) -> None:
        self.bad = 0
        self.tried: dict[str, tuple[int, int]] = {}

    def say(self, what: str, value: object) -> None:
        print(f"{what:40s} {value}", flush=True)

    def judge(self, what: str, value: object, *, good: bool) -> None:
        self.bad += not good
        print(f"{what:40s} {value}   {'ok' if good else 'BAD'}", flush=True)

    def flat(self, what: str, values: Sequence[float], *, slack: float) -> None:
        """Judges whether the last third exceeds the first by at most `slack`."""
        third = max(1, len(values) // 3)
        thirds = [statistics.median(part) for part in (values[:third], values[third : 2 * third], values[-third:])]
        shown = " -> ".join(f"{value:.0f}" for value in thirds) + f"   max {max(values):.0f}"
        self.judge(what, shown, good=thirds[2] <= thirds[0] + slack)


def report_growth(report: Report, samples: Sequence[Sample], minutes: float) -> None:
    """Judges the server's processes after the warm-up; of a shorter test, nothing."""
    warm = max(20.0, minutes * 60 * WARM_UP)
    warmed = [s for s in samples if s.at - samples[0].at >= warm]
    if len(warmed) < LEAST_SAMPLES:
        report.say("growth", f"not judged: {len(warmed)} samples of the warm server, which it is after {warm:.0f} s")
        return
    for name in [field.name for field in fields(Sample) if field.name != "at"]:
        values = [getattr(s, name) for s in warmed]
        first = statistics.median(values[: len(values) // 3 or 1])
        slack = {"files": 8 + 0.1 * first, "threads": 8, "processes": 2}.get(name, 5 + 0.04 * first)
        report.flat(f"{name.replace('_mb', ', MB')}, medians of thirds", values, slack=slack)


def report_server(report: Report, setup: Setup, kills: int) -> None:
    notes = [json.loads(line) for line in setup.journal.read_text().splitlines()]
    seen = Counter(note["what"] for note in notes)
    report.say("clients connected, steps done", f"{seen['connected']}, {seen['step']}")
    report.say("steps refused by a limit", seen["busy"])
    report.judge("calls told that their worker died", seen["dying"], good=kills > 0 or not seen["dying"])
    listed = [note for note in notes if note["what"] == "listed"]
    for via in ("http", "stdio"):
        took = [n["seconds"] for n in listed if n["via"] == via and n["tenant"].startswith("watcher")]
        report.judge(f"tools/list over {via}, ms", _spread(took, 1000), good=_share(took, 99) < 0.1)
    took = [n["seconds"] for n in listed if not n["tenant"].startswith("watcher")]
    report.say("  as the low-priority clients see it", _spread(took, 1000))
    killers = {note["client"] for note in notes if note["what"] == "killed its server"}
    troubled = [note for note in notes if note["what"] == "trouble" and note["client"] not in killers]
    troubles = Counter(re.sub(r"\d+", "#", note["text"]) for note in troubled)
    report.judge("steps that failed", troubles.total(), good=not troubles)
    report.tried["steps"] = seen["step"] + troubles.total(), seen["step"]
    for text, times in troubles.most_common(5):
        report.say(f"  {times} times", text[:300])
    report_cancels(report, setup, notes)


def report_cancels(report: Report, setup: Setup, notes: Sequence[dict[str, Any]]) -> None:
    heard: dict[str, float] = {}
    for line in (setup.directory / "model.log").read_text().splitlines():
        tag, at = line.split()
        heard[tag] = float(at)
    # A client that died at once may not have sent the cancel; one with a later note has.
    last = {note["client"]: note["at"] for note in notes}
    sent = [n for n in notes if n["what"] == "cancelled" and n["tag"] in heard and last[n["client"]] > n["at"] + 0.2]
    measured, others = (
        [max(0.0, heard[n["tag"]] - n["at"]) for n in sent if n["tenant"].startswith("watcher") == by]
        for by in (True, False)
    )
    report.judge("cancel to last request at the model, ms", _spread(measured, 1000), good=_share(measured, 99) <= 0.2)
    report.say("  as the low-priority clients see it", _spread(others, 1000))


def _share(values: Sequence[float], percent: float) -> float:
    """The value at this percentile."""
    ordered = sorted(values) or [math.inf]
    return ordered[int(len(ordered) * percent / 100)]


def _spread(values: Sequence[float], scale: float) -> str:
    p50, p99, most = (scale * _share(values, percent) for percent in (50, 99, 100 - 1e-9))
    return f"p50 {p50:.1f}, p99 {p99:.1f}, max {most:.0f}, n {len(values)}"


def report_runs(report: Report, setup: Setup) -> None:
    """Checks that every accepted or started run is on record with an end."""
    notes = [json.loads(line) for line in setup.journal.read_text().splitlines()]
    accepted = {(note["tenant"], note["run"]) for note in notes if note["what"] == "accepted"}
    states = {
        (tenant, entry.name): Run(entry).state()
        for tenant in setup.tokens
        if (directory := Runs(setup.data_dir_of(tenant)).directory).is_dir()
        for entry in directory.iterdir()
    }
    ends = Counter(end_of(state) for state in states.values())
    report.say("runs by end", ", ".join(f"{end} {n}" for end, n in sorted(ends.items())))
    lost = accepted - states.keys()
    report.judge("accepted runs, of which lost", f"{len(accepted)}, {len(lost)}", good=not lost)
    report.tried["accepted"] = len(accepted), len(accepted) - len(lost)
    wrong = [state for state in states.values() if end_of(state) not in {"completed", "cancelled", "cut off"}]
    report.judge("runs without a proper end", len(wrong), good=not wrong)
    report.tried["ended"] = len(states), len(states) - len(wrong)
    for state in wrong[:3]:
        report.say(f"  {state.run_id}", f"{state.status} {state.stopped_by}: {state.message[:200]}")
    again = [key for key, state in states.items() if end_of(state) == "cut off"]
    again += [key for key, state in states.items() if end_of(state) == "cancelled" and "soak-turns" in state.query]
    finished = sum(resume(setup, tenant, run_id) for tenant, run_id in again[:RESUMED])
    report.tried["resumed"] = len(again[:RESUMED]), finished
    report.judge(
        "resumed, of which finished", f"{len(again[:RESUMED])}, {finished}", good=finished == len(again[:RESUMED])
    )


def end_of(state: RunState) -> str:
    cut_off = state.status == "failed" and "resume" in state.message
    return "cut off" if cut_off else state.status


def resume(setup: Setup, tenant: str, run_id: str) -> bool:
    """Whether a run reaches a proper end in another process; one that spins or floods is cancelled there."""

    async def main() -> bool:
        settings = load_settings({}, environ=setup.environ(setup.data_dir_of(tenant)))
        async with open_workspace(settings) as workspace:
            query = (await workspace.runs.state(run_id)).query
            await workspace.runs.resume(run_id)
            with anyio.move_on_after(0.5 if re.search("soak-(flood|spin)", query) else 30):
                async for _ in workspace.runs.follow(run_id):
                    pass
            state = await workspace.runs.cancel(run_id)
            return state.status in {"completed", "cancelled"}

    try:
        return anyio.run(main)
    except RlmError as error:
        print(f"  {run_id}: {error}")
        return False


def soak(
    *,
    minutes: float,
    clients: int,
    workers: int,
    kill_every: float,
    watch_loop: Path | None = None,
    keep: Path | None = None,
) -> Report:
    """Runs the soak test and prints its report."""
    report = Report()
    load, version = os.getloadavg()[0], sys.version.split()[0]
    report.say("machine", f"{os.cpu_count()} cores, load {load:.2f} before, Python {version}")
    report.say("clients, minutes", f"{clients} and {MEASURING} that only measure, {minutes:g}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        tenants = [f"tenant{n}" for n in range(TENANTS)] + [f"watcher{n}" for n in range(MEASURING)]
        setup = Setup(
            directory=directory,
            url=url,
            model_url=stack.enter_context(model_server(directory / "model.log")),
            mark=secrets.token_hex(8),
            tokens={tenant: secrets.token_hex(16) for tenant in tenants},
        )
        stack.callback(kill_all, setup.mark)
        with http_server(setup, watch_loop, workers) as server:
            lower_priority(os.getpid())  # also the clients, which are in this session
            before, busy = sample(server.pid), machine_load()
            until = time.monotonic() + minutes * 60
            pool = ClientPool(setup, clients, until)
            samples: list[Sample] = []
            orphans: set[int] = set()
            never = kills = 0
            last_kill = time.monotonic()
            while time.monotonic() < until:
                pool.keep_up()
                if not samples or time.monotonic() - samples[-1].at >= SAMPLE_SECONDS:
                    samples.append(sample(server.pid))
                    parentless = {
                        pid for pid, parent in marked(setup.mark).items() if parent == 1 and pid != server.pid
                    }
                    never += len(parentless & orphans)
                    orphans = parentless
                if kill_every and time.monotonic() - last_kill >= kill_every:
                    last_kill = time.monotonic()
                    if at_work := workers_of(server.pid):
                        os.kill(random.choice(at_work), signal.SIGKILL)
                        kills += 1
                time.sleep(0.1)
            pool.end()
            report.say("clients by end", ", ".join(f"{end} {n}" for end, n in sorted(pool.endings.items())))
            time.sleep(3)
            after = sample(server.pid)
            report.say("workers killed", kills)
            report_growth(report, samples, minutes)
            report_server(report, setup, kills)
            report.say("the server before any client", before_and_after(before))
            report.say("the server after the last one", before_and_after(after))
            report.judge("stdio servers left 2 s after the client", never, good=never == 0)
            ticks = (Path(f"/proc/{server.pid}") / "stat").read_text().rpartition(")")[2].split()
            share = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK") / minutes / 60
            report.say("CPU: the server, the whole machine", f"{share:.0%} of a core, {busy():.0%} of {os.cpu_count()}")
            _, waited, _ = (Path(f"/proc/{server.pid}") / "schedstat").read_text().split()
            report.say("the server's loop waited for a core", f"{int(waited) / 1e9 / minutes / 60:.0%} of the time")
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            status = server.wait(timeout=10)
            seconds = time.monotonic() - began
            report.judge("SIGTERM: status, seconds", f"{status}, {seconds:.2f}", good=status == 0 and seconds < 3)
        time.sleep(2)
        left = marked(setup.mark)
        report.judge("processes left after 2 s", len(left), good=not left)
        errors = Counter(text for text in logged(directory / "server.log") if not (kills and OF_KILLS.search(text)))
        report.judge("warnings and errors in the log", errors.total(), good=not errors)
        for text, times in errors.most_common(3):
            report.say(f"  {times} times", text)
        report_runs(report, setup)
        if keep is not None:
            shutil.copytree(directory, keep, dirs_exist_ok=True)
    report.say("verdict", "good" if not report.bad else f"{report.bad} BAD")
    return report


def before_and_after(s: Sample) -> str:
    return f"{s.rss_mb:.0f} MB, {s.anonymous_mb:.0f} anonymous, {s.files} files, {s.threads} threads"


def logged(log: Path) -> Iterator[str]:
    """Warnings and errors that the server logged."""
    for line in log.read_text().splitlines():
        text = json.loads(line)["message"] if line.startswith("{") else line
        if not text.startswith("serving MCP"):
            yield text[:120]


def kill_all(mark: str) -> None:
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak test with many clients.")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2, help="of the server; 0: one process")
    parser.add_argument("--kill-every", type=float, default=0, metavar="SECONDS", help="kill a worker so often")
    parser.add_argument("--watch-loop", type=Path, help="run the server under loop_watch.py and write its report here")
    parser.add_argument("--keep", type=Path, help="copy records, journal and logs here")
    parser.add_argument("--model-log", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model_log is not None:
        serve_model(options.model_log)
        return
    del options.model_log
    sys.exit(min(1, soak(**vars(options)).bad))


if __name__ == "__main__":
    main()

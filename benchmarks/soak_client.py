"""One client process of the soak test: a real MCP Client that works for a while and then leaves or dies.

Its observations are appended to a journal that all clients share, one JSON line at a time, so that a killed client
leaves everything up to that moment. Times are `time.monotonic()`, which all processes of a machine share.
"""

import json
import logging
import os
import random
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent

Ending = Literal["leaves", "drops", "dies", "kills its server"]
"""Leaves after a step, in the middle of one, by SIGKILL, or kills its stdio server by SIGKILL."""

LINES = 400
PAUSE = (2.0, 5.0)
"""Seconds between two steps. 50 clients make about 12 steps a second, which keeps two cores busy, clients included."""

GONE = re.compile(r"no context has the id")
BUSY = re.compile(r"runs are going on|requests a second|requests are being answered|is used by run")
"""Messages of the server's limits, after which a client waits."""
DYING = re.compile(r"worker process that answered this call has ended|restarting a worker")
"""Messages about a worker that was killed, after which a client sends the request again."""


Measures = Literal["", "lists", "cancels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Plan of one client. Without a `command` it connects to `url`."""

    number: int
    tenant: str
    era: str
    url: str
    token: str
    command: tuple[str, ...] = ()
    environ: dict[str, str]
    seconds: float
    ending: Ending
    measures: Measures = ""
    """If set, the client only calls tools/list, or only starts and cancels runs, for as long as it lives."""
    journal: Path


class Journal:
    """Appends the observations of one client."""

    def __init__(self, plan: Plan) -> None:
        self._who = {"client": plan.number, "tenant": plan.tenant, "via": "stdio" if plan.command else "http"}
        self._file = os.open(plan.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, what: str, **facts: object) -> None:
        line = json.dumps({"what": what, **facts, **self._who, "at": time.monotonic()})
        os.write(self._file, line.encode() + b"\n")


class Busy(Exception):
    """The server refused a call because of a limit."""


class Dying(Exception):
    """The worker that answered a call was killed."""


class Refused(Exception):
    """A tool returned an error."""


def live(plan: Plan) -> None:
    """Main function of the client process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the soak test stops its clients itself
    if plan.measures:
        os.setsid()  # the load of the others must not affect its measurements
    else:
        os.nice(10)
    logging.disable()  # the SDK logs every call that a client aborts
    journal = Journal(plan)
    if plan.ending == "dies":
        killer = threading.Timer(plan.seconds, os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
    try:
        anyio.run(_live, plan, journal)
    except BaseException as error:  # noqa: BLE001 - the report shows any error
        journal.note("trouble", text=_error_text(error))


async def _live(plan: Plan, journal: Journal) -> None:
    chance = random.Random(plan.number)
    with anyio.move_on_after(plan.seconds if plan.ending == "drops" else 3_600):
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            client = await _opened(plan, journal, stack)
            journal.note("connected", seconds=time.monotonic() - began)
            simulated = SimulatedClient(client, plan, journal, chance)
            if plan.measures == "lists":
                await simulated.watch_lists(began + plan.seconds)
            elif plan.measures == "cancels":
                await simulated.watch_cancels(began + plan.seconds)
            else:
                await simulated.work(began + plan.seconds)


async def _opened(plan: Plan, journal: Journal, stack: AsyncExitStack) -> Client:
    """A client, which connects again while its worker is being replaced."""
    while True:
        try:
            with _named():
                return await stack.enter_async_context(_connected(plan))
        except Dying:
            journal.note("dying")
            await anyio.sleep(1)


@asynccontextmanager
async def _connected(plan: Plan) -> AsyncIterator[Client]:
    if plan.command:
        parameters = StdioServerParameters(command=plan.command[0], args=list(plan.command[1:]), env=plan.environ)
        async with Client(parameters, mode=plan.era) as client:
            for server in _children():
                lower_priority(server)
            yield client
        return
    headers = {"Authorization": f"Bearer {plan.token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, verify=False) as http,
        Client(streamable_http_client(f"{plan.url}/mcp", http_client=http), mode=plan.era) as client,
    ):
        yield client


class SimulatedClient:
    """Performs the steps of a client, each of which real clients perform too."""

    def __init__(self, client: Client, plan: Plan, journal: Journal, chance: random.Random) -> None:
        self._client = client
        self._plan = plan
        self._journal = journal
        self._chance = chance
        self._context = f"c{plan.number}"
        self._asked = 0

    async def watch_lists(self, until: float) -> None:
        while time.monotonic() < until:
            await self._do(self.look)
            await anyio.sleep(0.2)

    async def watch_cancels(self, until: float) -> None:
        await self._do(self.register, again=True)
        while time.monotonic() < until:
            await self._do(self._chance.choice([self.cancel, self.abandon]))
            await anyio.sleep(3)

    async def work(self, until: float) -> None:
        steps: dict[Callable[[], Awaitable[None]], int] = {
            self.look: 4,
            self.run_code: 3,
            self.read: 2,
            self.resources: 1,
            self.solve: 3,
            self.cancel: 1,
            self.abandon: 1,
        }
        await self._do(self.register, again=True)
        while time.monotonic() < until:
            (step,) = self._chance.choices(list(steps), list(steps.values()))
            await self._do(step)
            await anyio.sleep(self._chance.uniform(*PAUSE))
        if self._plan.ending == "kills its server":
            self._journal.note("killed its server")
            self._kill_server()
            return
        await self._do(self.remove)  # a run that it no longer waits for may still read the context

    async def _do(self, step: Callable[[], Awaitable[None]], *, again: bool = False) -> None:
        """Does a step; with `again` until it is done."""
        is_done = False
        while not is_done:
            try:
                await step()
                is_done = True
            except (Busy, Dying) as refused:
                self._journal.note("busy" if isinstance(refused, Busy) else "dying")
                await anyio.sleep(1)
                is_done = not again
            except Refused as refused:
                self._journal.note("trouble", text=f"{step.__name__}: {refused}")
                is_done = True
        self._journal.note("step", name=step.__name__)

    async def look(self) -> None:
        began = time.monotonic()
        with _named():
            await self._client.list_tools(cache_mode="bypass")
        self._journal.note("listed", seconds=time.monotonic() - began)

    async def register(self) -> None:
        # The same again when it is repeated: a worker that died may have registered it.
        text = "".join(f"{n} {self._context}\n" for n in range(LINES))
        await self._call("register_context", text=text, name=self._context)

    async def remove(self) -> None:
        await self._call("remove_context", context=self._context)

    async def run_code(self) -> None:
        code = self._chance.choice(
            ["kept = len(context.splitlines())\nkept", "big = [str(n) for n in range(100_000)]\nlen(big)", "1 / 0"]
        )
        await self._call("inspect_context", context=self._context, code=code)

    async def read(self) -> None:
        await self._call("inspect_context", context=self._context, start_line=1, end_line=50)
        await self._call("inspect_context", context=self._context, search=r"\b7\d* ")
        await self._call("inspect_context", context=self._context)

    async def resources(self) -> None:
        with _named():
            listed = (await self._client.list_resources(cache_mode="bypass")).resources
            await self._client.read_resource(str(self._chance.choice(listed).uri))

    async def solve(self) -> None:
        run = await self._solve(self._chance.choice(["sum", "turns"]), wait_seconds=self._chance.choice([0, 45]))
        self._journal.note("accepted", run=run["run_id"])
        if self._chance.random() < 0.7 and run["status"] == "running":
            run = await self._call("rlm_result", run_id=run["run_id"])
        self._journal.note("solved", status=run["status"])

    async def cancel(self) -> None:
        kind = self._chance.choice(["flood", "flood", "spin"])
        run = await self._solve(kind, wait_seconds=0)
        self._journal.note("accepted", run=run["run_id"])
        await anyio.sleep(self._chance.uniform(0.3, 1.0))
        self._journal.note("cancelled", tag=self._tag(kind))
        await self._call("cancel_run", run_id=run["run_id"])

    async def abandon(self) -> None:
        """Abandons a running call, like a client whose user presses Escape; one that was answered cancels nothing."""
        answered = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._solve_quietly, answered)
            with anyio.move_on_after(self._chance.uniform(0.3, 1.0)):
                await answered.wait()
            if not answered.is_set():
                self._journal.note("cancelled", tag=self._tag("flood"))
            tasks.cancel_scope.cancel()

    async def _solve_quietly(self, answered: anyio.Event) -> None:
        try:
            await self._solve("flood", wait_seconds=45)
        except (Busy, Dying) as refused:
            self._journal.note("busy" if isinstance(refused, Busy) else "dying")
        answered.set()

    def _tag(self, kind: str) -> str:
        """Identifies a question to the scripted model and selects its behaviour."""
        return f"{kind}-{self._plan.number}-{self._asked}"

    async def _solve(self, kind: str, *, wait_seconds: float) -> dict[str, Any]:
        self._asked += 1
        query = f"Do soak-{self._tag(kind)}."
        return await self._call(
            "rlm_solve", query=query, contexts=[self._context], mode="rlm", wait_seconds=wait_seconds
        )

    async def _call(self, tool: str, **arguments: object) -> dict[str, Any]:
        with _named():
            result = await self._client.call_tool(tool, arguments)
        assert isinstance(result, CallToolResult)
        if result.is_error:
            raise _refusal(" ".join(block.text for block in result.content if isinstance(block, TextContent)))
        fields: dict[str, Any] = result.structured_content or {}
        return fields

    def _kill_server(self) -> None:
        for server in _children():
            os.kill(server, signal.SIGKILL)


@contextmanager
def _named() -> Iterator[None]:
    """Names the error of a request for what it is."""
    try:
        yield
    except MCPError as error:
        raise _refusal(str(error)) from error


def _refusal(text: str) -> Exception:
    if DYING.search(text):
        return Dying(text)
    # Another client of the same tenant may have removed a resource that was listed.
    return (Busy if BUSY.search(text) or GONE.search(text) else Refused)(text)


def _children() -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(process.name))
    return found


def lower_priority(pid: int) -> None:
    """Lowers the priority of a process's session, which represents other machines and so should take no core here.

    Niceness counts only within a session if the kernel distributes the cores among sessions first.
    """
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("10")


def _error_text(error: BaseException) -> str:
    """The error, and what caused it: the errors of the HTTP client have no text of their own."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_error_text(inner) for inner in error.exceptions)
    cause = error.__cause__ or error.__context__
    text = f"{type(error).__name__}: {error}"[:300]
    return text if cause is None else f"{text} <- {_error_text(cause)}"

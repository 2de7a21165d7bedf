"""Workers that die or stop: runs and variables go on in others, calls are answered, other tenants notice nothing."""

import itertools
import json
import os
import signal
import subprocess
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult

from rlm_mcp.records.store import Runs
from rlm_mcp.records.types import RunState
from rlm_mcp.server.list_cache import METHODS
from rlm_mcp.server.workers.list_answers import ANSWERED
from tests.peers.forking import process_of
from tests.peers.openai_server import Fault, OpenAIServer, Request
from tests.peers.places import at, environment, http_process, listening
from tests.tenants.conftest import ANN, BOB, called, token_file

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="the processes of workers are found in /proc"),
]

CODE = "```repl\nparts = llm_query_batched([f'part {i}' for i in range(8)])\nFINAL(len(parts))\n```"
PARTS = [f"part {number}" for number in range(8)]
NUMBERS = itertools.count()


def question() -> dict[str, Any]:
    """A request for a run. Each is another one: the same again would get the run that was resumed."""
    return {"query": f"How many, {next(NUMBERS)}?", "contexts": ["notes"], "mode": "rlm"}


@dataclass(slots=True)
class HoldingModel:
    """Root model whose code asks for eight parts, the latter half of which are not answered while it holds."""

    holds: bool = False
    asked: Counter[str] = field(default_factory=Counter)

    def reply(self, request: Request) -> str:
        return "ok" if request.last in PARTS else CODE

    def hold(self, request: Request) -> Fault | None:
        self.asked[request.last] += 1
        return Fault(latency=60) if self.holds and request.last in PARTS[4:] else None

    async def wait_until_half(self, data_dir: Path, run_id: str) -> None:
        """Until the second half has been asked for, and the first half is on record."""
        record = data_dir / "owners" / "ann" / "runs" / run_id / "events.jsonl"
        await until(lambda: all(self.asked[part] for part in PARTS[4:]))
        await until(lambda: record.read_bytes().count(b'"event":"sub_reply"') == 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server with two workers whose tenants ann and bob have one each."""

    url: str
    process: "subprocess.Popen[bytes]"
    data_dir: Path
    model: HoldingModel

    def workers(self) -> list[int]:
        """The processes of the workers."""
        front = process_of(self.process.pid)
        servers = [process_of(pid) for pid in children(front) if "forkserver" in command(pid)]
        return [worker for server in servers for worker in children(server)]

    def worker_of(self, tenant: str) -> int:
        """The process that has the database of a tenant open."""
        return next(pid for pid in self.workers() if any(f"/owners/{tenant}/" in name for name in open_files(pid)))

    def kill_worker_of(self, tenant: str) -> int:
        """Kills it; the process that was killed."""
        os.kill(pid := self.worker_of(tenant), signal.SIGKILL)
        return pid


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - other processes do not notify
        await anyio.sleep(0.02)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found]


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def open_files(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            yield str(link.readlink())
        except OSError:
            continue


@contextmanager
def served(directory: Path, cache: Path, model: HoldingModel, workers: int = 2) -> Iterator[Served]:
    """Starts the server with its model. What is in `documents` in the directory may be registered."""
    (documents := directory / "documents").mkdir(exist_ok=True)
    with OpenAIServer(model.reply, faults=model.hold).run_in_thread() as endpoint:
        more = {"RLM_MCP_SUB_CALL_CACHE": "false", "RLM_MCP_ROOTS": str(documents)}
        environ = environment(directory, cache, endpoint.base_url, **more)
        with http_process(environ, "--token-file", token_file(directory), workers=workers) as (process, url):
            yield Served(url=url, process=process, data_dir=Path(environ["RLM_MCP_DATA_DIR"]), model=model)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sandbox_cache: Path) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("workers"), sandbox_cache, HoldingModel()) as running:
        yield running
        running.process.terminate()
        _, log = running.process.communicate(timeout=60)
        assert running.process.returncode == 0
        assert "ERROR" not in {json.loads(line)["level"] for line in log.splitlines()}


@pytest.fixture(params=["auto", "legacy"])
async def tenants(server: Served, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Client, Client]]:
    """Clients of ann and bob, each with a context and the variable `kept` in its REPL."""
    await listening(server.url)
    server.model.asked.clear()
    async with at(server.url, request.param, ANN) as ann, at(server.url, request.param, BOB) as bob:
        for client in (ann, bob):
            await called(client, "register_context", text="some notes", name="notes")
            await called(client, "inspect_context", context="notes", code="kept = 7", reset=True)
        yield ann, bob


Loss = Callable[[Served], list[int]]
"""makes ann's worker fail; the processes that must be gone afterwards"""


def killed(server: Served) -> list[int]:
    return [server.kill_worker_of("ann")]


def crashed(server: Served) -> list[int]:
    os.kill(pid := server.worker_of("ann"), signal.SIGABRT)  # of SIGSEGV, Wasmtime ignores the first from outside
    return [pid]


def stopped(server: Served) -> list[int]:
    os.kill(pid := server.worker_of("ann"), signal.SIGSTOP)
    return [pid]


def all_killed(server: Served) -> list[int]:
    for pid in (pids := server.workers()):
        os.kill(pid, signal.SIGKILL)
    return pids


@pytest.mark.parametrize("lose", [killed, crashed, stopped, all_killed])
async def test_a_run_goes_on_in_another_worker_and_asks_nothing_again(
    server: Served, tenants: tuple[Client, Client], lose: Loss
) -> None:
    ann, _ = tenants
    server.model.holds = True
    with anyio.fail_after(60):
        begun = await called(ann, "rlm_solve", **question(), wait_seconds=0)
        await server.model.wait_until_half(server.data_dir, begun["run_id"])
        lost = lose(server)
        server.model.holds = False
        ended = await finished(ann, begun["run_id"])
    assert (ended["status"], ended["answer"]) == ("completed", "8")
    assert {part: server.model.asked[part] for part in PARTS[:4]} == dict.fromkeys(PARTS[:4], 1)
    assert {server.model.asked[part] for part in PARTS[4:]} == {2}  # they were in flight
    assert not any(map(is_alive, lost))


@pytest.mark.parametrize("lose", [killed, stopped])
async def test_a_cancel_that_its_worker_did_not_answer_is_done_by_the_next_one(
    server: Served, tenants: tuple[Client, Client], lose: Loss
) -> None:
    ann, _ = tenants
    server.model.holds = True
    with anyio.fail_after(60):
        begun = await called(ann, "rlm_solve", **question(), wait_seconds=0)
        await server.model.wait_until_half(server.data_dir, begun["run_id"])
        lose(server)
        cancelled = await called(ann, "cancel_run", run_id=begun["run_id"])
        server.model.holds = False
    assert cancelled["status"] == "cancelled"
    assert (await answered(ann, "rlm_result", run_id=begun["run_id"]))["status"] == "cancelled"


async def test_a_call_that_is_given_up_while_its_worker_stands_still_stops_its_run(
    server: Served, tenants: tuple[Client, Client]
) -> None:
    ann, _ = tenants
    server.model.holds = True
    asked = question()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as calls:
            calls.start_soon(partial(called, ann, "rlm_solve", **asked))
            await until(lambda: all(server.model.asked[part] for part in PARTS[4:]))
            stopped(server)
            calls.cancel_scope.cancel()
        records = Runs(server.data_dir / "owners" / "ann")
        await until(lambda: newest(records).status == "cancelled")
        server.model.holds = False
    assert {server.model.asked[part] for part in PARTS} == {1}


def newest(records: Runs) -> RunState:
    return records.list(limit=1).runs[0]


async def test_a_call_that_its_worker_did_not_answer_is_told_what_to_do(
    server: Served, tenants: tuple[Client, Client]
) -> None:
    ann, bob = tenants
    said: list[str] = []

    async def wait() -> None:
        with pytest.raises(MCPError) as caught:
            await called(ann, "inspect_context", context="notes", code="while True: pass", timeout_seconds=60)
        said.append(caught.value.error.message)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as calls:
            calls.start_soon(wait)
            await anyio.sleep(0.5)
            of_bob = server.worker_of("bob")
            server.kill_worker_of("ann")
        assert "send the same request again" in said[0]
        assert "rlm_result" in said[0]
        assert server.worker_of("bob") == of_bob
        assert await shown(bob, "kept") == "7"


async def test_a_document_whose_conversion_ended_two_workers_is_refused_by_name(
    server: Served, tenants: tuple[Client, Client], tmp_path: Path
) -> None:
    ann, bob = tenants
    document = server.data_dir.parent / "documents" / f"{tmp_path.name}.docx"
    write_long_document(document)
    with anyio.fail_after(120):
        of_bob = server.worker_of("bob")
        refused = None
        for _ in range(2):
            is_killed = anyio.Event()
            async with anyio.create_task_group() as calls:
                calls.start_soon(kill_when_it_converts, server, is_killed)
                while not is_killed.is_set() and refused is None:  # it may reach one killed before
                    with suppress(MCPError):
                        refused = await ann.call_tool("register_context", {"source": str(document)})
                calls.cancel_scope.cancel()  # on a busy machine, the front may have killed one that did not answer
        while refused is None:
            with suppress(MCPError):  # the worker that was killed may still be dying
                refused = await ann.call_tool("register_context", {"source": str(document)})
    assert isinstance(refused, CallToolResult)
    assert refused.is_error
    assert f"{document} was being converted when 2 processes died" in str(refused.content)
    assert server.worker_of("bob") == of_bob
    assert await shown(bob, "kept") == "7"


def write_long_document(path: Path) -> None:
    """A document of Word that takes a second to convert."""
    paragraphs = b"".join(b"<w:p><w:r><w:t>paragraph %d</w:t></w:r></w:p>" % number for number in range(200_000))
    xmlns = b"http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    body = b'<w:document xmlns:w="%s"><w:body>%s</w:body></w:document>' % (xmlns, paragraphs)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", body)


async def kill_when_it_converts(server: Served, is_killed: anyio.Event) -> None:
    """Kills ann's worker once another process than before has written that it converts something."""
    before = conversions(server)
    await until(lambda: not conversions(server) <= before)
    is_killed.set()
    server.kill_worker_of("ann")


def conversions(server: Served) -> set[Path]:
    """The journals of processes that convert a document, or did when they died."""
    journals = server.data_dir / "owners" / "ann" / "contexts" / "conversions"
    return {path for path in journals.glob("*") if any(path.read_bytes())}


async def test_variables_come_back_and_the_client_is_told(server: Served, tenants: tuple[Client, Client]) -> None:
    ann, _ = tenants
    with anyio.fail_after(60):
        await until(lambda: bool(server_states(server)))
        server.kill_worker_of("ann")
        result = await answered(ann, "inspect_context", context="notes", code="kept + 1")
    assert (result["value"], result["notes"]) == ("8", ["The variables of the earlier cells were restored."])


HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "ann", "version": "1"}}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": HELLO["clientInfo"],
    "io.modelcontextprotocol/clientCapabilities": {},
}
BOTH_KINDS = "application/json, text/event-stream"


@pytest.mark.parametrize("method", sorted(ANSWERED))
async def test_what_never_changes_is_the_same_from_the_front_as_from_a_worker(server: Served, method: str) -> None:
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {ANN}"}, timeout=60) as http:

        async def ask(params: dict[str, Any], accept: str, name: str = method, **more: str) -> httpx2.Response:
            headers = {"Accept": accept, **{key.replace("_", "-"): value for key, value in more.items()}}
            body = {"jsonrpc": "2.0", "id": 7, "method": name, "params": params}
            return await http.post(f"{server.url}/mcp", json=body, headers=headers)

        opened = await ask(HELLO, BOTH_KINDS, "initialize")
        session = {"Mcp_Session_Id": opened.headers["Mcp-Session-Id"], "Mcp_Protocol_Version": "2025-06-18"}
        modern = {"Mcp_Method": method, "Mcp_Protocol_Version": "2026-07-28"}
        asked: list[tuple[dict[str, Any], dict[str, str]]] = [({"_meta": ENVELOPE}, modern)]
        if method in METHODS:
            asked.append(({}, session))
        for params, headers in asked:
            worker = await ask(params, f"{BOTH_KINDS}, */*", **headers)  # which the front does not know in full
            os.kill(pid := server.worker_of("ann"), signal.SIGSTOP)
            front = await ask(params, BOTH_KINDS, **headers)
            os.kill(pid, signal.SIGCONT)
            del worker.headers["date"], front.headers["date"]
            assert (front.status_code, front.content) == (200, worker.content)
            assert front.headers == worker.headers


def server_states(server: Served) -> Sequence[Path]:
    """Saved variables of ann's REPLs."""
    return list(server.data_dir.glob("owners/ann/repls/*.state"))


async def finished(client: Client, run_id: str) -> dict[str, Any]:
    """The result of a run once it has ended."""
    while (result := await answered(client, "rlm_result", run_id=run_id, wait_seconds=1))["status"] == "running":  # noqa: ASYNC110 - polls
        await anyio.sleep(0.1)
    return result


async def answered(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The result of a call, sent again when the worker ends that answers it, as the error says."""
    while True:
        with suppress(MCPError):
            return await called(client, tool, **arguments)


async def shown(client: Client, code: str) -> str:
    """What a cell prints."""
    result = await answered(client, "inspect_context", context="notes", code=code)
    return str(result["value"])


@asynccontextmanager
async def begun_again(directory: Path, cache: Path, model: HoldingModel) -> AsyncIterator[Client]:
    with served(directory, cache, model) as again:
        await listening(again.url)
        async with at(again.url, "auto", ANN) as ann:
            yield ann
        again.process.terminate()
        again.process.communicate(timeout=60)


async def test_workers_end_with_the_front_and_the_next_one_goes_on(tmp_path: Path, sandbox_cache: Path) -> None:
    model, count = HoldingModel(holds=True), 2
    with anyio.fail_after(120):
        with served(tmp_path, sandbox_cache, model, workers=count) as first:
            await listening(first.url)
            async with at(first.url, "auto", ANN) as ann:
                await called(ann, "register_context", text="some notes", name="notes")
                begun = await called(ann, "rlm_solve", **question(), wait_seconds=0)
                await model.wait_until_half(first.data_dir, begun["run_id"])
                workers = first.workers()
                first.process.kill()
        await until(lambda: not any(map(is_alive, workers)))
        model.holds = False
        async with begun_again(tmp_path, sandbox_cache, model) as ann:
            ended = await finished(ann, begun["run_id"])
    assert (len(workers), ended["status"], ended["answer"]) == (count, "completed", "8")
    assert {part: model.asked[part] for part in PARTS[:4]} == dict.fromkeys(PARTS[:4], 1)

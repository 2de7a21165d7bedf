"""Events that end a run, and others that do not, in real processes: cancelled requests, lost connections, server ends.

The second call of the root model is held at the endpoint, so that there is something in flight; whoever stops the run
closes that connection, which the endpoint counts.
"""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp_types import CallToolResult

from rlm_mcp.records.run_queue import LocalRunQueue
from rlm_mcp.records.store import Runs
from rlm_mcp.server.transports.token_file import digest_of
from rlm_mcp.workspace.waiting_calls import TELLING_SECONDS
from tests.peers.forking import forked_command
from tests.peers.openai_server import Fault, OpenAIServer, Request
from tests.peers.places import (
    at,
    endless_repository,
    environment,
    http_process,
    listening,
    on_stdio,
    opened,
    over_http,
    processes_about,
)

pytestmark = pytest.mark.anyio

QUESTION: dict[str, Any] = {"query": "How many?", "contexts": ["abc"], "mode": "rlm"}
TOKEN = "token-of-ann"  # noqa: S105 - of a server that lives for a second
LOST = 600.0
"""Seconds that a held call takes: longer than any test."""


class Endpoint:
    """The scripted endpoint. While it holds, the second call of a run takes LOST seconds."""

    def __init__(self) -> None:
        self.holds = True
        self.seconds = LOST
        self.server = OpenAIServer(self._reply, faults=self._fault)

    def _reply(self, request: Request) -> str:
        return "```repl\nFINAL(len(context))\n```" if _is_second(request) else "```repl\nprint(len(context))\n```"

    def _fault(self, request: Request) -> Fault | None:
        return Fault(latency=self.seconds) if self.holds and _is_second(request) else None

    async def is_asked_twice(self) -> None:
        """Waits until the second call is in flight."""
        await self._until(lambda: self.server.counts.requests >= 2 and self.server.counts.in_flight == 1)

    async def is_let_go(self) -> None:
        """Waits until the call in flight has been aborted."""
        await self._until(lambda: self.server.counts.in_flight == 0)
        assert self.server.counts.aborted >= 1

    async def _until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(60):
            while not condition():  # noqa: ASYNC110 - the endpoint is in another thread and does not tell
                await anyio.sleep(0.01)


def _is_second(request: Request) -> bool:
    return any(message["role"] == "assistant" for message in request.messages)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    with endpoint.server.run_in_thread():
        yield endpoint


@pytest.fixture
def environ(tmp_path: Path, compiled_cache: Path, endpoint: Endpoint) -> dict[str, str]:
    return environment(tmp_path, compiled_cache, endpoint.server.base_url)


async def called(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    fields: dict[str, Any] = result.structured_content or {}
    return fields


async def started(client: Client, endpoint: Endpoint) -> str:
    """A run whose second call is in flight, and for which nobody waits."""
    await called(client, "register_context", text="a b c", name="abc")
    run = await called(client, "rlm_solve", **QUESTION, wait_seconds=0)
    await endpoint.is_asked_twice()
    return str(run["run_id"])


async def ended(client: Client, run_id: str) -> dict[str, Any]:
    with anyio.fail_after(60):
        while (run := await called(client, "rlm_result", run_id=run_id))["status"] == "running":
            pass
    return run


async def only_run(client: Client) -> str:
    listed = (await client.list_resources(cache_mode="bypass")).resources
    (run_id,) = [resource.name for resource in listed if resource.name.startswith("run-")]
    return run_id


@pytest.mark.parametrize("era", ["auto", "legacy"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_cancelled_request_stops_the_run_and_the_call_in_flight(
    transport: str, era: str, environ: dict[str, str], endpoint: Endpoint
) -> None:
    async with opened(transport, environ) as new_client, new_client(era) as client:
        await called(client, "register_context", text="a b c", name="abc")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "rlm_solve", QUESTION)
            await endpoint.is_asked_twice()
            tasks.cancel_scope.cancel()
        await endpoint.is_let_go()
        run = await ended(client, await only_run(client))
    assert (run["status"], run["usage"]["root_calls"]) == ("cancelled", 2)
    assert endpoint.server.counts.requests == 2


@pytest.mark.parametrize("era", ["auto", "legacy"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_cancel_run_stops_the_call_in_flight_and_keeps_what_there_is(
    transport: str, era: str, environ: dict[str, str], endpoint: Endpoint
) -> None:
    async with opened(transport, environ) as new_client, new_client(era) as client:
        run_id = await started(client, endpoint)
        run = await called(client, "cancel_run", run_id=run_id)
        await endpoint.is_let_go()
        assert (run["status"], run["iterations"]) == ("cancelled", 2)
        events = (await client.read_resource(run["trace_uri"])).contents[0]
    kinds = [json.loads(line)["event"] for line in events.text.splitlines()]  # type: ignore[union-attr] # it is text
    assert kinds.count("cell") == 1


@pytest.mark.parametrize(("era", "status"), [("auto", "cancelled"), ("legacy", "completed")])
async def test_the_lost_connection_of_a_waiting_call_stops_the_run_where_the_protocol_says_so(
    era: str, status: str, environ: dict[str, str], endpoint: Endpoint
) -> None:
    """2026-07-28 has no other way to cancel over HTTP; before it, a lost connection says nothing."""
    with http_process(environ) as (_, url):
        await listening(url)
        async with at(url, era) as client:
            await called(client, "register_context", text="a b c", name="abc")
            async with httpx2.AsyncClient(timeout=60) as http:
                headers, body = _raw_call(era, await _session_id(http, url, era))
                async with http.stream("POST", f"{url}/mcp", headers=headers, json=body):
                    await endpoint.is_asked_twice()
            if era == "auto":
                await endpoint.is_let_go()
            endpoint.holds = False
            run = await ended(client, await only_run(client)) if era == "auto" else await _goes_on(client)
    assert run["status"] == status


@pytest.mark.parametrize("workers", [0, 2])
async def test_the_answer_to_a_lost_connection_in_a_session_waits_for_the_same_question(
    workers: int, environ: dict[str, str], endpoint: Endpoint
) -> None:
    endpoint.seconds = 0.5
    with over_http(environ, workers=workers) as url:
        await listening(url)
        async with at(url, "legacy") as client:
            await called(client, "register_context", text="a b c", name="abc")
            async with httpx2.AsyncClient(timeout=60) as http:
                headers, body = _raw_call("legacy", await _session_id(http, url, "legacy"))
                async with http.stream("POST", f"{url}/mcp", headers=headers, json=body):
                    await endpoint.is_asked_twice()
            records = Runs(Path(environ["RLM_MCP_DATA_DIR"]))
            await _while(lambda: records.list().runs[0].status != "completed")
            (lost,) = records.list().runs
            await anyio.sleep(TELLING_SECONDS + 0.5)  # until then, any answer is taken to be under way
            run = await called(client, "rlm_solve", **QUESTION)
            again = await called(client, "rlm_solve", **QUESTION)
    assert (run["run_id"], run["answer"]) == (lost.run_id, "5")
    assert again["run_id"] != run["run_id"]  # the answer has been told now


async def _goes_on(client: Client) -> dict[str, Any]:
    """The run whose call is held is still running."""
    run = await called(client, "rlm_result", run_id=await only_run(client), wait_seconds=0)
    assert run["status"] == "running"
    return run | {"status": "completed"}


async def _session_id(http: httpx2.AsyncClient, url: str, era: str) -> str:
    """A handshake by hand, where the era has one."""
    if era == "auto":
        return ""
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    accept = {"Accept": "application/json, text/event-stream"}
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    answer = await http.post(f"{url}/mcp", headers=accept, json=request)
    identity = answer.headers["mcp-session-id"]
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await http.post(f"{url}/mcp", headers=accept | {"Mcp-Session-Id": identity}, json=note)
    return str(identity)


def _raw_call(era: str, session_id: str) -> tuple[dict[str, str], dict[str, Any]]:
    params: dict[str, Any] = {"name": "rlm_solve", "arguments": QUESTION}
    headers = {"Accept": "application/json, text/event-stream"}
    if era == "legacy":
        headers |= {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": "2025-06-18"}
    else:
        headers |= {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "rlm_solve"}
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    return headers, {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_run_that_nobody_waits_for_outlives_its_connection(
    era: str, environ: dict[str, str], endpoint: Endpoint
) -> None:
    with http_process(environ) as (_, url):
        await listening(url)
        async with at(url, era) as client:
            run_id = await started(client, endpoint)
        assert endpoint.server.counts.in_flight == 1
        async with at(url, era) as client:
            run = await called(client, "cancel_run", run_id=run_id)
    assert run["status"] == "cancelled"


EndServer = Callable[["subprocess.Popen[bytes]"], None]


@pytest.mark.parametrize("era", ["auto", "legacy"])
@pytest.mark.parametrize("end", [subprocess.Popen.terminate, subprocess.Popen.kill])
async def test_the_next_server_goes_on_with_the_runs_of_one_that_ended_or_was_killed(
    era: str, end: EndServer, environ: dict[str, str], endpoint: Endpoint
) -> None:
    with http_process(environ) as (process, url):
        await listening(url)
        async with at(url, era) as client:
            run_id = await started(client, endpoint)
        end(process)
        process.communicate(timeout=60)
    await endpoint.is_let_go()
    endpoint.holds = False
    with http_process(environ) as (_, url):
        await listening(url)
        async with at(url, era) as client:
            run = await ended(client, run_id)
    assert (run["status"], run["answer"], run["iterations"]) == ("completed", "5", 2)
    assert endpoint.server.counts.requests == 3  # the call that was cut off, once more; nothing else


async def test_the_runs_of_every_owner_go_on_before_he_comes_back(
    environ: dict[str, str], endpoint: Endpoint, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {digest_of(TOKEN)}\n")
    with http_process(environ, "--token-file", str(tokens)) as (process, url):
        await listening(url)
        async with at(url, "auto", TOKEN) as client:
            await started(client, endpoint)
        process.kill()
        process.communicate(timeout=60)
    await endpoint.is_let_go()
    endpoint.holds = False
    with http_process(environ, "--token-file", str(tokens)):
        await endpoint._until(lambda: endpoint.server.counts.replies == 2)


async def test_a_waiting_call_is_answered_when_the_server_ends(environ: dict[str, str], endpoint: Endpoint) -> None:
    with http_process(environ) as (process, url):
        await listening(url)
        async with at(url, "auto") as client:
            await called(client, "register_context", text="a b c", name="abc")
            results: list[dict[str, Any]] = []

            async def wait() -> None:
                results.append(await called(client, "rlm_solve", **QUESTION))

            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    await endpoint.is_asked_twice()
                    process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert results[0]["status"] == "running"
    assert "goes on with this run when it is back" in results[0]["message"]


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_run_outlives_the_process_on_stdio(era: str, environ: dict[str, str], endpoint: Endpoint) -> None:
    async with on_stdio(environ, era) as client:
        run_id = await started(client, endpoint)
    await endpoint.is_let_go()
    endpoint.holds = False
    async with on_stdio(environ, era) as client:
        run = await ended(client, run_id)
    assert (run["status"], run["answer"]) == ("completed", "5")
    assert endpoint.server.counts.requests == 3


ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}


class RawClient:
    """A client that writes its requests and cancellations by itself, and the server process that it has started."""

    def __init__(self, process: "subprocess.Popen[bytes]", era: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.stdin, self._stdout = process, process.stdin, process.stdout
        self._meta = {"_meta": ENVELOPE} if era == "auto" else {}
        if era == "legacy":
            self.send(id=0, method="initialize", params=HELLO)
            self._stdout.readline()
            self.send(method="notifications/initialized")

    def send(self, **message: object) -> None:
        self.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.stdin.flush()

    def call(self, number: int, tool: str, **arguments: object) -> None:
        self.send(id=number, method="tools/call", params={"name": tool, "arguments": arguments} | self._meta)

    def result_of(self, number: int) -> dict[str, Any]:
        while (message := json.loads(self._stdout.readline())).get("id") != number:
            continue
        fields: dict[str, Any] = message["result"]["structuredContent"]
        return fields


@contextmanager
def waiting_client(tool: str, era: str, environ: dict[str, str]) -> Iterator[RawClient]:
    """A client that has asked a question and waits for its answer, by `rlm_solve` or `rlm_result`, as request 3."""
    with subprocess.Popen(forked_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:  # noqa: S603 - our own command
        client = RawClient(process, era)
        client.call(1, "register_context", text="a b c", name="abc")
        client.result_of(1)
        if tool == "rlm_result":
            client.call(2, "rlm_solve", **QUESTION, wait_seconds=0)
            client.call(3, "rlm_result", run_id=client.result_of(2)["run_id"])
        else:
            client.call(3, "rlm_solve", **QUESTION)
        try:
            yield client
        finally:
            process.kill()


LATE = {"method": "notifications/cancelled", "params": {"requestId": 3, "reason": "Request timed out"}}


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_question_whose_answer_came_too_late_is_not_paid_again(
    era: str, environ: dict[str, str], endpoint: Endpoint
) -> None:
    endpoint.holds = False
    with waiting_client("rlm_solve", era, environ) as client:
        run = client.result_of(3)
        client.send(**LATE)
        await anyio.sleep(TELLING_SECONDS + 0.5)  # until then, any answer is taken to be under way
        client.call(4, "rlm_solve", **QUESTION)
        again = client.result_of(4)
    assert (again["run_id"], again["status"]) == (run["run_id"], "completed")
    assert endpoint.server.counts.requests == 2


async def test_a_question_whose_answer_came_too_late_in_a_session_over_http_is_not_paid_again(
    environ: dict[str, str], endpoint: Endpoint
) -> None:
    endpoint.holds = False
    with http_process(environ) as (_, url):
        await listening(url)
        async with httpx2.AsyncClient(timeout=60, headers={"Accept": "application/json, text/event-stream"}) as http:

            async def say(**message: object) -> dict[str, Any]:
                answer = await http.post(f"{url}/mcp", json={"jsonrpc": "2.0", **message})
                http.headers["Mcp-Session-Id"] = answer.headers.get("Mcp-Session-Id", "")
                *_, data = ["{}", *re.findall(r"^data: (\{.*)", answer.text, re.MULTILINE)]
                result: dict[str, Any] = json.loads(data).get("result", {})
                fields: dict[str, Any] = result.get("structuredContent", {})
                return fields

            await say(id=0, method="initialize", params=HELLO)
            await say(method="notifications/initialized")
            context = {"text": "a b c", "name": "abc"}
            await say(id=1, method="tools/call", params={"name": "register_context", "arguments": context})
            run = await say(id=3, method="tools/call", params={"name": "rlm_solve", "arguments": QUESTION})
            await say(**LATE)
            await anyio.sleep(TELLING_SECONDS + 0.5)
            again = await say(id=4, method="tools/call", params={"name": "rlm_solve", "arguments": QUESTION})
    assert (again["run_id"], again["status"]) == (run["run_id"], "completed")
    assert endpoint.server.counts.requests == 2


async def is_cancelled_for_good(environ: dict[str, str], endpoint: Endpoint) -> None:
    """The only run is on record as cancelled, or is known to be and ended by the next server, which asks nothing."""
    await endpoint.is_let_go()
    records = Runs(Path(environ["RLM_MCP_DATA_DIR"]))
    (run,) = records.list().runs
    if run.status != "cancelled":  # the process had no time for the end
        assert LocalRunQueue(records).is_cancel_requested(run.run_id)
        async with on_stdio(environ, "auto") as client:
            assert (await ended(client, run.run_id))["status"] == "cancelled"
    assert (LocalRunQueue(records).left(), endpoint.server.counts.requests) == ([], 2)


async def test_a_run_whose_waiting_client_went_away_on_stdio_is_cancelled(
    environ: dict[str, str], endpoint: Endpoint
) -> None:
    with waiting_client("rlm_solve", "auto", environ) as client:
        await endpoint.is_asked_twice()
        client.stdin.close()
        assert client.process.wait(timeout=60) == 0
    await is_cancelled_for_good(environ, endpoint)


@pytest.mark.parametrize(
    ("tool", "era", "cancels"),
    [
        ("rlm_solve", "auto", "afterwards"),
        ("rlm_solve", "legacy", "before"),
        ("rlm_solve", "legacy", "never"),
        ("rlm_result", "auto", "never"),
    ],
)
async def test_ctrl_c_in_the_terminal_of_a_waiting_client_stops_the_run(
    tool: str, era: str, cancels: str, environ: dict[str, str], endpoint: Endpoint
) -> None:
    """The terminal sends SIGINT to the server as well; the client may cancel its call, just before or just after."""
    with waiting_client(tool, era, environ) as client:
        await endpoint.is_asked_twice()
        if cancels == "before":
            client.send(method="notifications/cancelled", params={"requestId": 3})
        client.process.send_signal(signal.SIGINT)
        if cancels == "afterwards":
            client.send(method="notifications/cancelled", params={"requestId": 3})
        assert client.process.wait(timeout=60) == 0
    await is_cancelled_for_good(environ, endpoint)


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_cancelled_registration_ends_the_git_that_lists_its_files(
    transport: str, environ: dict[str, str], tmp_path: Path
) -> None:
    source = endless_repository(tmp_path)
    async with opened(transport, environ) as new_client, new_client("auto") as client:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "register_context", {"source": source})
                await _while(lambda: not _lists(tmp_path))
                tasks.cancel_scope.cancel()
            await _while(lambda: _lists(tmp_path))
        assert (await called(client, "list_contexts"))["contexts"] == []


async def test_the_end_of_a_server_over_http_ends_the_git_that_lists_files(
    environ: dict[str, str], tmp_path: Path
) -> None:
    source = endless_repository(tmp_path)
    with http_process(environ) as (process, url):
        await listening(url)
        async with at(url, "auto") as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "register_context", {"source": source})
            with anyio.fail_after(60):
                await _while(lambda: not _lists(tmp_path))
            process.terminate()
            assert process.wait(timeout=60) == 0
            assert processes_about(tmp_path) == []
            tasks.cancel_scope.cancel()


def _lists(directory: Path) -> bool:
    return any("ls-files" in command for command in processes_about(directory))


async def _while(condition: Callable[[], bool]) -> None:
    while condition():  # noqa: ASYNC110 - processes do not tell
        await anyio.sleep(0.01)

"""The server process over HTTP: both eras, tokens, namespaces, refusals."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from rlm_mcp.server.transports.token_file import digest_of
from tests.peers.forking import forked_command
from tests.peers.openai_server import OpenAIServer
from tests.peers.places import COMMAND, connections_to, served_url

pytestmark = pytest.mark.anyio

Serve = Callable[..., AbstractContextManager[str]]

RESOURCE = "https://rlm.example/mcp"
WAITING = 20


@pytest.fixture
def serve(tmp_path: Path, compiled_cache: Path) -> Serve:
    """Starts a server and gives its URL once it listens."""
    return served_in(tmp_path, compiled_cache)


@pytest.fixture(scope="module")
def started_anew(tmp_path_factory: pytest.TempPathFactory, compiled_cache: Path) -> Iterator[str]:
    """The URL of a server that is not forked, whose own start takes seconds."""
    with served_in(tmp_path_factory.mktemp("anew"), compiled_cache)(command=COMMAND) as url:
        yield url


def served_in(directory: Path, cache: Path) -> Serve:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "RLM_MCP_DATA_DIR": str(directory / "data"),
        "RLM_MCP_CACHE_DIR": str(cache),
    }

    @contextmanager
    def serving(*options: str, command: Sequence[str] = ()) -> Iterator[str]:
        started = [*(command or forked_command()), "serve", "--http", "127.0.0.1:0", *options]
        with subprocess.Popen(started, env=environ, stderr=subprocess.PIPE) as process:  # noqa: S603 - our own command
            assert process.stderr is not None
            try:
                yield served_url(process)
                process.terminate()
                _, told = process.communicate(timeout=60)
                assert process.returncode == 0
                assert b'"level": "ERROR"' not in told, told.decode()
            finally:  # a test that failed would wait for it for ever
                process.kill()
                if not process.stderr.closed:  # what a server told whose test failed
                    sys.stderr.write(process.stderr.read().decode())

    return serving


@asynccontextmanager
async def connected(url: str, era: str, token: str | None = None) -> AsyncIterator[Client]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        await listening(http, url)
        async with Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=era) as client:
            yield client


async def listening(http: httpx2.AsyncClient, url: str) -> None:
    """Waits until the server answers."""
    with anyio.fail_after(60):
        while True:
            try:
                answer = await http.get(f"{url}/health")
            except httpx2.ConnectError:
                continue
            assert answer.json() == {"status": "ok"}
            return


async def called(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    fields: dict[str, Any] = result.structured_content
    return fields


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_context_is_registered_and_inspected_with_code(started_anew: str, era: str) -> None:
    with anyio.fail_after(60):
        async with connected(started_anew, era) as client:
            await called(client, "register_context", text="a b c", name="abc")
            cell = await called(client, "inspect_context", context="abc", code="context.split()")
            assert cell["value"] == "['a', 'b', 'c']"
            assert [str(r.uri) for r in (await client.list_resources()).resources] == [
                (await called(client, "list_contexts"))["contexts"][0]["uri"]
            ]


async def test_paths_of_the_server_are_closed_unless_roots_are_named(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.txt").write_text("a")
    with serve() as url, anyio.fail_after(60):
        async with connected(url, "auto") as client:
            result = await client.call_tool("register_context", {"source": str(tmp_path / "open" / "a.txt")})
            assert isinstance(result, CallToolResult)
            assert result.is_error
    with serve("--roots", str(tmp_path / "open")) as url, anyio.fail_after(60):
        async with connected(url, "auto") as client:
            assert (await called(client, "register_context", source=str(tmp_path / "open" / "a.txt")))["chars"] == 1


async def test_tokens_open_separate_namespaces(serve: Serve, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# who\nann {digest_of('token-of-ann')}\nbob {digest_of('token-of-bob')}\n")
    with serve("--token-file", str(tokens)) as url, anyio.fail_after(60):
        async with connected(url, "auto", "token-of-ann") as ann, connected(url, "legacy", "token-of-bob") as bob:
            context = await called(ann, "register_context", text="secret", name="mine")
            assert (await called(bob, "list_contexts"))["contexts"] == []
            for ref in ("mine", context["context_id"]):
                result = await bob.call_tool("inspect_context", {"context": ref})
                assert isinstance(result, CallToolResult)
                assert result.is_error
        async with httpx2.AsyncClient(timeout=60) as http:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                assert (await http.post(f"{url}/mcp", headers=headers, json={})).status_code == 401


@pytest.mark.parametrize(
    ("header", "value", "status"), [("Host", "evil.example", 421), ("Origin", "http://evil.example", 403)]
)
async def test_rebound_names_are_refused(serve: Serve, header: str, value: str, status: int) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    with serve() as url, anyio.fail_after(60):
        async with httpx2.AsyncClient(timeout=60) as http:
            await listening(http, url)
            answer = await http.post(f"{url}/mcp", headers={header: value, **accept}, json=request)
    assert answer.status_code == status


@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25"])
async def test_a_client_that_dies_while_it_sends_is_no_error(serve: Serve, version: str) -> None:
    with serve() as url, anyio.fail_after(60):  # which looks for errors in the log at its end
        async with httpx2.AsyncClient(timeout=60) as http:
            await listening(http, url)
            host, port = url.removeprefix("http://").split(":")
            async with await anyio.connect_tcp(host, int(port)) as dying:
                lines = [
                    "POST /mcp HTTP/1.1",
                    f"Host: {host}:{port}",  # another is refused before the body is read
                    "Content-Type: application/json",
                    "Accept: application/json, text/event-stream",
                    f"MCP-Protocol-Version: {version}",
                    "Content-Length: 1000",
                ]
                await dying.send("\r\n".join([*lines, "", "{"]).encode())
            await listening(http, url)


def test_a_public_address_without_tokens_is_refused(tmp_path: Path) -> None:
    command = [*forked_command(), "serve", "--http", "0.0.0.0:0", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own command
    assert done.returncode == 2
    assert "--token-file" in done.stderr
    assert "Traceback" not in done.stderr


async def test_closing_the_response_of_a_running_call_cancels_its_run(
    serve: Serve, endpoint: OpenAIServer, tmp_path: Path
) -> None:
    options = ["--base-url", endpoint.base_url, "--model", "scripted"]
    with serve(*options) as url, anyio.fail_after(60):
        async with connected(url, "auto") as client:
            await called(client, "register_context", text="a b c", name="abc")
            async with anyio.create_task_group() as tasks:
                question = {"query": "Loop for ever?", "contexts": ["abc"], "mode": "rlm"}
                tasks.start_soon(client.call_tool, "rlm_solve", question)
                runs: list[str] = []
                while not runs:
                    listed = (await client.list_resources(cache_mode="bypass")).resources
                    runs = [resource.name for resource in listed if resource.name.startswith("run-")]
                    await anyio.sleep(0.05)  # an owner has so many requests a second
                tasks.cancel_scope.cancel()
            # Looked at without waiting for it, which would keep it going.
            uri = f"rlm://runs/{runs[0]}"
            while '"running"' in str(await client.read_resource(uri, cache_mode="bypass")):  # noqa: ASYNC110 - not told
                await anyio.sleep(0.05)
            run = await called(client, "rlm_result", run_id=runs[0])
    assert (run["status"], run["stopped_by"]) == ("cancelled", "cancelled"), run["message"]


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    with OpenAIServer(lambda _: "```repl\nwhile True: pass\n```").run_in_thread() as server:
        yield server


async def test_access_tokens_of_an_authorization_server_open_separate_namespaces(serve: Serve) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with issuing(key) as issuer, serve("--oauth-issuer", issuer, "--oauth-resource", RESOURCE) as url:

        def token(who: str) -> str:
            claims = {"iss": issuer, "aud": RESOURCE, "sub": who, "exp": int(time.time()) + 3_600}
            return jwt.encode(claims, key, "RS256", headers={"kid": "k"})

        with anyio.fail_after(60):
            async with connected(url, "auto", token("ann")) as ann, connected(url, "auto", token("bob")) as bob:
                await called(ann, "register_context", text="secret", name="mine")
                assert (await called(bob, "list_contexts"))["contexts"] == []
            async with httpx2.AsyncClient(timeout=60) as http:
                refused = await http.post(f"{url}/mcp", json={})
                assert refused.status_code == 401
                assert "resource_metadata=" in refused.headers["www-authenticate"]


@pytest.mark.parametrize("workers", ["0", "1"])
async def test_tokens_that_wait_for_an_issuer_that_hangs_are_answered_when_the_server_ends(
    serve: Serve, workers: str
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = jwt.encode({"sub": "ann"}, key, "RS256", headers={"kid": "another"})
    statuses: list[int] = []

    async def ask(url: str) -> None:
        async with httpx2.AsyncClient(timeout=60) as http:
            answer = await http.post(f"{url}/mcp", json={}, headers={"Authorization": f"Bearer {token}"})
            statuses.append(answer.status_code)

    go_on = threading.Event()
    options = ["--oauth-resource", RESOURCE, "--workers", workers]
    with anyio.fail_after(60), issuing(key, go_on) as issuer, ExitStack() as server:
        url = server.enter_context(serve("--oauth-issuer", issuer, *options))
        async with anyio.create_task_group() as attackers:
            for _ in range(WAITING):
                attackers.start_soon(ask, url)
            while connections_to(url, otherwise=WAITING) < WAITING:  # noqa: ASYNC110 - the system does not notify
                await anyio.sleep(0.05)
            await anyio.sleep(0.5)  # the server has no way to say that it has begun with all of them
            await anyio.to_thread.run_sync(server.close)
        go_on.set()
    assert statuses == [401] * WAITING


@pytest.mark.parametrize("workers", ["0", "1"])
async def test_a_request_over_the_bound_is_refused_and_the_next_is_answered(serve: Serve, workers: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"[" * (1 << 20)

    with serve("--workers", workers) as url, anyio.fail_after(60):
        async with httpx2.AsyncClient(timeout=60) as http:
            headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
            told = await http.post(f"{url}/mcp", content=b"[" * (5 << 20), headers=headers)
            sent_in_parts = await http.post(f"{url}/mcp", content=body(), headers=headers)
            assert [told.status_code, sent_in_parts.status_code] == [413, 413]
            assert (await http.get(f"{url}/health")).status_code == 200


@contextmanager
def issuing(key: rsa.RSAPrivateKey, go_on: threading.Event | None = None) -> Iterator[str]:
    """An authorization server with the two resources that are read: its metadata and, after `go_on`, its keys."""
    jwk = json.loads(RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "k", "use": "sig", "alg": "RS256"}

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if go_on is not None and self.path == "/keys":
                go_on.wait(60)
            issuer = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined] # an attribute of this one class
            metadata = {"issuer": issuer, "jwks_uri": f"{issuer}/keys"}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"keys": [jwk]} if self.path == "/keys" else metadata).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()

"""Workers reach the endpoints of models through the broker, and nothing else."""

import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import pytest
import requests

from rlm_mcp.models.base import Message
from rlm_mcp.models.discovery import LocalServer, find_local_servers
from rlm_mcp.models.exchange import NoResponse
from rlm_mcp.models.openai import OpenAIProvider
from rlm_mcp.models.passed_sockets import PassedSocketConnector
from rlm_mcp.models.profiles import profile_of
from rlm_mcp.models.sender import Sender
from rlm_mcp.redact import Secret
from rlm_mcp.server.workers.egress import (
    MOST_OPENING,
    Connect,
    Destination,
    Dialer,
    Egress,
    EgressBroker,
    allowed_destinations,
    certificate_files,
    egress_pair,
)
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.passed_requests import passed_session
from tests.peers.openai_server import OpenAIServer
from tests.rlm_mcp.server.workers.certificates import self_signed
from tests.rlm_mcp.server.workers.servers import https_server

pytestmark = pytest.mark.anyio

if sys.platform != "linux":
    pytest.skip("workers of this system use its network", allow_module_level=True)


@asynccontextmanager
async def brokered(*allowed: Destination, connect: Connect | None = None) -> AsyncIterator[Egress]:
    pair = egress_pair()
    assert pair is not None
    broker = EgressBroker(allowed, connect=connect)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker.serve, pair[0])
            with pair[1]:
                yield Egress(pair[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_model_answers_through_the_broker(host: str) -> None:
    async with OpenAIServer(["hello"]) as server, brokered((host, server.port)) as egress:
        url = f"http://{host}:{server.port}/v1"
        provider = OpenAIProvider(url, Secret("sk-key"), connections=egress)
        completion = await provider.model("scripted", profile_of("scripted", url)).complete(
            [Message(role="user", content="hi")]
        )
        await provider.aclose()
    assert completion.text == "hello"


async def test_a_local_server_is_found_through_the_broker() -> None:
    async with OpenAIServer(["hello"], models=["m"]) as server, brokered(("127.0.0.1", server.port)) as egress:
        found = await anyio.to_thread.run_sync(
            lambda: find_local_servers([("Ollama", server.port), ("vLLM", 1)], seconds=10, connections=egress)
        )
        assert found == [LocalServer(name="Ollama", base_url=server.base_url, models=("m",))]


async def test_tls_is_spoken_by_the_worker(tmp_path: Path) -> None:
    ours = self_signed(tmp_path / "certificate.pem")
    theirs = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
    async with https_server(ours, "secret") as port, brokered(("localhost", port)) as egress:
        connector = PassedSocketConnector(egress, ssl=theirs)
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.get(f"https://localhost:{port}/") as response,
        ):
            answer = await response.text()
    assert answer == "secret"


async def test_spans_are_sent_through_the_broker(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    async with https_server(self_signed(certificate), "taken") as port, brokered(("localhost", port)) as egress:
        with passed_session(egress) as session:
            session.headers["Connection"] = "close"
            post = partial(session.post, f"https://localhost:{port}/v1/traces", b"spans", verify=str(certificate))
            answer = await anyio.to_thread.run_sync(post)
            with pytest.raises(requests.ConnectionError, match="none of them: set RLM_MCP_BASE_URL"):
                await anyio.to_thread.run_sync(session.get, "http://localhost:1/")
    assert answer.text == "taken"


async def test_another_address_is_refused_in_a_sentence() -> None:
    async with OpenAIServer(["hello"]) as server, brokered(("api.openai.com", 443)) as egress:
        sender = Sender(server.base_url, Secret("sk-key"), connections=egress)
        answer = await sender.send("/chat/completions", {})
        await sender.aclose()
        assert answer == NoResponse(
            kind="unreachable",
            why="this server connects only to the endpoints, proxies and collectors in its settings, and"
            f" 127.0.0.1:{server.port} is none of them: set RLM_MCP_BASE_URL",
            sent=False,
        )
        assert server.counts.requests == 0


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError(), "Connection timed out"),
        (ValueError("no such family"), "ValueError: no such family"),
        (OSError(113, "é" * 5_000), "No route to host"),
    ],
)
async def test_the_reason_of_the_broker_is_that_of_the_worker(error: Exception, why: str) -> None:
    async def connect(host: str, port: int) -> socket.socket:
        raise error

    async with brokered(("model.example", 80), connect=connect) as egress:
        sender = Sender("http://model.example/v1", Secret("sk-key"), connections=egress)
        answer = await sender.send("/chat/completions", {})
        await sender.aclose()
    assert answer == NoResponse(kind="unreachable", why=why, sent=False)


async def test_one_worker_cannot_stop_the_connections_of_another() -> None:
    waiting = 0

    async def connect(host: str, port: int) -> socket.socket:
        nonlocal waiting
        waiting += host == "slow.example"
        if waiting >= MOST_OPENING:
            full.set()
        if host == "slow.example":
            await anyio.sleep_forever()
        return socket.socket()

    full = anyio.Event()
    pairs = [egress_pair(), egress_pair()]
    broker = EgressBroker([("slow.example", 80), ("fast.example", 80)], connect=connect)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for pair in pairs:
                assert pair is not None
                tasks.start_soon(broker.serve, pair[0])
            flooding, other = (Egress(pair[1]) for pair in pairs if pair)
            for _ in range(2 * MOST_OPENING):
                tasks.start_soon(flooding.connect, "slow.example", 80)
            await full.wait()
            (await other.connect("fast.example", 80)).close()
            tasks.cancel_scope.cancel()
        for each in (flooding, other):
            each._channel.close()
    assert waiting == MOST_OPENING


@pytest.mark.parametrize("is_full", [True, False])
async def test_a_thread_waits_for_a_broker_that_takes_nothing_no_longer_than_it_says(is_full: bool) -> None:
    pair = egress_pair()
    assert pair is not None
    with pair[0], pair[1], anyio.fail_after(5):
        with suppress(BlockingIOError):
            while is_full:
                pair[1].send(b"x", socket.MSG_DONTWAIT)
        connect = partial(Egress(pair[1]).connect_now, "a.example", 80, 0.02)
        with pytest.raises(TimeoutError):
            await anyio.to_thread.run_sync(connect, abandon_on_cancel=True)


async def test_a_name_is_looked_up_once_in_ten_seconds_unless_its_addresses_fail() -> None:
    looked_up: list[str] = []
    now = 100.0

    def look_up(host: str, port: int) -> list[tuple[object, ...]]:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    dialer = Dialer(look_up=look_up, clock=lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(open_and_close, dialer, port)
        assert len(looked_up) == 1
        now += 11
        await open_and_close(dialer, port)
        assert len(looked_up) == 2
    with pytest.raises(ConnectionRefusedError):
        await open_and_close(dialer, port)
    with pytest.raises(ConnectionRefusedError):
        await open_and_close(dialer, port)
    assert len(looked_up) == 3


async def open_and_close(dialer: Dialer, port: int) -> None:
    (await dialer.connect("model.example", port)).close()


async def test_messages_that_are_no_requests_do_no_harm(tmp_path: Path) -> None:
    before = descriptors()
    async with OpenAIServer(["hello"]) as server, brokered(("127.0.0.1", server.port)) as egress:
        with (tmp_path / "file").open("wb") as file, socket.socket() as unconnected:
            socket.send_fds(egress._channel, [b'{"host": "127.0.0.1", "port": 1e400}'], [unconnected.fileno()])
            socket.send_fds(egress._channel, [b'{"host": "127.0.0.1"' + b" " * 4_000], [file.fileno()] * 200)
            socket.send_fds(egress._channel, [b'{"host": "\\ud800", "port": 80}'], [unconnected.fileno()])
            egress._channel.send(b"[" * 1_000)
        (await egress.connect("127.0.0.1", server.port)).close()
    assert descriptors() == before


async def test_a_failure_of_the_broker_ends_the_connections_of_one_worker_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def connect(host: str, port: int) -> socket.socket:
        return None  # type: ignore[return-value] # a fault of ours

    async with brokered(("a.example", 80), connect=connect) as egress:
        with pytest.raises(ConnectionAbortedError):
            await egress.connect("a.example", 80)
    assert [record.message for record in caplog.records] == ["the broker failed, so a worker has no more connections"]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_what_is_being_opened_ends_with_the_worker() -> None:
    begun = anyio.Event()

    async def connect(host: str, port: int) -> socket.socket:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    pair = egress_pair()
    assert pair is not None
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(EgressBroker([("a.example", 80)], connect=connect).serve, pair[0])
            tasks.start_soon(refused, Egress(pair[1]))
            await begun.wait()
            pair[1].close()


async def refused(egress: Egress) -> None:
    with pytest.raises(ConnectionAbortedError):
        await egress.connect("a.example", 80)


@pytest.mark.parametrize(
    ("settings", "environ", "allowed"),
    [
        ({"base_url": "https://Gateway.example/v1"}, {}, {("gateway.example", 443)}),
        (
            {"base_url": "http://[::1]:8000/v1", "sub_base_url": "http://10.0.0.2"},
            {},
            {("::1", 8000), ("10.0.0.2", 80)},
        ),
        ({"api_key": Secret("sk-key")}, {}, {("api.openai.com", 443)}),
        ({}, {}, {("127.0.0.1", port) for port in (11434, 1234, 8080, 8000)}),
        (
            {"base_url": "https://bücher.example"},
            {"HTTPS_PROXY": "http://proxy.example:3128", "all_proxy": "other.example:8080"},
            {("xn--bcher-kva.example", 443), ("proxy.example", 3128), ("other.example", 8080)},
        ),
        ({"base_url": "http://a.example", "traces": True}, {}, {("a.example", 80), ("localhost", 4318)}),
        (
            {"base_url": "http://a.example", "traces": True},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example"},
            {("a.example", 80), ("collector.example", 443)},
        ),
    ],
)
def test_the_destinations_are_those_of_the_settings(
    settings: dict[str, object], environ: dict[str, str], allowed: set[Destination]
) -> None:
    chosen = Settings(data_dir=Path("data"), cache_dir=Path("cache"), **settings)  # type: ignore[arg-type] # of any setting
    assert allowed_destinations(chosen, environ) == allowed


def test_the_certificates_that_variables_name_are_for_workers_too() -> None:
    environ = {
        "SSL_CERT_FILE": "/a.pem",
        "SSL_CERT_DIR": "",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/b.key",
        "CERTIFICATE": "c",
    }
    assert certificate_files(environ) == (Path("/a.pem"), Path("/b.key"))

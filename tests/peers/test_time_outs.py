"""A client that gives up waiting and asks the same again gets the run that it has begun, and pays once."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult

from rlm_mcp.records.run import Run
from rlm_mcp.workspace.waiting_calls import TELLING_SECONDS
from tests.peers.openai_server import Fault, OpenAIServer, Request
from tests.peers.places import environment, opened

pytestmark = pytest.mark.anyio

EVERY_TRANSPORT = pytest.mark.parametrize(
    ("transport", "era"), [("stdio", "auto"), ("stdio", "legacy"), ("http", "legacy"), ("http", "auto")]
)

QUESTION: dict[str, Any] = {"query": "How many?", "contexts": ["abc"], "mode": "rlm"}


def replies(request: Request) -> int:
    """How many the model has given before in this run."""
    return sum(message["role"] == "assistant" for message in request.messages)


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    """Its second reply to a run takes longer than the client waits."""
    server = OpenAIServer(
        lambda request: "```repl\nFINAL(len(context))\n```" if replies(request) else "```repl\nlen(context)\n```",
        faults=lambda request: Fault(latency=2.0) if replies(request) else None,
    )
    with server.run_in_thread():
        yield server


async def called(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    return result.structured_content or {}


async def time_out(client: Client) -> None:
    with pytest.raises(MCPError, match="timed out"):
        await client.call_tool("rlm_solve", QUESTION, read_timeout_seconds=1)


@EVERY_TRANSPORT
async def test_a_repeated_question_goes_on_with_the_run_whose_call_timed_out(
    transport: str, era: str, tmp_path: Path, compiled_cache: Path, endpoint: OpenAIServer
) -> None:
    environ = environment(tmp_path, compiled_cache, endpoint.base_url)
    with anyio.fail_after(60):
        async with opened(transport, environ) as new_client, new_client(era) as client:
            await called(client, "register_context", text="a b c", name="abc")
            while endpoint.counts.requests < 2:  # the call in flight is the one that takes long
                await time_out(client)
            run = await called(client, "rlm_solve", **QUESTION)
            listed = (await client.list_resources(cache_mode="bypass")).resources
    assert (run["status"], run["answer"]) == ("completed", "5")
    assert [resource.name for resource in listed if resource.name.startswith("run-")] == [run["run_id"]]
    assert endpoint.counts.replies == 2
    assert endpoint.counts.aborted <= ends_a_call(transport, era)


@EVERY_TRANSPORT
async def test_a_run_that_is_completed_after_its_call_timed_out_is_paid_once_also_when_the_server_restarts(
    transport: str, era: str, tmp_path: Path, compiled_cache: Path, endpoint: OpenAIServer
) -> None:
    environ = environment(tmp_path, compiled_cache, endpoint.base_url)
    with anyio.fail_after(60):
        async with opened(transport, environ) as new_client, new_client(era) as client:
            await called(client, "register_context", text="a b c", name="abc")
            losses = 0
            # The first loss may end the run, which the next call then goes on with.
            while losses <= ends_a_call(transport, era) or not endpoint.counts.in_flight:
                await time_out(client)
                losses += 1
            record = only_record(tmp_path)
            while record.state().status != "completed":  # noqa: ASYNC110 - it is of another process
                await anyio.sleep(0.05)
            await anyio.sleep(TELLING_SECONDS)  # until then, a call that has ended may not have reached its client
        asked = endpoint.counts.requests
        async with opened(transport, environ) as new_client, new_client(era) as client:
            run = await called(client, "rlm_solve", **QUESTION)
    assert (run["run_id"], run["status"], run["answer"]) == (record.run_id, "completed", "5")
    assert endpoint.counts.requests == asked


def only_record(directory: Path) -> Run:
    (events,) = directory.rglob("events.jsonl")
    return Run(events.parent)


def ends_a_call(transport: str, era: str) -> int:
    """1 where a first time-out ends the call in flight, because it cannot be told from a user who cancels."""
    return int((transport, era) == ("http", "auto"))


@EVERY_TRANSPORT
async def test_a_time_out_shorter_than_every_reply_gets_an_answer_in_the_end_and_pays_once(
    transport: str, era: str, tmp_path: Path, compiled_cache: Path
) -> None:
    slow = OpenAIServer(
        lambda request: "```repl\nFINAL(len(context))\n```" if replies(request) == 2 else "```repl\nlen(context)\n```",
        faults=lambda _: Fault(latency=1.5),
    )
    with slow.run_in_thread(), anyio.fail_after(60):
        environ = environment(tmp_path, compiled_cache, slow.base_url)
        async with opened(transport, environ) as new_client, new_client(era) as client:
            await called(client, "register_context", text="a b c", name="abc")
            run: dict[str, Any] = {}
            while not run:
                with suppress(MCPError):
                    result = await client.call_tool("rlm_solve", QUESTION, read_timeout_seconds=0.7)
                    assert isinstance(result, CallToolResult)
                    run = result.structured_content or {}
    assert (run["status"], run["answer"], slow.counts.replies) == ("completed", "5", 3)
    assert slow.counts.requests == 3 + slow.counts.aborted
    assert slow.counts.aborted <= ends_a_call(transport, era)

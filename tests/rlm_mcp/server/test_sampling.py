"""Runs that the client's own model answers, because no other is configured."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult, CreateMessageRequestParams, CreateMessageResult, ErrorData, TextContent

from rlm_mcp.errors import NoModelConfigured
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.repl.scripted import Play, ScriptedOpener
from rlm_mcp.repl.types import CellResult, Final, GuestCalls
from rlm_mcp.server.server import build_server
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.launch import ChooseModels, RunModels
from rlm_mcp.workspace.workspace import Workspace, open_workspace

from .conftest import text_of

pytestmark = pytest.mark.anyio


async def nobody(_root: str | None, _sub: str | None) -> RunModels:
    raise NoModelConfigured("no model is configured: set RLM_MCP_MODEL")


async def run_cell(code: str, calls: GuestCalls) -> CellResult:
    return CellResult(code=code, stdout="60\n", final=Final(value="60") if "FINAL" in code else None)


class Place:
    """A server whose operator has configured a model or none, and its clients."""

    def __init__(self, directory: Path, choose: ChooseModels = nobody) -> None:
        self._settings = Settings(data_dir=directory / "data", cache_dir=directory / "cache", sub_call_cache=False)
        self._choose = choose

    @asynccontextmanager
    async def open(self, cell: Play = run_cell) -> AsyncIterator[Workspace]:
        async with open_workspace(self._settings, choose=self._choose, open_repl=ScriptedOpener(cell)) as workspace:
            await workspace.contexts.register(text="a line\n" * 5_000, name="text")
            yield workspace


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


QUESTION = {"query": "How many lines?", "contexts": ["text"], "mode": "rlm"}


async def solve(workspace: Workspace, era: str, sampling: Any, **arguments: Any) -> CallToolResult:
    """The result of rlm_solve."""
    async with Client(build_server(workspace), mode=era, sampling_callback=sampling) as client:
        with anyio.fail_after(60):
            result = await client.call_tool("rlm_solve", QUESTION | arguments)
    assert isinstance(result, CallToolResult)
    return result


async def replies(context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
    return said("```repl\nFINAL(60)\n```" if len(params.messages) > 1 else "```repl\nprint(len(context))\n```")


def said(text: str) -> CreateMessageResult:
    content = TextContent(type="text", text=text)
    return CreateMessageResult(role="assistant", content=content, model="theirs", stop_reason="endTurn")


async def declines(context: Any, params: CreateMessageRequestParams) -> ErrorData:
    return ErrorData(code=-1, message="User rejected sampling request")


async def test_the_clients_model_answers_where_none_is_configured(place: Place, era: str) -> None:
    async with place.open() as workspace:
        result = await solve(workspace, era, replies)
    assert not result.is_error
    assert result.structured_content is not None
    assert (result.structured_content["status"], result.structured_content["answer"]) == ("completed", "60")
    assert result.structured_content["usage"]["cost_usd"] is None


async def asks_three(code: str, calls: GuestCalls) -> CellResult:
    """A cell that makes three sub-calls at once."""
    answers: list[object] = []

    async def ask(number: int) -> None:
        answers.append(await calls.llm_query(f"part {number}", model=None, schema=None))

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(ask, number)
    return CellResult(code=code, final=Final(value=sorted(map(str, answers))))


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        ({"model": "client"}, ["part 0", "part 1", "part 2", "root"]),
        ({"model": "client", "sub_model": "own"}, ["root"]),
        ({"sub_model": "client"}, ["part 0", "part 1", "part 2"]),
    ],
)
async def test_the_clients_model_is_root_sub_model_or_both(
    tmp_path: Path, era: str, named: dict[str, str], asked: list[str]
) -> None:
    ours = ScriptedModel(lambda asked: "yes" if asked.last.startswith("part ") else "```repl\nask()\n```")
    theirs: list[str] = []

    async def choose(root: str | None, sub: str | None) -> RunModels:
        return RunModels(root=ours, sub=ours)

    async def answers(context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
        content = params.messages[-1].content
        assert isinstance(content, TextContent)
        theirs.append(content.text if content.text.startswith("part ") else "root")
        return said("yes" if content.text.startswith("part ") else "```repl\nask()\n```")

    async with Place(tmp_path, choose).open(asks_three) as workspace:
        result = await solve(workspace, era, answers, **named)
    assert not result.is_error, text_of(result)
    assert sorted(theirs) == asked


async def test_a_run_of_more_rounds_than_a_client_makes_is_gone_on_with_by_rlm_result(place: Place, era: str) -> None:
    """The client's model answers in its fifteenth turn; client SDKs repeat one call ten times at most."""

    async def slow(context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
        turn = (len(params.messages) + 1) // 2
        return said(f"```repl\n{'FINAL(1)' if turn >= 15 else f'print({turn})'}\n```")

    async with place.open() as workspace, Client(build_server(workspace), mode=era, sampling_callback=slow) as client:
        with anyio.fail_after(60):
            result = await client.call_tool("rlm_solve", QUESTION)
            while isinstance(result, CallToolResult) and result.structured_content["status"] == "running":
                result = await client.call_tool("rlm_result", {"run_id": result.structured_content["run_id"]})
    assert result.structured_content["status"] == "completed"
    assert result.structured_content["iterations"] == 15


async def test_another_client_answers_what_the_first_one_left_open(place: Place, era: str) -> None:
    async with place.open() as workspace:
        async with Client(build_server(workspace), mode=era, sampling_callback=replies) as client:
            started = await client.call_tool("rlm_solve", QUESTION | {"wait_seconds": 0})
            assert isinstance(started, CallToolResult)
            run_id = started.structured_content["run_id"]
        async with Client(build_server(workspace), mode=era, sampling_callback=replies) as client:
            with anyio.fail_after(60):
                result = await client.call_tool("rlm_result", {"run_id": run_id})
    assert isinstance(result, CallToolResult)
    assert result.structured_content["answer"] == "60"


async def test_a_user_who_declines_is_told_what_else_there_is(place: Place) -> None:
    async with place.open() as workspace:
        result = await solve(workspace, "legacy", declines)
    assert result.structured_content is not None
    message = result.structured_content["message"]
    assert result.structured_content["status"] == "failed"
    assert message.startswith("the client did not answer a sampling request (User rejected sampling request): allow it")


async def test_a_user_who_declines_twice_without_a_word_of_it_is_not_asked_again(place: Place) -> None:
    """A client of 2026-07-28 then drops the call without telling the server."""
    asked = 0

    async def declines_and_counts(context: Any, params: CreateMessageRequestParams) -> ErrorData:
        nonlocal asked
        asked += 1
        return await declines(context, params)

    async with (
        place.open() as workspace,
        Client(build_server(workspace), sampling_callback=declines_and_counts) as client,
    ):
        for _ in range(2):
            with pytest.raises(MCPError, match="User rejected"):
                await client.call_tool("rlm_solve", QUESTION)
        with anyio.fail_after(60):
            result = await client.call_tool("rlm_solve", QUESTION)
    assert asked == 2
    assert isinstance(result, CallToolResult)
    assert (result.structured_content["status"], result.structured_content["stopped_by"]) == ("failed", "error")
    assert result.structured_content["message"].startswith(
        "the client did not answer a sampling request though it was asked 2 times: its user may have declined; allow it"
    )


async def test_a_user_who_declines_at_first_is_asked_once_more(place: Place) -> None:
    async with place.open() as workspace:
        async with Client(build_server(workspace), sampling_callback=declines) as client:
            with pytest.raises(MCPError, match="User rejected"):
                await client.call_tool("rlm_solve", QUESTION)
        result = await solve(workspace, "auto", replies)
    assert result.structured_content is not None
    assert result.structured_content["answer"] == "60"


async def test_without_sampling_the_sentence_says_what_to_set(place: Place, era: str) -> None:
    async with place.open() as workspace:
        result = await solve(workspace, era, None)
        assert "no model is configured: set RLM_MCP_MODEL" in text_of(result)
        named = await solve(workspace, era, None, model="client")
    assert result.is_error
    assert named.is_error
    assert "does not offer sampling" in text_of(named)
    assert "be_the_root" in text_of(named)


async def test_a_client_without_sampling_is_not_given_a_run_that_asks_another_clients_model(
    place: Place, era: str
) -> None:
    async def never(context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
        await anyio.sleep_forever()
        raise AssertionError

    async with place.open() as workspace:
        waiting = await solve(workspace, era, never, wait_seconds=0)
        assert waiting.structured_content is not None
        run_id = waiting.structured_content["run_id"]
        with anyio.fail_after(60):  # the run may not have come to its request yet
            while not ((queue := workspace.runs.sampling_queue(run_id)) and queue.unanswered()):  # noqa: ASYNC110 - it does not tell
                await anyio.sleep(0.01)
        refused = await solve(workspace, era, None)
        assert refused.is_error
        assert "no model is configured" in text_of(refused)
        async with Client(build_server(workspace), mode=era) as client:
            read = await client.call_tool("rlm_result", {"run_id": run_id, "wait_seconds": 0})
    assert isinstance(read, CallToolResult)
    assert "It waits for the model of a client that offers sampling" in text_of(read)

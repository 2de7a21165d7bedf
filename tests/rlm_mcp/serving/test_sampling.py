"""Runs that the client's own model answers, because nobody has configured another."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CreateMessageRequestParams, CreateMessageResult, ErrorData, TextContent

from rlm_mcp.cells import CellResult, Final, GuestCalls
from rlm_mcp.errors import NoModelConfigured
from rlm_mcp.launch import RunModels
from rlm_mcp.scripted_repl import ScriptedOpener
from rlm_mcp.server import build_server
from rlm_mcp.settings import Settings
from rlm_mcp.workspace import open_workspace

pytestmark = pytest.mark.anyio


async def nobody(_root: str | None, _sub: str | None) -> RunModels:
    raise NoModelConfigured("no model is configured: set RLM_MCP_MODEL")


async def run_cell(code: str, calls: GuestCalls) -> CellResult:
    return CellResult(code=code, stdout="60\n", final=Final(value="60") if "FINAL" in code else None)


async def solve(tmp_path: Path, mode: Any, sampling: Any) -> Any:
    """The result of rlm_solve."""
    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    async with open_workspace(settings, choose=nobody, open_repl=ScriptedOpener(run_cell)) as workspace:
        context = await workspace.register(text="a line\n" * 5_000, name="text")
        arguments = {"query": "How many lines?", "contexts": [context.name], "mode": "rlm"}
        async with Client(build_server(workspace), mode=mode, sampling_callback=sampling) as client:
            with anyio.fail_after(20):
                return await client.call_tool("rlm_solve", arguments)


async def replies(_context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
    code = "FINAL(60)" if len(params.messages) > 1 else "print(len(context))"
    content = TextContent(type="text", text=f"```repl\n{code}\n```")
    return CreateMessageResult(role="assistant", content=content, model="theirs", stop_reason="endTurn")


async def declines(_context: Any, _params: CreateMessageRequestParams) -> ErrorData:
    return ErrorData(code=-1, message="User rejected sampling request")


async def test_the_clients_model_answers_where_none_is_configured(tmp_path: Path) -> None:
    result = await solve(tmp_path, "legacy", replies)
    assert not result.is_error
    assert (result.structured_content["status"], result.structured_content["answer"]) == ("completed", "60")
    assert result.structured_content["usage"]["cost_usd"] is None


async def test_a_user_who_declines_is_told_what_else_there_is(tmp_path: Path) -> None:
    result = await solve(tmp_path, "legacy", declines)
    message = result.structured_content["message"]
    assert result.structured_content["status"] == "failed"
    assert message.startswith("the client did not answer a sampling request (User rejected sampling request): allow it")


@pytest.mark.parametrize(("mode", "sampling"), [("legacy", None), ("auto", replies)])
async def test_without_sampling_the_sentence_says_what_to_set(tmp_path: Path, mode: str, sampling: Any) -> None:
    result = await solve(tmp_path, mode, sampling)
    assert result.is_error
    assert "no model is configured: set RLM_MCP_MODEL" in result.content[0].text

import base64
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult

from rlm_mcp.server.server import build_server
from rlm_mcp.server.tool_hints import ICON, hints_of
from rlm_mcp.workspace.workspace import Workspace

pytestmark = pytest.mark.anyio


async def test_tools_carry_the_hints_that_hosts_search_and_cut_by(client: Client) -> None:
    told: dict[str, Any] = {tool.name: tool.meta or {} for tool in (await client.list_tools()).tools}
    assert {name: hints_of(name).items() <= meta.items() for name, meta in told.items()} == dict.fromkeys(told, True)
    assert [name for name, meta in told.items() if "anthropic/searchHint" in meta] == [
        "register_context", "inspect_context", "rlm_solve"
    ]  # fmt: skip
    assert told["rlm_result"]["anthropic/maxResultSizeChars"] == 32_000


async def test_the_icon_is_told_when_a_connection_opens_and_in_no_result(workspace: Workspace, era: str) -> None:
    async with Client(build_server(workspace), mode=era) as client:
        assert client.server_info is not None
        assert client.server_info.icons is not None
        (icon,) = client.server_info.icons
        result = await client.call_tool("list_contexts", {})
    assert isinstance(result, CallToolResult)
    assert icon.src == ICON["src"]
    assert base64.b64decode(icon.src.partition(",")[2]).startswith(b"<svg xmlns=")
    assert "svg" not in result.model_dump_json()

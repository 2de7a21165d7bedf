"""Lists that are built once."""

from dataclasses import dataclass
from typing import Any

import pytest
from mcp import Client
from mcp_types import Tool

from rlm_mcp.server.list_cache import ListCache
from rlm_mcp.server.notifications import Notifications
from rlm_mcp.server.server import RlmServer
from rlm_mcp.workspace.workspace import Workspace

pytestmark = pytest.mark.anyio


class Counting(RlmServer):
    """Counts how often its tools are listed."""

    listed = 0

    async def list_tools(self) -> list[Tool]:
        self.listed += 1
        return await super().list_tools()


async def test_tools_are_listed_once_for_all_clients_of_a_protocol_version(workspace: Workspace) -> None:
    server = Counting(lambda: workspace, Notifications())
    answers = []
    for era in ("auto", "legacy", "auto", "legacy"):
        async with Client(server, mode=era) as client:
            answers += [await client.list_tools(cache_mode="bypass") for _ in range(2)]
    assert server.listed == 2
    assert [len(answer.tools) for answer in answers] == [7] * 8
    modern, legacy = answers[0], answers[2]
    assert answers == [modern, modern, legacy, legacy] * 2
    assert modern.ttl_ms == 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    client_params: object = "somebody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, as far as the middleware looks at it."""

    method: str = "tools/list"
    params: dict[str, Any] | None = None
    protocol_version: str | None = "2026-07-28"
    session: Session = Session()


@pytest.mark.parametrize(
    ("asked", "times"),
    [
        (Asked(), 1),
        (Asked(params={"_meta": {}}), 1),
        (Asked(params={"cursor": "2"}), 3),
        (Asked(session=Session(client_params=None)), 3),
        (Asked(method="resources/list"), 3),
    ],
)
async def test_only_plain_requests_of_clients_that_are_known_are_answered_so(asked: Any, times: int) -> None:
    unchanging, made = ListCache(), 0

    async def make(_: object) -> dict[str, Any]:
        nonlocal made
        made += 1
        return {"tools": []}

    for _ in range(3):
        result = await unchanging.middleware(asked, make)
        assert result == {"tools": []}
        assert isinstance(result, dict)
        result["tools"] = "changed by somebody outside"
    assert made == times

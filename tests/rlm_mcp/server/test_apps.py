"""The MCP Apps extension as a host sees it: which tools have a page, the pages, and what a page is told of a run."""

import json
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.extension import advertise
from mcp_types import CallToolRequestParams, CallToolResult, Implementation, TextResourceContents

from rlm_mcp.records.events import RunStarted, event_from_json
from rlm_mcp.server.apps import PAGES, RunApps
from rlm_mcp.server.server import build_server
from rlm_mcp.viewer.following import PIECE_CHARS
from rlm_mcp.workspace.workspace import Workspace
from tests.rlm_mcp.viewer import records

from .conftest import HeldModel

pytestmark = pytest.mark.anyio

ASKED = "How many errors are there?"
QUESTION = {"query": ASKED, "contexts": ["t"], "mode": "rlm"}


async def ask_for_page(client: Client, page: dict[str, Any], **which: Any) -> dict[str, Any]:
    result = await client.call_tool("rlm_result", {"run_id": "", **which, "page": page})
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    fields: dict[str, Any] = result.structured_content
    return fields


async def read_whole(client: Client, run_id: str) -> tuple[list[dict[str, Any]], int]:
    """Everything that a page is told of a run until it has ended, and the number of pieces."""
    told, text, pieces = [], "", 0
    page: dict[str, Any] = {}
    while True:
        piece = (await ask_for_page(client, page, run_id=run_id))["page"]
        pieces += 1
        assert len(piece["text"]) <= PIECE_CHARS
        text = (text if piece["offset"] else "") + piece["text"]
        if piece["is_last"]:
            told.append(json.loads(text))
            text = ""
        if "next" not in piece:
            return told, pieces
        page = piece["next"]


async def test_tools_name_their_pages_and_hosts_without_apps_see_the_same_results(client: Client) -> None:
    tools = (await client.list_tools()).tools
    named = {tool.name: tool.meta["ui"]["resourceUri"] for tool in tools if tool.meta}
    assert named == PAGES
    assert all("page" not in tool.input_schema["properties"] for tool in tools)


async def test_the_extension_is_declared_where_the_protocol_has_extensions(client: Client, era: str) -> None:
    extensions = client.server_capabilities.extensions or {}
    assert ("io.modelcontextprotocol/ui" in extensions) == (era == "auto")


@pytest.mark.parametrize("uri", sorted(set(PAGES.values())))
async def test_a_page_is_html_that_loads_nothing_and_is_not_in_the_list(client: Client, uri: str) -> None:
    [content] = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "text/html;profile=mcp-app"
    assert content.meta == {"ui": {"prefersBorder": True, "csp": {}}}
    assert "default-src 'none'" in content.text
    assert "connect-src 'none'" in content.text
    assert not [
        word for word in ("eval(", "innerHTML", "http://", "unsafe-inline") if word in _without_namespaces(content.text)
    ]
    assert str(uri) not in [str(resource.uri) for resource in (await client.list_resources()).resources]


def _without_namespaces(text: str) -> str:
    return text.replace("http://www.w3.org/2000/svg", "")


async def test_a_page_follows_a_run_that_it_knows_only_by_its_question(
    client: Client, workspace: Workspace, model: HeldModel
) -> None:
    await workspace.contexts.register(text="some text\nERROR here\n", name="t")
    nothing = await ask_for_page(client, {}, asked=QUESTION)
    assert nothing == {"run_id": "", "status": "unknown", "page": None}
    with anyio.fail_after(60):
        run_id = await start(client)
        await model.waiting.wait()
        page: dict[str, Any] = {}
        kinds: list[str] = []
        while len(kinds) < 4:  # events are written soon, not at once
            found = await ask_for_page(client, page, asked=QUESTION)
            assert (found["run_id"], found["status"]) == (run_id, "running")
            told = json.loads(found["page"]["text"])
            kinds += [row["kind"] for row in told["rows"]]
            page = found["page"]["next"]
        assert kinds == ["routed", "reply", "cell", "decided"]
        assert page == {"rows": 4, "offset": 0}
        assert told["head"]["is_live"]
        assert found["page"]["live"]["doing"] == "asking the root model"
        model.go.set()
        await client.call_tool("rlm_result", {"run_id": run_id})
        told_in_all, _ = await read_whole(client, run_id)
    assert told_in_all[-1]["head"]["answer"]["text"] == "42"


async def test_a_page_finds_no_run_over_other_contexts_and_none_where_several_are_alike(
    client: Client, workspace: Workspace
) -> None:
    for name in ("t", "u"):
        await workspace.contexts.register(text=f"some text of {name}\n", name=name)
    over_u = {"question": ASKED, "context_id": "u", "max_usd": 1}  # under other names, as models write them
    first, second = await start(client), await start(client, contexts=["u"])
    asked: list[Any] = [QUESTION, over_u, {**QUESTION, "contexts": ["t", "u"]}, {"query": ASKED}, None]
    found = [(await ask_for_page(client, {}, asked=one))["run_id"] for one in asked]
    assert found == [first, second, "", "", ""]
    await start(client, max_seconds=77)
    assert (await ask_for_page(client, {}, asked=QUESTION))["run_id"] == ""


async def start(client: Client, **other: Any) -> str:
    result = await client.call_tool("rlm_solve", {**QUESTION, **other, "wait_seconds": 0})
    assert isinstance(result, CallToolResult)
    assert result.structured_content is not None
    return str(result.structured_content["run_id"])


async def test_a_large_run_comes_in_pieces_that_fit_into_results(workspace: Workspace) -> None:
    run_id = record(workspace, records.big(1_500))
    async with Client(build_server(workspace)) as client:
        told, pieces = await read_whole(client, run_id)
    assert len(told) == 1
    assert pieces > 3
    assert len([row for row in told[0]["rows"] if row["kind"] == "call"]) > 1_400


async def test_a_run_that_its_page_has_read_to_the_end_is_not_kept(workspace: Workspace) -> None:
    run_id = record(workspace, records.big(1_500))
    apps = RunApps(lambda: workspace)
    kept = []
    page: dict[str, Any] | None = {}
    while page is not None:
        asked = CallToolRequestParams(name="rlm_result", arguments={"run_id": run_id, "page": page})
        result: Any = await apps.intercept_tool_call(asked, None, None)  # type: ignore[arg-type] # pages use neither
        page = result.structured_content["page"].get("next")
        kept.append(repr(apps))
    assert len(kept) > 1
    assert set(kept[:-1]) == {"<RunApps, 1 runs followed>"}
    assert kept[-1] == "<RunApps, 0 runs followed>"


def record(workspace: Workspace, events: list[Any]) -> str:
    """Puts events on record as a run."""
    [started, *rest] = events
    assert isinstance(started, RunStarted)
    run = workspace.runs.records.create(
        RunStarted(query=started.query, contexts=started.contexts, limits=started.limits)
    )
    for event in rest:
        run.append(event)
    run.close()
    return run.run_id


async def test_undecodable_bytes_in_a_record_can_be_sent(workspace: Workspace, era: str) -> None:
    run_id = record(workspace, [RunStarted(query="?"), event_from_json(records.reply("", 1, "bad \udc80 byte", 1.0))])
    async with Client(build_server(workspace), mode=era) as client:
        [told], _ = await read_whole(client, run_id)
    assert told["rows"][0]["text"] == "bad ? byte"


@pytest.mark.parametrize("page", ["x", [], {"rows": -1, "offset": 0}, {"rows": "1"}, 7])
async def test_a_page_that_no_page_asks_for_is_refused(client: Client, page: Any) -> None:
    result = await client.call_tool("rlm_result", {"run_id": "run-000000000000", "page": page})
    assert isinstance(result, CallToolResult)
    assert result.is_error


async def test_a_page_of_an_unknown_run_is_refused_in_words(client: Client) -> None:
    result = await client.call_tool("rlm_result", {"run_id": "run-000000000000", "page": {}})
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert "run-000000000000" in result.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind


@pytest.mark.parametrize("has_apps", [True, False])
async def test_a_client_whose_model_would_read_both_forms_gets_the_fields_of_its_page_as_metadata(
    workspace: Workspace, era: str, *, has_apps: bool
) -> None:
    info = Implementation(name="qwen-cli-mcp-client-rlm-mcp", version="1")
    apps = advertise("io.modelcontextprotocol/ui", {"mimeTypes": ["text/html;profile=mcp-app"]})
    declared = [apps] if has_apps else []
    async with Client(build_server(workspace), mode=era, client_info=info, extensions=declared) as client:
        result = await client.call_tool("register_context", {"text": "one\ntwo\n", "name": "t"})
    assert isinstance(result, CallToolResult)
    assert result.structured_content is not None
    assert "lines" not in result.structured_content
    fields = (result.meta or {}).get("rlm-mcp/fields", {})
    assert fields.get("lines") == (2 if has_apps else None)

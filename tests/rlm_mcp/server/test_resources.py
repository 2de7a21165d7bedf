import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.session import IncomingMessage
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import PromptReference, ResourceListChangedNotification, ResourceTemplateReference, TextResourceContents

from rlm_mcp.contexts.types import Context
from rlm_mcp.server.server import build_server
from rlm_mcp.workspace.workspace import Workspace

from .conftest import LOG, HeldModel

pytestmark = pytest.mark.anyio


@pytest.fixture
async def context(workspace: Workspace, log_file: Path) -> Context:
    return await workspace.contexts.register(source=str(log_file), name="worker.log")


async def read(client: Client, uri: str) -> str:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return content.text


async def finished_run(client: Client, model: HeldModel) -> str:
    model.go.set()
    arguments: dict[str, Any] = {"query": "How many?", "contexts": ["worker.log"], "mode": "rlm"}
    with anyio.fail_after(60):
        result = await client.call_tool("rlm_solve", arguments)
    return str(result.structured_content["run_id"])


async def test_the_server_announces_changes_of_what_changes_and_of_nothing_else(client: Client) -> None:
    can = client.server_capabilities
    assert can.resources is not None
    assert can.tools is not None
    assert can.prompts is not None
    assert (can.resources.list_changed, can.resources.subscribe) == (True, True)
    assert (can.tools.list_changed, can.prompts.list_changed) == (False, False)


async def test_contexts_and_runs_are_listed_with_sizes(client: Client, context: Context, model: HeldModel) -> None:
    run_id = await finished_run(client, model)
    listed = {str(resource.uri): resource for resource in (await client.list_resources()).resources}
    assert set(listed) == {context.uri, f"rlm://runs/{run_id}"}
    entry = listed[context.uri]
    assert (entry.name, entry.size, entry.mime_type) == ("worker.log", context.bytes, "application/json")
    assert entry.annotations is not None
    assert entry.annotations.last_modified == context.created_at


async def test_a_context_reads_as_its_description_and_how_to_read_on(client: Client, context: Context) -> None:
    described = json.loads(await read(client, context.uri))
    assert described["chars"] == len(LOG)
    assert described["how_to_read_on"][0].startswith(f"{context.uri}/lines/1-200")


async def test_lines_and_files_are_read_piece_by_piece(client: Client, context: Context) -> None:
    lines = LOG.splitlines()
    assert (await read(client, f"{context.uri}/lines/2-3")).splitlines() == lines[1:3]
    path = json.loads(await read(client, context.uri))["largest_files"][0]["path"]
    assert (await read(client, f"{context.uri}/lines/60-60?path={path}")).splitlines() == lines[59:]
    assert (await read(client, f"{context.uri}/files/{path}")).splitlines() == lines


async def test_a_run_reads_as_state_answer_and_trace(client: Client, context: Context, model: HeldModel) -> None:
    run_id = await finished_run(client, model)
    state = json.loads(await read(client, f"rlm://runs/{run_id}"))
    assert (state["status"], state["answer"]) == ("completed", "42")
    assert await read(client, f"rlm://runs/{run_id}/answer") == "42"
    events = [json.loads(line) for line in (await read(client, f"rlm://runs/{run_id}/trace")).splitlines()]
    assert events[0]["event"] == "run_started"
    assert events[-1]["event"] == "run_ended"


@pytest.mark.parametrize(
    "uri", ["rlm://contexts/nothing", "rlm://runs/run-0", "rlm://runs/run-0/trace", "rlm://nowhere/1"]
)
async def test_what_does_not_exist_is_not_found(client: Client, uri: str) -> None:
    with pytest.raises(MCPError) as failure:
        await client.read_resource(uri)
    assert failure.value.error.code == -32602


async def test_paths_cannot_leave_their_context(client: Client, context: Context) -> None:
    with pytest.raises(MCPError):
        await client.read_resource(f"{context.uri}/files/../../../etc/passwd")


async def test_names_ids_and_paths_are_completed(client: Client, context: Context, model: HeldModel) -> None:
    run_id = await finished_run(client, model)
    prompt = PromptReference(name="be_the_root")
    named = await client.complete(prompt, {"name": "context", "value": "work"})
    assert named.completion.values == ["worker.log"]
    template = ResourceTemplateReference(uri="rlm://contexts/{context_id}")
    by_id = await client.complete(template, {"name": "context_id", "value": ""})
    assert by_id.completion.values == [context.context_id]
    runs = await client.complete(
        ResourceTemplateReference(uri="rlm://runs/{run_id}"), {"name": "run_id", "value": "run"}
    )
    assert runs.completion.values == [run_id]
    files = ResourceTemplateReference(uri="rlm://contexts/{context_id}/files/{+path}")
    chosen = {"context_id": context.context_id}
    paths = await client.complete(files, {"name": "path", "value": ""}, context_arguments=chosen)
    assert len(paths.completion.values) == 1


async def test_listening_clients_are_told_of_a_new_context(workspace: Workspace) -> None:
    async with Client(build_server(workspace)) as client:
        with anyio.fail_after(60):
            async with client.listen(resources_list_changed=True) as events:
                await workspace.contexts.register(text="more", name="more")
                async for event in events:
                    assert type(event).__name__ == "ResourcesListChanged"
                    break


async def test_handshake_clients_are_told_of_a_new_context(workspace: Workspace) -> None:
    told = anyio.Event()

    async def on_message(message: IncomingMessage) -> None:
        if isinstance(message, ResourceListChangedNotification):
            told.set()

    async with Client(build_server(workspace), mode="legacy", message_handler=on_message) as client:
        assert client.server_capabilities.resources is not None
        assert client.server_capabilities.resources.list_changed
        with anyio.fail_after(60):
            await workspace.contexts.register(text="more", name="more")
            await told.wait()


async def test_handshake_clients_hear_of_the_run_they_subscribed_to(
    workspace: Workspace, model: HeldModel, context: Context
) -> None:
    updated: list[str] = []
    told = anyio.Event()

    async def on_message(message: IncomingMessage) -> None:
        if type(message).__name__ == "ResourceUpdatedNotification":
            updated.append(message.params.uri)  # type: ignore[union-attr] # the test fails where it is another kind
            told.set()

    async with Client(build_server(workspace), mode="legacy", message_handler=on_message) as client:
        arguments: dict[str, Any] = {"query": "How many?", "contexts": ["worker.log"], "wait_seconds": 0, "mode": "rlm"}
        run = (await client.call_tool("rlm_solve", arguments)).structured_content
        with pytest.warns(MCPDeprecationWarning):
            await client.subscribe_resource(f"rlm://runs/{run['run_id']}")
        model.go.set()
        with anyio.fail_after(60):
            await told.wait()
    assert updated == [f"rlm://runs/{run['run_id']}"]


async def test_many_resources_come_in_pages(workspace: Workspace, era: str) -> None:
    for number in range(205):
        await workspace.contexts.register(text=f"text {number}", name=f"t{number}")
    async with Client(build_server(workspace), mode=era) as client:
        first = await client.list_resources()
        second = await client.list_resources(cursor=first.next_cursor)
        assert (len(first.resources), len(second.resources), second.next_cursor) == (200, 5, None)
        with pytest.raises(MCPError):
            await client.list_resources(cursor="nonsense")

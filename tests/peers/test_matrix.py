"""All features of the server, in both protocol eras: in memory, as a process on stdio and as a process over HTTP."""

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcp_types import (
    CallToolResult,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitResult,
    PromptReference,
    ResourceTemplateReference,
    TextContent,
    TextResourceContents,
)

from tests.peers.openai_server import OpenAIServer, Request
from tests.peers.places import TRANSPORTS, environment, opened

pytestmark = [
    pytest.mark.anyio,
    # Subscribing in the handshake era is deprecated with that era.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

TEXT = "".join(f"10:00:{i:02d} {'ERROR' if i % 4 == 0 else 'INFO'} step {i}\n" for i in range(40))
QUESTION: dict[str, Any] = {"query": "How many errors?", "contexts": ["log"], "mode": "rlm"}
ENDLESS = QUESTION | {"query": "Loop for ever?", "wait_seconds": 0}


def reply(request: Request) -> str:
    if "Loop for ever?" in request.text:
        return "```repl\nwhile True: pass\n```"
    if all(message["role"] != "assistant" for message in request.messages):
        return "```repl\nn = context.count('ERROR')\nprint(n)\n```"
    return "```repl\nFINAL(n)\n```"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[OpenAIServer]:
    with OpenAIServer(reply).run_in_thread() as server:
        yield server


@dataclass(slots=True)
class Visit:
    """A client at a place, and the notifications that it received."""

    client: Client
    era: str
    directory: Path
    told: list[str] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """The structured result of a call that succeeds; its text has the same facts."""
        result = await self.client.call_tool(tool, arguments)
        assert isinstance(result, CallToolResult)
        (content,) = result.content
        assert isinstance(content, TextContent)
        assert not result.is_error, content.text
        facts: dict[str, Any] = result.structured_content or {}
        assert all(name in content.text for name in facts)
        return facts

    async def refused(self, tool: str, /, **arguments: Any) -> str:
        """The text of a call that fails."""
        result = await self.client.call_tool(tool, arguments)
        assert isinstance(result, CallToolResult)
        assert result.is_error
        (content,) = result.content
        assert isinstance(content, TextContent)
        return content.text

    async def read(self, uri: str) -> str:
        """The text of a resource."""
        (content,) = (await self.client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        return content.text

    async def finished(self) -> str:
        """The id of a run that has its answer."""
        run = await self.call("rlm_solve", **QUESTION)
        assert (run["status"], run["answer"]) == ("completed", "10"), run
        return str(run["run_id"])


Row = Callable[[Visit], Awaitable[None]]


async def register_context_takes_a_path_and_a_text(visit: Visit) -> None:
    source = visit.directory / "app.log"
    source.write_text(TEXT)
    assert (await visit.call("register_context", source=str(source)))["lines"] == 40
    assert (await visit.call("register_context", text=TEXT, name="log"))["name"] == "log"
    assert "no/such" in await visit.refused("register_context", source="no/such")


async def list_contexts_lists_them(visit: Visit) -> None:
    assert {context["name"] for context in (await visit.call("list_contexts"))["contexts"]} == {"log", "app.log"}


async def inspect_context_has_four_views(visit: Visit) -> None:
    assert (await visit.call("inspect_context", context="log"))["head"].startswith("10:00:00 ERROR")
    assert (await visit.call("inspect_context", context="log", start_line=2, end_line=2))["text"].endswith("step 1\n")
    assert (await visit.call("inspect_context", context="log", search="ERROR"))["total"] == 10
    assert (await visit.call("inspect_context", context="log", code="len(context)"))["value"] == str(len(TEXT))


async def a_long_read_is_paged_to_what_an_unknown_client_passes_on(visit: Visit) -> None:
    text = "".join(f'line {number} of "many"\n' for number in range(500))
    await visit.call("register_context", text=text, name="long")
    read, start = "", 1
    while start:
        page = await visit.call("inspect_context", context="long", start_line=start)
        assert len(json.dumps(page)) <= 8_000
        read, start = read + page["text"], page["next_start_line"]
    assert read == text
    await visit.call("remove_context", context="long")


async def inspect_context_keeps_variables(visit: Visit) -> None:
    await visit.call("inspect_context", context="log", code="kept = 41")
    assert (await visit.call("inspect_context", context="log", code="kept + 1"))["value"] == "42"


async def rlm_solve_answers(visit: Visit) -> None:
    await visit.finished()


async def rlm_solve_estimates(visit: Visit) -> None:
    guess = await visit.call("rlm_solve", **QUESTION, estimate_only=True)
    assert (guess["status"], guess["run_id"]) == ("estimated", "")
    assert guess["estimate"]["cost_usd"][1] > 0


async def rlm_solve_tells_what_it_is_doing(visit: Visit) -> None:
    told: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    await visit.client.call_tool("rlm_solve", QUESTION, progress_callback=on_progress)
    assert told
    assert all("sub-calls" in (message or "") for _, message in told)
    assert [progress for progress, _ in told] == sorted({progress for progress, _ in told})


async def rlm_result_waits_and_cancel_run_stops(visit: Visit) -> None:
    run = await visit.call("rlm_solve", **ENDLESS)
    assert run["status"] == "running"
    assert "do not start it again" in run["message"]
    again = await visit.call("rlm_result", run_id=run["run_id"], wait_seconds=0.1)
    assert again["status"] == "running"
    assert (await visit.call("cancel_run", run_id=run["run_id"]))["status"] == "cancelled"
    assert (await visit.call("rlm_result", run_id=run["run_id"]))["stopped_by"] == "cancelled"


async def a_cancelled_request_stops_its_run(visit: Visit) -> None:
    before = await _runs(visit)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(visit.client.call_tool, "rlm_solve", ENDLESS | {"wait_seconds": 45})
        while not (begun := await _runs(visit) - before):  # noqa: ASYNC110 - nothing here tells when
            await anyio.sleep(0.05)  # an owner has so many requests a second
        tasks.cancel_scope.cancel()
    (run_id,) = begun
    # Looked at without waiting for it: a call that waits for a run keeps it going when the one that began it is gone.
    uri = f"rlm://runs/{run_id}"
    while '"running"' in str(await visit.client.read_resource(uri, cache_mode="bypass")):  # noqa: ASYNC110 - as above
        await anyio.sleep(0.05)
    assert (await visit.call("rlm_result", run_id=run_id))["status"] == "cancelled"


async def _runs(visit: Visit) -> set[str]:
    listed = (await visit.client.list_resources(cache_mode="bypass")).resources
    return {resource.name for resource in listed if resource.name.startswith("run-")}


async def contexts_and_runs_are_listed_as_resources(visit: Visit) -> None:
    run_id = await visit.finished()
    names = {resource.name for resource in (await visit.client.list_resources(cache_mode="bypass")).resources}
    assert {"log", "app.log", run_id} <= names


async def all_templates_read(visit: Visit) -> None:
    templates = {
        template.uri_template for template in (await visit.client.list_resource_templates()).resource_templates
    }
    assert len(templates) == 6
    context = (await visit.call("inspect_context", context="log"))["uri"]
    run = f"rlm://runs/{await visit.finished()}"
    assert json.loads(await visit.read(context))["lines"] == 40
    assert (await visit.read(f"{context}/lines/3-4")).splitlines() == TEXT.splitlines()[2:4]
    assert await visit.read(f"{context}/files/text.txt") == TEXT
    assert json.loads(await visit.read(run))["answer"] == "10"
    assert await visit.read(f"{run}/answer") == "10"
    assert '"run_ended"' in (await visit.read(f"{run}/trace")).splitlines()[-1]


async def what_is_not_there_is_not_found(visit: Visit) -> None:
    for uri in ("rlm://contexts/nothing", "rlm://runs/run-zz", "rlm://runs/run-zz/trace"):
        with pytest.raises(MCPError):
            await visit.client.read_resource(uri)


async def prompts_are_rendered(visit: Visit) -> None:
    assert {prompt.name for prompt in (await visit.client.list_prompts()).prompts} == {"analyze_context", "be_the_root"}
    for name in ("analyze_context", "be_the_root"):
        rendered = await visit.client.get_prompt(name, {"context": "log", "question": "Why?"})
        content = rendered.messages[0].content
        assert isinstance(content, TextContent)
        assert "inspect_context(context='log'" in content.text


async def names_ids_and_paths_are_completed(visit: Visit) -> None:
    named = await visit.client.complete(PromptReference(name="be_the_root"), {"name": "context", "value": "lo"})
    assert named.completion.values == ["log", "app.log"]
    template = ResourceTemplateReference(uri="rlm://contexts/{context_id}/files/{+path}")
    (identity, *_) = (await visit.client.complete(template, {"name": "context_id", "value": ""})).completion.values
    paths = await visit.client.complete(
        template, {"name": "path", "value": ""}, context_arguments={"context_id": identity}
    )
    assert paths.completion.values
    runs = ResourceTemplateReference(uri="rlm://runs/{run_id}")
    assert (await visit.client.complete(runs, {"name": "run_id", "value": "run-"})).completion.values


async def changes_are_announced(visit: Visit) -> None:
    with anyio.fail_after(60):
        if visit.era == "legacy":
            visit.told.clear()
            await visit.call("register_context", text="one more", name="more")
            await _hears(visit, "ResourceListChangedNotification")
        else:
            async with visit.client.listen(resources_list_changed=True) as events:
                await visit.call("register_context", text="one more", name="more")
                async for event in events:
                    assert type(event).__name__ == "ResourcesListChanged"
                    break
    await visit.call("remove_context", context="more")


async def the_end_of_a_run_is_announced(visit: Visit) -> None:
    run = await visit.call("rlm_solve", **ENDLESS)
    uri = f"rlm://runs/{run['run_id']}"
    with anyio.fail_after(60):
        if visit.era == "legacy":
            await visit.client.subscribe_resource(uri)
            await visit.call("cancel_run", run_id=run["run_id"])
            await _hears(visit, f"ResourceUpdatedNotification {uri}")
            await visit.client.unsubscribe_resource(uri)
        else:
            async with visit.client.listen(resource_subscriptions=[uri]) as events:
                await visit.call("cancel_run", run_id=run["run_id"])
                async for event in events:
                    assert getattr(event, "uri", None) == uri
                    break


async def _hears(visit: Visit, what: str) -> None:
    while what not in visit.told:
        await visit.news.wait()


async def the_clients_own_model_answers(visit: Visit) -> None:
    run = await visit.call("rlm_solve", **QUESTION, model="client")
    assert (run["status"], run["answer"]) == ("completed", "10"), run["message"]


async def costly_runs_are_confirmed(visit: Visit) -> None:
    assert "nothing was started" in await visit.refused("rlm_solve", **QUESTION | {"query": "Costly: how many?"})


async def remove_context_forgets(visit: Visit) -> None:
    for name in ("log", "app.log"):
        assert (await visit.call("remove_context", context=name))["name"] == name
    assert (await visit.call("list_contexts"))["total"] == 0


ROWS: list[Row] = [
    register_context_takes_a_path_and_a_text,
    list_contexts_lists_them,
    inspect_context_has_four_views,
    a_long_read_is_paged_to_what_an_unknown_client_passes_on,
    inspect_context_keeps_variables,
    rlm_solve_answers,
    rlm_solve_estimates,
    rlm_solve_tells_what_it_is_doing,
    rlm_result_waits_and_cancel_run_stops,
    a_cancelled_request_stops_its_run,
    contexts_and_runs_are_listed_as_resources,
    all_templates_read,
    what_is_not_there_is_not_found,
    prompts_are_rendered,
    names_ids_and_paths_are_completed,
    changes_are_announced,
    the_end_of_a_run_is_announced,
    the_clients_own_model_answers,
    costly_runs_are_confirmed,
    remove_context_forgets,
]


async def own_model(context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
    """The client's model, which replies like the endpoint."""
    code = "FINAL(n)" if len(params.messages) > 1 else "n = context.count('ERROR')\nprint(n)"
    content = TextContent(type="text", text=f"```repl\n{code}\n```")
    return CreateMessageResult(role="assistant", content=content, model="theirs", stop_reason="endTurn")


async def user(context: Any, params: Any) -> ElicitResult:
    """A user who agrees to everything except what is called costly."""
    if "Costly" in params.message:
        return ElicitResult(action="decline")
    return ElicitResult(action="accept", content={"go_ahead": True})


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_everything_works(transport: str, tmp_path: Path, compiled_cache: Path, endpoint: OpenAIServer) -> None:
    confirmed = {"RLM_MCP_PRICES": '{"scripted": [1000, 2000]}', "RLM_MCP_CONFIRM_USD": "0.000001"}
    environ = environment(tmp_path, compiled_cache, endpoint.base_url, **confirmed)
    async with opened(transport, environ) as new_client:
        for era in ("auto", "legacy"):
            await _visit(new_client, era, tmp_path)


async def _visit(new_client: Any, era: str, directory: Path) -> None:
    async def on_message(message: IncomingMessage) -> None:
        kind = type(message).__name__
        visit.told.append(f"{kind} {message.params.uri}" if kind == "ResourceUpdatedNotification" else kind)  # type: ignore[union-attr] # of this kind
        visit.news.set()
        visit.news = anyio.Event()

    callbacks = {"sampling_callback": own_model, "elicitation_callback": user, "message_handler": on_message}
    async with new_client(era, **callbacks) as client:
        visit = Visit(client, era, directory)
        for row in ROWS:
            with anyio.fail_after(60):
                try:
                    await row(visit)
                except Exception as error:
                    error.add_note(f"in {row.__name__}, era {era}")
                    raise

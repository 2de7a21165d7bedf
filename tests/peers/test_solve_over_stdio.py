"""A question answered with real parts except the model: an MCP client, the server process, the sandbox, an endpoint."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult

from tests.peers.forking import forked_command
from tests.peers.openai_server import OpenAIServer, Request

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("era", ["auto", "legacy"])]

TOOL_SERVER = Path(__file__).parent.parent / "rlm_mcp" / "workspace" / "tool_server.py"
CODE = """```repl
from collections import Counter
errors = Counter(line.split("[")[1].split("]")[0] for line in context.splitlines() if " ERROR " in line)
replies = llm_query_batched([f"Sum up this component: {name}" for name in errors])
hit = search("ERROR", max_matches=1)[0]
cite(hit)
print(errors, replies)
```"""


class Root:
    """A root model that looks, then answers; sub-calls are echoed. While `slow`, the second turn never comes."""

    def __init__(self) -> None:
        self.slow = False
        self.turns = 0

    def __call__(self, request: Request) -> str:
        if "Sum up this component" in request.last:
            return "a component"
        if "Whose" in request.messages[1]["content"]:
            return "```repl\nFINAL(tools.crm.find_customer(context.strip(), limit=1)['given'])\n```"
        self.turns += 1
        if all(message["role"] != "assistant" for message in request.messages):
            return CODE
        if self.slow:
            return "```repl\nimport time\nwhile True: pass\n```"
        return "```repl\nFINAL(dict(errors.most_common(1)))\n```"


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


@pytest.fixture(scope="module")
def endpoint(root: Root) -> Iterator[OpenAIServer]:
    with OpenAIServer(root).run_in_thread() as server:
        yield server


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    for_line = [("ERROR" if i % 5 == 0 else "INFO", "payments" if i % 2 else "mailer", i) for i in range(3_001)]
    path.write_text("".join(f"10:00:00 {level} [{component}] step {i}\n" for level, component, i in for_line))
    return path


@pytest.fixture
def parameters(tmp_path: Path, compiled_cache: Path, endpoint: OpenAIServer) -> StdioServerParameters:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RLM_MCP_DATA_DIR": str(tmp_path / "data"),
        "RLM_MCP_CACHE_DIR": str(compiled_cache),
        "RLM_MCP_BASE_URL": endpoint.base_url,
        "RLM_MCP_MODEL": "scripted",
        "RLM_MCP_API_KEY": "sk-test",
        "RLM_MCP_TOOLS": json.dumps(
            {"crm": {"command": [sys.executable, str(TOOL_SERVER)], "allow": ["find-customer"]}}
        ),
    }
    command, *arguments = forked_command()
    return StdioServerParameters(command=command, args=arguments, env=environ)


async def called(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    fields: dict[str, Any] = result.structured_content
    return fields


async def test_a_question_is_answered_with_a_verified_citation(
    era: str, parameters: StdioServerParameters, log_file: Path, root: Root
) -> None:
    root.slow = False
    with anyio.fail_after(60):
        async with Client(parameters, mode=era) as client:
            context = await called(client, "register_context", source=str(log_file))
            run = await called(
                client, "rlm_solve", query="Which component logs the most errors?", contexts=["app.log"], mode="rlm"
            )
    assert (run["status"], run["stopped_by"]) == ("completed", "final")
    assert "mailer" in str(run["answer"])
    assert run["usage"]["sub_calls"] + run["usage"]["cached_calls"] == 2
    assert run["coverage"]["read_by_code"] == context["chars"]
    assert [(c["path"], c["start_line"], c["verified"]) for c in run["citations"]] == [("app.log", 1, True)]


async def test_code_of_a_run_calls_a_tool_of_another_server(era: str, parameters: StdioServerParameters) -> None:
    with anyio.fail_after(60):
        async with Client(parameters, mode=era) as client:
            await called(client, "register_context", text="Ada\n", name="order")
            run = await called(client, "rlm_solve", query="Whose order is it?", contexts=["order"])
    assert (run["status"], run["answer"]) == ("completed", '{"name": "Ada", "limit": 1}')
    assert run["usage"]["sub_calls"] == 1


async def test_cancelling_in_mid_run_stops_the_sandbox(
    era: str, parameters: StdioServerParameters, log_file: Path, root: Root
) -> None:
    root.slow, root.turns = True, 0
    with anyio.fail_after(60):
        async with Client(parameters, mode=era) as client:
            await called(client, "register_context", source=str(log_file))
            question = {"query": "Loop for ever?", "contexts": ["app.log"], "mode": "rlm"}
            run = await called(client, "rlm_solve", **question, wait_seconds=0)
            while run["iterations"] < 2:
                run = await called(client, "rlm_result", run_id=run["run_id"], wait_seconds=0.1)
            cancelled = await called(client, "cancel_run", run_id=run["run_id"])
            assert cancelled["status"] == "cancelled"
            assert root.turns == 2
            assert (await called(client, "remove_context", context="app.log"))["name"] == "app.log"

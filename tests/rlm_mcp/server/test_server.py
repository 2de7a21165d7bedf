import os
import re
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult

from rlm_mcp.server.prompts import INSTRUCTIONS

from .conftest import LOG

pytestmark = pytest.mark.anyio

TOOLS = [
    "register_context", "list_contexts", "inspect_context", "rlm_solve", "rlm_result", "cancel_run", "remove_context"
]  # fmt: skip


async def called(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The structured result of a call that succeeds; its text must hold the same facts."""
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    text = result.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind
    assert not result.is_error, text
    fields: dict[str, Any] = result.structured_content
    for field, value in fields.items():
        assert field in text
        if isinstance(value, str) and "\n" not in value:
            assert value in text
    return fields


async def refused(client: Client, tool: str, /, **arguments: Any) -> str:
    """The text of a call that fails."""
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert result.is_error
    text: str = result.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind
    assert "Traceback" not in text
    assert not text.startswith("Error executing tool")
    return text


async def test_the_encoding_of_a_file_can_be_named(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ąę źle\n".encode("iso8859-2"))
    context = await called(client, "register_context", source=str(tmp_path / "a.txt"), encoding="latin2")
    assert context["notes"] == ["a.txt was iso8859-2, stored as UTF-8"]
    read = await called(client, "inspect_context", context=context["context_id"], start_line=1)
    assert read["text"] == "ąę źle\n"


async def test_tools_list_is_complete_and_costs_under_two_thousand_tokens(client: Client) -> None:
    tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == TOOLS
    assert all(tool.title and tool.description and tool.annotations and tool.output_schema for tool in tools)
    assert all(len(tool.description or "") <= 2_048 for tool in tools)
    wire = "".join(tool.model_dump_json(by_alias=True, exclude_none=True) for tool in tools)
    assert len(wire) < 7_700  # Anthropic's published tokenizer takes 3.9 characters of it a token, o200k 4.0


async def test_names_descriptions_and_schemas_are_such_that_every_client_takes_them(client: Client) -> None:
    tools = (await client.list_tools()).tools
    prompts = (await client.list_prompts()).prompts
    templates = (await client.list_resource_templates()).resource_templates
    described = [tool.description for tool in tools] + [template.description for template in templates]
    for prompt in prompts:
        described += [prompt.description, *(argument.description for argument in prompt.arguments or ())]
    assert all(1 <= len(text or "") <= 2_048 for text in described)
    assert all(re.fullmatch(r"[a-z_]{1,63}", one.name) for one in (*tools, *prompts))
    for schema in [schema for tool in tools for schema in (tool.input_schema, tool.output_schema)]:
        assert schema is not None
        assert schema["type"] == "object"
        assert not schema.keys() & {"anyOf", "oneOf", "allOf"}
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) for name in schema["properties"])
    assert len(tools) <= 8


async def test_instructions_fit_what_clients_keep(client: Client) -> None:
    assert client.instructions == INSTRUCTIONS
    assert len(INSTRUCTIONS) <= 2_048


async def test_a_registered_text_is_read_back_by_lines(client: Client, log_file: Path) -> None:
    lines = LOG.splitlines()
    context = await called(client, "register_context", source=str(log_file))
    assert context["lines"] == 60
    assert context["uri"] == f"rlm://contexts/{context['context_id']}"
    read = await called(client, "inspect_context", context=context["name"], start_line=2, end_line=3)
    assert read["text"].splitlines() == lines[1:3]
    assert (read["start_line"], read["end_line"], read["truncated"]) == (2, 3, False)


async def test_registering_twice_is_the_same_context(client: Client) -> None:
    first = await called(client, "register_context", text='{"a": 1}', name="facts")
    assert await called(client, "register_context", text='{"a": 1}', name="facts") == first
    listed = await called(client, "list_contexts")
    assert listed["contexts"] == [first]


async def test_overview_tells_what_the_context_is_made_of(client: Client, log_file: Path) -> None:
    context = await called(client, "register_context", path=str(log_file))
    overview = await called(client, "inspect_context", context_id=context["context_id"])
    assert overview | context == overview
    assert overview["head"].startswith("2026-11-22 10:00:00 ERROR")
    assert overview["view"] == "overview"


async def test_search_finds_lines(client: Client, log_file: Path) -> None:
    await called(client, "register_context", source=str(log_file), name="w")
    found = await called(client, "inspect_context", context="w", pattern="ERROR worker-2", max_matches=2)
    assert [match["line"] for match in found["matches"]] == [7, 19]
    assert (found["total"], found["truncated"]) == (5, True)


async def test_code_runs_in_the_repl_of_the_context(client: Client) -> None:
    await called(client, "register_context", text="some text", name="t")
    cell = await called(client, "inspect_context", context="t", code="len(context)")
    assert (cell["stdout"], cell["value"], cell["error"]) == ("ran len(context)\n", "12", None)


async def test_removed_contexts_are_unknown(client: Client) -> None:
    await called(client, "register_context", text="some text", name="t")
    assert (await called(client, "remove_context", context="t"))["name"] == "t"
    assert "'t'" in await refused(client, "inspect_context", context="t")


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("register_context", {}, "either source"),
        ("register_context", {"source": "a", "text": "b"}, "either source"),
        ("register_context", {"source": "no/such/file.log"}, "no/such/file.log"),
        ("inspect_context", {"context": "nothing"}, "'nothing'"),
        ("inspect_context", {}, "context: Field required"),
        ("inspect_context", {"context": "t", "search": "a", "code": "b"}, "one thing a call"),
        ("inspect_context", {"context": "t", "start_line": "two"}, "start_line: "),
        ("rlm_solve", {"query": "q", "contexts": ["nothing"]}, "'nothing'"),
        ("rlm_solve", {"query": " ", "contexts": ["t"]}, "query is empty"),
        ("rlm_solve", {"query": "q", "contexts": []}, "contexts is empty"),
        ("rlm_solve", {"query": "q" * 100_001, "contexts": ["t"]}, "query has 100,001 characters, at most 100,000"),
        ("rlm_solve", {"query": "q", "contexts": ["t"] * 1_001}, "contexts names 1,001 contexts, at most 1,000"),
        (
            "rlm_solve",
            {"query": "q", "contexts": ["t"], "output_schema": {"enum": ["x" * 100_000]}},
            "output_schema: it has 100,014 characters as JSON: at most 100,000 are checked",
        ),
        ("rlm_solve", {"query": "q", "contexts": ["t"], "mode": "fast"}, "mode: "),
        ("rlm_result", {"run_id": "run-0"}, "run-0"),
        ("cancel_run", {"run_id": "run-0"}, "run-0"),
        ("cancel_run", {"run_id": "run-0", "colour": "red"}, "no argument 'colour'; it takes run_id"),
        ("rlm_solv", {}, "did you mean rlm_solve? The tools are register_context, list_contexts,"),
    ],
)
async def test_mistakes_are_told_in_a_sentence(client: Client, tool: str, arguments: dict[str, Any], says: str) -> None:
    await called(client, "register_context", text="some text", name="t")
    assert says in await refused(client, tool, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("be_a_root", {}, "there is no prompt 'be_a_root': did you mean be_the_root?"),
        ("be_the_root", {"context": "t"}, "be_the_root takes the arguments context, question; given: 'context'"),
        ("be_the_root", {"context": "t", "question": "q", "x": "1"}, "given: 'context', 'question', 'x'"),
    ],
)
async def test_mistakes_in_prompts_are_invalid_parameters(
    client: Client, name: str, arguments: dict[str, str], says: str
) -> None:
    with pytest.raises(MCPError) as refused:
        await client.get_prompt(name, arguments)
    assert refused.value.error.code == -32602
    assert says in refused.value.error.message


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("rlm://contexts/t/lines/1-end", "end: Input should be a valid integer"),
        ("rlm://nothing/t", "no resource is at rlm://nothing/t: resources/list"),
        ("file:///etc/passwd", "no resource is at file:///etc/passwd"),
    ],
)
async def test_mistakes_in_addresses_are_invalid_parameters(client: Client, uri: str, says: str) -> None:
    with pytest.raises(MCPError) as refused:
        await client.read_resource(uri)
    assert refused.value.error.code == -32602
    assert says in refused.value.error.message


async def test_every_list_and_prompt_answers(client: Client) -> None:
    prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
    assert set(prompts) == {"analyze_context", "be_the_root"}
    for name in prompts:
        rendered = await client.get_prompt(name, {"context": "app.log", "question": "How many?"})
        text = rendered.messages[0].content.text  # type: ignore[union-attr] # the test fails where it is another kind
        assert "app.log" in text
        assert "How many?" in text
    with anyio.fail_after(60):
        await client.list_resources()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names that are not UTF-8")
async def test_an_error_about_a_file_whose_name_is_not_utf8_can_be_sent(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "empty").touch()
    (tmp_path / "link").symlink_to(folder / "empty")
    result = await client.call_tool("register_context", {"source": str(tmp_path / "link")})
    assert "/?/empty is empty" in result.model_dump_json()

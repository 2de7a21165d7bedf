"""The schemas of the tools against what large providers take, whose clients pass them on as they are."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult

from rlm_mcp.workspace.workspace import Workspace

pytestmark = pytest.mark.anyio

Json = Mapping[str, Any]

# https://ai.google.dev/api/caching#Schema, without what older versions of it lack.
GEMINI = {"type", "description", "enum", "default", "properties", "required", "items", "minimum", "maximum", "format"}
# https://platform.openai.com/docs/guides/structured-outputs: what a strict schema may hold beside closed objects.
OPENAI_STRICT = GEMINI - {"default"} | {"anyOf", "$ref", "$defs", "pattern", "minItems", "maxItems", "const"}


def parts(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """A schema with all schemas in it, and where they are."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from parts(inner, f"{path}.{name}")
    if "items" in schema:
        yield from parts(schema["items"], f"{path}[]")


def gemini(schema: Json) -> Iterator[str]:
    """Complaints of Gemini's function declarations."""
    for path, part in parts(schema):
        yield from (f"{path} has {name}" for name in part.keys() - GEMINI)
        if part["type"] not in {"string", "number", "integer", "boolean", "array", "object"}:
            yield f"{path} has no single type"
        if part["type"] == "object" and not part.get("properties"):
            yield f"{path} is an object without properties"
        if part["type"] == "array" and "items" not in part:
            yield f"{path} is an array without items"
        if "enum" in part and not (part["type"] == "string" and all(part["enum"])):
            yield f"{path} has an enum that is no list of texts"
        yield from (
            f"{path}.{name} is no name" for name in part.get("properties", {}) if not re.match(r"[a-z_]\w*$", name)
        )


def openai(schema: Json) -> Iterator[str]:
    """Complaints of OpenAI's functions, once a client has closed the objects and left out defaults for strict mode."""
    for path, part in parts(schema):
        yield from (f"{path} has {name}" for name in part.keys() - OPENAI_STRICT - {"default"})
        if part["type"] == "object" and not part.get("properties"):
            yield f"{path} is open"


def anthropic(schema: Json) -> Iterator[str]:
    """Complaints of Anthropic's tools, which also Bedrock makes: an object at the root, without combinations."""
    if schema["type"] != "object" or schema.keys() - {"type", "properties", "required"}:
        yield "the root is no plain object"
    yield from (f"{name} is no name" for name in schema["properties"] if not re.fullmatch(r"[\w.-]{1,64}", name))


def mistral(schema: Json) -> Iterator[str]:
    """Complaints of Mistral's functions: references and unions are not resolved."""
    for path, part in parts(schema):
        yield from (f"{path} has {name}" for name in part.keys() & {"$ref", "$defs", "anyOf", "oneOf", "allOf"})
        yield from (f"{path} lacks {name}" for name in part.get("required", ()) if name not in part["properties"])


@pytest.mark.parametrize("provider", [gemini, openai, anthropic, mistral])
async def test_every_large_provider_takes_the_arguments_of_the_tools(client: Client, provider: Any) -> None:
    tools = (await client.list_tools()).tools
    assert {tool.name: list(provider(tool.input_schema)) for tool in tools} == {tool.name: [] for tool in tools}
    assert all(len(tool.description or "") <= 1_024 for tool in tools)


@pytest.mark.parametrize("schema", [{"type": "integer"}, '{"type": "integer"}'], ids=["object", "text"])
async def test_an_output_schema_is_taken_as_an_object_and_as_text(
    client: Client, workspace: Workspace, schema: object
) -> None:
    await workspace.contexts.register(text="some text", name="t")
    arguments = {"query": "How many?", "contexts": ["t"], "output_schema": schema, "estimate_only": True}
    result = await client.call_tool("rlm_solve", arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error


@pytest.mark.parametrize("name", ["max_usd", "max_seconds"])
async def test_a_limit_of_zero_is_refused_though_the_schema_cannot_say_so(client: Client, name: str) -> None:
    result = await client.call_tool("rlm_solve", {"query": "How many?", "contexts": ["t"], name: 0})
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert name in result.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind

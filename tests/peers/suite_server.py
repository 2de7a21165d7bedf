"""A server of the tools, prompts and resources that the conformance suite asks for by name, beside those of tasks.

`python -m tests.peers.suite_server` serves it over streamable HTTP and logs its address. It shows that the parts of our
server, the SDK under our notifications, also carry what our own tools do not use. Names and texts are those that the
suite describes.
"""

import base64
import warnings
from collections.abc import Mapping
from typing import Annotated, Any

import anyio
import uvicorn
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context as Request
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import (
    INVALID_PARAMS,
    AudioContent,
    CallToolResult,
    ContentBlock,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    GetPromptResult,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    Prompt,
    PromptArgument,
    PromptMessage,
    Resource,
    SamplingMessage,
    TextContent,
    TextResourceContents,
    Tool,
)
from pydantic import AnyUrl, Field

from rlm_mcp.server.notifications import Notifications

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
)
SILENCE = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0@\x1f\0\0\1\0\x08\0data\0\0\0\0"
IMAGE = ImageContent(data=base64.b64encode(PIXEL).decode(), mime_type="image/png")

Asked = Mapping[str, ElicitRequest | CreateMessageRequest | ListRootsRequest]


def text(words: str) -> TextContent:
    return TextContent(text=words)


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=words))


def schema_of(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def form(message: str, **properties: Mapping[str, Any]) -> ElicitRequest:
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema_of(**properties)))


def sampling(prompt: str) -> CreateMessageRequest:
    messages = [SamplingMessage(role="user", content=text(prompt))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=50))


CONTENTS: dict[str, list[ContentBlock]] = {
    "test_simple_text": [text("This is a simple text response for testing.")],
    "test_image_content": [IMAGE],
    "test_audio_content": [AudioContent(data=base64.b64encode(SILENCE).decode(), mime_type="audio/wav")],
    "test_embedded_resource": [embedded("test://embedded-resource", "This is an embedded resource content.")],
    "test_multiple_content_types": [
        text("Multiple content types test:"),
        IMAGE,
        embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
    ],
}
NAME: Asked = {"user_name": form("What is your name?", name={"type": "string"})}
CONFIRM: Asked = {"confirm": form("Please confirm", ok={"type": "boolean"})}
ROOTS: Asked = {"client_roots": ListRootsRequest()}
CAPITAL: Asked = {"capital_question": sampling("What is the capital of France?")}
ROUNDS: dict[str, list[Asked]] = {
    "elicitation": [NAME],
    "sampling": [CAPITAL],
    "list_roots": [ROOTS],
    "request_state": [CONFIRM],
    "tampered_state": [CONFIRM],
    "multiple_inputs": [{**NAME, **ROOTS, "greeting": sampling("Generate a greeting")}],
    "multi_round": [
        {"step1": form("Step 1: What is your name?", name={"type": "string"})},
        {"step2": form("Step 2: What is your favorite color?", color={"type": "string"})},
    ],
    "capabilities": [CAPITAL],  # the suite's client has sampling and no elicitation
}
"""What `test_input_required_result_*` asks, round by round, within one call."""

FORMS: dict[str, dict[str, Any]] = {
    "test_elicitation": schema_of(username={"type": "string"}, email={"type": "string"}),
    "test_elicitation_sep1034_defaults": schema_of(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    ),
    "test_elicitation_sep1330_enums": schema_of(
        untitledSingle={"type": "string", "enum": ["option1", "option2"]},
        titledSingle={"type": "string", "oneOf": [{"const": "value1", "title": "First Option"}]},
        legacyEnum={"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": ["option1", "option2"]}},
        titledMulti={"type": "array", "items": {"anyOf": [{"const": "value1", "title": "First Choice"}]}},
    ),
}
SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {"address": {"$anchor": "addressDef", **schema_of(street={"type": "string"}, city={"type": "string"})}},
    **schema_of(address={"$ref": "#/$defs/address"}),
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
PROMPTS = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}
CONTEXT: Asked = {"user_context": form("What context should the prompt use?", context={"type": "string"})}
RESOURCES: dict[str, tuple[str | bytes, str]] = {
    "test://static-text": ("This is the content of the static text resource.", "text/plain"),
    "test://static-binary": (PIXEL, "image/png"),
    "test://template/123/data": ('{"id":"123","templateTest":true,"data":"Data for ID: 123"}', "application/json"),
}


class SuiteServer(MCPServer[None]):
    """Answers by name, below the SDK's managers of tools, prompts and resources."""

    async def list_tools(self) -> list[Tool]:
        names = [*CONTENTS, *FORMS, *(f"test_input_required_result_{name}" for name in ROUNDS)]
        names += ["test_error_handling", "test_tool_with_progress", "test_sampling"]
        tools = [Tool(name=name, description="Asked for by name.", input_schema={"type": "object"}) for name in names]
        schema = Tool(name="json_schema_2020_12_tool", description="Has a schema.", input_schema=SCHEMA_2020_12)
        return [*tools, schema, *await super().list_tools()]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Request[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        assert context is not None
        match name:
            case _ if name in CONTENTS:
                return CallToolResult(content=CONTENTS[name])
            case "test_error_handling":
                raise ToolError("This tool intentionally returns an error for testing")
            case "test_tool_with_progress":
                for done in (0, 50, 100):
                    await context.report_progress(done, 100)
                return CallToolResult(content=[text("done")])
            case "test_sampling":
                messages = [SamplingMessage(role="user", content=text(arguments["prompt"]))]
                with warnings.catch_warnings():  # deprecated with the versions in which it is asked for
                    warnings.simplefilter("ignore", MCPDeprecationWarning)
                    reply = await context.session.create_message(messages, max_tokens=100)
                return CallToolResult(content=[text(f"LLM response: {reply.content}")])
            case _ if name in FORMS:
                given = await context.session.elicit("Please fill in", FORMS[name])
                return CallToolResult(content=[text(f"Elicitation completed: {given.action} {given.content}")])
            case _ if (kind := name.removeprefix("test_input_required_result_")) in ROUNDS:
                return _next_round(kind, context)
            case _:
                return await super().call_tool(name, arguments, context)

    async def list_prompts(self) -> list[Prompt]:
        return [
            Prompt(name=name, arguments=[PromptArgument(name=argument, required=True) for argument in arguments])
            for name, arguments in PROMPTS.items()
        ]

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Request[None, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        given = arguments or {}
        contents: list[ContentBlock]
        match name:
            case "test_simple_prompt":
                contents = [text("This is a simple prompt for testing.")]
            case "test_prompt_with_arguments":
                contents = [text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")]
            case "test_prompt_with_embedded_resource":
                contents = [
                    embedded(given["resourceUri"], "Embedded resource content for testing."),
                    text("Process it."),
                ]
            case "test_prompt_with_image":
                contents = [IMAGE, text("Please analyze the image above.")]
            case "test_input_required_result_prompt":
                if context is None or not context.input_responses:
                    return InputRequiredResult(input_requests=dict(CONTEXT))
                contents = [text("With context.")]
            case _:
                raise MCPError(INVALID_PARAMS, f"no prompt {name}")
        return GetPromptResult(messages=[PromptMessage(role="user", content=content) for content in contents])

    async def list_resources(self) -> list[Resource]:
        return [Resource(uri=uri, name=uri, mime_type=kind) for uri, (_, kind) in RESOURCES.items()]

    async def read_resource(
        self, uri: AnyUrl | str, context: Request[None, Any] | None = None
    ) -> list[ReadResourceContents]:
        if str(uri) not in RESOURCES:
            raise ResourceNotFoundError(f"no resource {uri}")
        content, kind = RESOURCES[str(uri)]
        return [ReadResourceContents(content=content, mime_type=kind)]


def _next_round(kind: str, context: Request[None, Any]) -> CallToolResult | InputRequiredResult:
    """The questions that are still open; where a tool has rounds or a state, the state says which were answered."""
    rounds = ROUNDS[kind]
    done = int(context.request_state or 0)
    if set(rounds[done]) <= set(context.input_responses or {}):
        done += 1
    if done == len(rounds):
        return CallToolResult(content=[text(f"state-ok, answered: {sorted(context.input_responses or {})}")])
    stateless = kind in {"elicitation", "sampling", "list_roots", "capabilities"}
    return InputRequiredResult(input_requests=dict(rounds[done]), request_state=None if stateless else str(done))


async def mirrored(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "") -> str:
    """Has an argument that HTTP clients repeat in a header."""
    return region


async def _serve() -> None:
    notifications = Notifications()
    server = SuiteServer(
        "suite",
        version="1",
        middleware=[notifications.middleware],
        subscriptions=notifications.bus,
        log_level="CRITICAL",
    )
    server.add_tool(mirrored)
    config = uvicorn.Config(
        server.streamable_http_app(), host="127.0.0.1", port=0, access_log=False, timeout_graceful_shutdown=1
    )
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    anyio.run(_serve)

"""Any value in any argument gives a result or a helpful sentence: no stack trace, no hang, no leftovers."""

import json
import math
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult

from rlm_mcp.server.result_text import RESULT_CHARS
from rlm_mcp.server.tools import described_tools
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.workspace import Workspace

from .conftest import HeldModel

pytestmark = pytest.mark.anyio


SCHEMAS: dict[str, dict[str, Any]] = {tool.name: tool.parameters for tool in described_tools()}

# A call of each tool that succeeds, on a workspace with the context "t".
GOOD: dict[str, dict[str, Any]] = {
    "register_context": {"text": "some text\nERROR here\n"},
    "list_contexts": {},
    "inspect_context": {"context": "t"},
    "rlm_solve": {"query": "How many?", "contexts": ["t"]},
    "rlm_result": {"run_id": "run-0"},
    "cancel_run": {"run_id": "run-0"},
    "remove_context": {"context": "t"},
}

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, -(2**63), 10**30, 10**400, 1e308, -0.0, 5e-324, math.inf, -math.inf, math.nan,
    "", " ", "\n", "\x00", "a\x00b", "\ud800", "\u202eevil\u200b", "😀" * 500, "é" * 300, "x" * 100_000, "\r\n" * 5_000,
    "null", "[]", "{}", "[1, 2", "NaN", "1e999", "-1", "true", "%s%n{0}{}", "$(id)", "'; --", "<script>", "\x1b[31m",
    "/etc/passwd", "../../../../etc/shadow", "/dev/zero", "/proc/self/environ", "~root", "file:///etc/passwd", "C:\\x",
    "file:///tmp/%00x", "file:///%ff%fe", "file://[x", "~no-such-user/x", "a@\x00", "run-\x00",
    "//", ".", "**/*", "[", "(", "(a+)+$", "(?P<x>", "\\", "*" * 200, "rlm://contexts/t", "rlm", "run-0", "T",
    [], [[]], [None], [1], ["t", 1], ["t"] * 200, {}, {"": ""}, {"a": {"b": [1, {"c": None}]}},
    {"type": "nonsense"}, {"$ref": "#"}, {"$ref": "#/definitions/x"},
    {"$ref": "http://127.0.0.1:9/x"}, {"type": ["object", 3]},
    json.loads('{"items":' * 100 + "{}" + "}" * 100), json.loads("[" * 100 + "]" * 100),
]  # fmt: skip


def around(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values at the bounds of an argument and just beyond."""
    for bound in (schema.get(name) for name in ("minimum", "maximum")):
        if bound is not None:
            yield from (bound - 1, bound, bound + 1, str(bound), float(bound) + 0.5)
    yield from schema.get("enum", ())


def complaint(tool: str, arguments: Mapping[str, Any], result: object) -> str | None:
    """The faults of the answer to a call."""
    assert isinstance(result, CallToolResult)
    text = result.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind
    if not text.strip():
        return "empty"
    if len(text) >= RESULT_CHARS:
        return f"{len(text)} characters"
    if not result.is_error:
        size = len(json.dumps(result.structured_content, ensure_ascii=False))
        return None if size < RESULT_CHARS else f"{size} characters of JSON"
    inside = re.search(r'Traceback|File "|Error executing tool|pydantic|object at 0x|Errno', text)
    if inside is not None and inside[0] not in repr(arguments):  # an error names the argument that it is about
        return f"the inside shows: {text[:300]}"
    if len(text) > 1_500:
        return f"a sentence of {len(text)} characters: {text[:100]}"
    named = {tool, *SCHEMAS.get(tool, {}).get("properties", ()), *arguments, *SCHEMAS}
    values = {str(value)[:20].strip() for value in arguments.values()} - {""}
    if not any(word in text for word in named | values):
        return f"names neither argument nor value: {text}"
    if len(text.split()) < 4:
        return f"no sentence: {text}"
    return None


def remains(settings: Settings) -> list[Path]:
    """The texts of stored contexts, and leftovers of registrations."""
    store = settings.data_dir / "contexts"
    folders = (folder for place in ("blobs", "incoming") for folder in os.walk(store / place))
    return sorted(Path(folder, name) for folder, _, names in folders for name in names)


async def complaints(
    client: Client, workspace: Workspace, settings: Settings, calls: Sequence[tuple[str, dict[str, Any]]]
) -> list[str]:
    """Every call that got a bad answer, or that was refused and still left something behind."""
    found = []
    there = False
    for tool, arguments in calls:
        if not there:
            await workspace.contexts.register(text="some text\nERROR here\n", name="t")
        before = remains(settings) if tool == "register_context" else []
        with anyio.fail_after(60):
            result = await client.call_tool(tool, arguments)
        wrong = complaint(tool, arguments, result)
        refused = isinstance(result, CallToolResult) and result.is_error
        there = refused or tool != "remove_context"
        if wrong is None and refused and tool == "register_context" and before != remains(settings):
            wrong = "refused, but something is left behind"
        if wrong is not None:
            found.append(f"{tool}({str(arguments)[:200]}): {wrong}")
    return found


def hostile_calls(tool: str, era: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each argument with each value in one of the eras, which share what checks arguments.

    The arguments of rlm_solve take turns, as half of the values start a run.
    """
    step = 4 if tool == "rlm_solve" else 2
    for number, (name, schema) in enumerate(SCHEMAS[tool]["properties"].items(), start=int(era == "legacy")):
        for value in (*HOSTILE[number % step :: step], *around(schema)):
            yield tool, GOOD[tool] | {name: value}


@pytest.mark.parametrize("tool", GOOD)
async def test_hostile_values_of_each_argument_get_a_result_or_a_sentence(
    client: Client, workspace: Workspace, settings: Settings, model: HeldModel, tool: str, era: str
) -> None:
    model.go.set()
    assert await complaints(client, workspace, settings, list(hostile_calls(tool, era))) == []


def misspelled(name: str) -> Iterator[str]:
    """One letter less, one more, one wrong; other cases and joints."""
    yield from (name[1:], name[:-1], name + "s", "_" + name, name.upper(), name.title(), name.replace("_", "-"))
    yield from (name.replace("_", ""), name[:2] + "x" + name[2:], f"{name} ", f"{name}\x00", name.replace("e", "é"))


@pytest.mark.parametrize("tool", GOOD)
async def test_misspelled_arguments_and_tools_get_a_result_or_the_right_names(
    client: Client, workspace: Workspace, settings: Settings, model: HeldModel, tool: str
) -> None:
    model.go.set()
    calls = [(name, GOOD[tool]) for name in misspelled(tool)]
    for right in SCHEMAS[tool]["properties"]:
        value = GOOD[tool].get(right, 1)
        others = {name: value for name, value in GOOD[tool].items() if name != right}
        calls += [(tool, others | {wrong: value}) for wrong in misspelled(right)]
    assert await complaints(client, workspace, settings, calls) == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.sampled_from(HOSTILE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def any_call(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    tool = draw(st.sampled_from(sorted(SCHEMAS)))
    names = st.sampled_from(sorted(SCHEMAS[tool]["properties"])) | st.text(max_size=12)
    arguments = draw(st.dictionaries(names, anything, max_size=4))
    return tool, (GOOD[tool] if draw(st.booleans()) else {}) | arguments


@given(call=any_call())
@with_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_arguments_together_get_a_result_or_a_sentence(
    client: Client, workspace: Workspace, settings: Settings, model: HeldModel, call: tuple[str, dict[str, Any]]
) -> None:
    model.go.set()
    assert await complaints(client, workspace, settings, [call]) == []


TEMPLATES = [
    "rlm://contexts/{}", "rlm://contexts/t/lines/{}", "rlm://contexts/t/lines/1-{}", "rlm://contexts/t/lines/{}-2",
    "rlm://contexts/t/files/{}", "rlm://contexts/t/lines/1-2?path={}", "rlm://runs/{}", "rlm://runs/{}/answer", "{}",
]  # fmt: skip


def hostile_requests(client: Client) -> Iterator[tuple[str, Callable[[], Awaitable[object]]]]:
    texts = [value for value in HOSTILE if isinstance(value, str) and value != "\ud800"]  # the client refuses that one
    for text in (*texts, "9" * 20, "-5", "0", "%00", "%2e%2e/x"):
        for uri in (template.format(text) for template in TEMPLATES):
            yield f"read {uri}", partial(client.read_resource, uri)
        for name, arguments in ((text, {}), ("be_the_root", {text: text}), ("be_the_root", {"context": text})):
            yield f"prompt {name} {arguments}", partial(client.get_prompt, name, arguments)


async def test_hostile_addresses_and_prompts_get_a_result_or_a_sentence(client: Client, workspace: Workspace) -> None:
    await workspace.contexts.register(text="some text\nERROR here\n", name="t")
    found = []
    for what, request in hostile_requests(client):
        with anyio.fail_after(60):
            try:
                await request()
            except MCPError as error:
                code, text = error.error.code, error.error.message
                if code != -32602 or not 4 <= len(text.split()) <= 100 or len(text) > 1_500:
                    found.append(f"{what[:200]!r}: {code} {text[:300]}")
    assert found == []

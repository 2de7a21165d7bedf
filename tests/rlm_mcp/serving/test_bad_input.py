"""Anything at all in the arguments of any tool: a result or a sentence, never a stack trace, never a hang."""

import json
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp_types import CallToolResult

from rlm_mcp.tools import Tools
from rlm_mcp.wire import RESULT_CHARS
from rlm_mcp.workspace import Workspace

from .conftest import HeldModel

pytestmark = pytest.mark.anyio


def no_workspace() -> Workspace:
    raise AssertionError("schemas need no workspace")


SCHEMAS = {tool.name: tool.parameters for tool in Tools(no_workspace).all()}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
plausible = st.sampled_from(
    ["t", "rlm", "", ".", "(", "ERROR", "run-0", "../..", "/etc/passwd", "\x00", "1 + 1", 0, 1, -1, 10**30]
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    tool = draw(st.sampled_from(sorted(SCHEMAS)))
    names = sorted(SCHEMAS[tool]["properties"])
    required = SCHEMAS[tool].get("required", [])
    chosen = {*draw(st.lists(st.sampled_from(names), max_size=4)), *(required if draw(st.booleans()) else [])}
    return tool, {name: draw(plausible | anything) for name in sorted(chosen)}


@given(call=calls())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_call_ends_in_a_result_or_a_sentence(
    client: Client, workspace: Workspace, model: HeldModel, call: tuple[str, dict[str, Any]]
) -> None:
    model.go.set()
    await workspace.register(text="some text\nERROR here\n", name="t")
    tool, arguments = call
    with anyio.fail_after(20):
        result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    text = result.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind
    assert text
    assert len(text) < RESULT_CHARS
    assert "Traceback" not in text
    assert not text.startswith("Error executing tool")
    if not result.is_error:
        assert len(json.dumps(result.structured_content, ensure_ascii=False)) < RESULT_CHARS

"""Results are no longer than what the client passes on to its model, and say what is missing."""

import json
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from mcp import Client
from mcp_types import CallToolResult, Implementation

from rlm_mcp.cli.commands.output import run_facts
from rlm_mcp.contexts.describe.overview import LargeFile, Overview
from rlm_mcp.contexts.search import MatchedLine, SearchResult
from rlm_mcp.contexts.types import Context, LineRange
from rlm_mcp.records.types import Citation, Coverage, RunState
from rlm_mcp.repl.types import CellError, CellResult, Variable
from rlm_mcp.server.client_limits import CLIENTS, UNKNOWN, limits_of_client
from rlm_mcp.server.presenters import code_result, lines_result, matches_result, overview_result, run_result
from rlm_mcp.server.result_text import compact, fields_of
from rlm_mcp.server.results import WireResult
from rlm_mcp.server.server import build_server
from rlm_mcp.workspace.workspace import Workspace

from .conftest import HeldModel

CONTEXT = Context(
    context_id="ctx_1", name="app.log", kind="text", bytes=12, chars=12, lines=2, files=1, created_at="", source="text"
)
ROOMS = sorted({limits.chars for limits in (UNKNOWN, *CLIENTS.values())})
TEXTS = st.builds(
    lambda piece, times: piece * times, st.text(max_size=30), st.sampled_from([1, 300, 5_000])
)  # control characters, quotes and letters of other scripts, short and long


def excess(result: WireResult, room: int) -> int:
    """By how much the longer form of a result is too long."""
    fields = fields_of(result)
    return max(0, len(json.dumps(fields, ensure_ascii=False)) - room, len(compact(fields)) - room)


@with_settings(max_examples=30)
@given(text=TEXTS, rows=st.integers(0, 40), room=st.sampled_from(ROOMS))
def test_no_result_is_longer_than_its_room(text: str, rows: int, room: int) -> None:
    citation = Citation(context_id="ctx_1", path="p", start_line=1, end_line=2, quote=text, verified=True)
    state = RunState(
        run_id="run-1", status="completed", query="q", contexts=(), created_at="", answer=text, message=text,
        citations=(citation,) * rows, coverage=Coverage(total_chars=1),
    )  # fmt: skip
    cell = CellResult(
        code="", stdout=text, value=text, notes=(text,) * rows, error=CellError(type="E", message=text, traceback=text),
        variables=tuple(Variable(name=f"v{n}", type="str", preview=text) for n in range(rows)),
    )  # fmt: skip
    lines = LineRange(path="p", start_line=1, end_line=1, text=text, truncated=False, next_start_line=None)
    found = SearchResult(
        matches=[MatchedLine(path="p", line=n, text=text[:1_000]) for n in range(rows)], total=rows, truncated=False
    )
    overview = Overview(
        context=CONTEXT, structure={"tree": [text[:200]] * rows, "columns": {"a": text}}, head=text, tail=text,
        largest_files=[LargeFile(path=text[:300], bytes=1, lines=1)] * rows,
    )  # fmt: skip
    results = [
        run_result(state, room=room), code_result(CONTEXT, cell, room), lines_result(CONTEXT, lines, room),
        matches_result(CONTEXT, found, room), overview_result(CONTEXT, overview, room),
    ]  # fmt: skip
    assert [excess(result, room) for result in results] == [0] * 5


@given(widths=st.lists(st.integers(0, 1_900), min_size=1, max_size=30), room=st.sampled_from(ROOMS), last=st.booleans())
def test_lines_are_passed_on_whole_and_in_order_by_their_next_lines(widths: list[int], room: int, last: bool) -> None:
    whole = "\n".join("\t" * width for width in widths) + "\n" * last
    text, start, reads = whole, 1, []
    while text:
        lines = LineRange(
            path="p", start_line=start, end_line=len(widths), text=text, truncated=False, next_start_line=None
        )
        read = lines_result(CONTEXT, lines, room)
        reads.append(read.text)
        assert read.truncated == (len(read.text) < len(text))
        assert (read.next_start_line is None) == (not read.truncated)
        text, start = text[len(read.text) :], read.next_start_line or 0
    assert "".join(reads) == whole


def test_a_line_that_does_not_fit_is_begun_and_says_how_to_read_on() -> None:
    lines = LineRange(path="a.log", start_line=7, end_line=9, text="x" * 9_000 + "\ny\nz\n", truncated=False,
                      next_start_line=None)  # fmt: skip
    read = lines_result(CONTEXT, lines, 8_000)
    shown = len(read.text)
    assert (read.end_line, read.truncated, read.next_start_line) == (7, True, 8)
    assert read.message == (
        f"Line 7 is longer than a result: these are its first {shown} characters. Read on with "
        f"code='print(context.splitlines()[6][{shown}:{shown + 2 * shown // 3}])'."
    )


@pytest.mark.parametrize(
    ("name", "seconds", "chars", "reads"),
    [
        ("claude-code", 100, 20_000, "structured"),
        ("codex-mcp-client", 55, 10_000, "structured"),
        ("gemini-cli-mcp-client", 290, 20_000, "text"),
        ("qwen-cli-mcp-client-rlm-mcp", 280, 16_000, "both"),
        ("copilot-cli", 170, 12_000, "both"),
        ("GitHub Copilot JetBrains", 25, 8_000, "either"),
        ("@cline/core", 55, 6_000, "both"),
        ("mcp", 55, 8_000, "either"),
    ],
)
def test_clients_are_known_by_a_part_of_their_name(name: str, seconds: float, chars: int, reads: str) -> None:
    limits = limits_of_client(name)
    assert (limits.seconds, limits.chars, limits.reads) == (seconds, chars, reads)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["mcp", "@cline/core", "claude-code"])
async def test_every_tool_keeps_to_the_limits_of_its_client(
    workspace: Workspace, model: HeldModel, era: str, name: str
) -> None:
    limits = limits_of_client(name)
    model.answer = '"é" ' * 20_000
    model.go.set()
    for number in range(50):
        await workspace.contexts.register(text=f"{number}" + 'ERROR "x"\n' * 4_000, name="n" * 90 + str(number))
    info = Implementation(name=name, version="1")
    with anyio.fail_after(60):
        async with Client(build_server(workspace), mode=era, client_info=info) as client:
            calls: list[tuple[str, dict[str, Any]]] = [
                ("list_contexts", {"limit": 100}),
                ("inspect_context", {"context": "n" * 90 + "1"}),
                ("inspect_context", {"context": "n" * 90 + "1", "start_line": 1}),
                ("inspect_context", {"context": "n" * 90 + "1", "search": "ERROR", "max_matches": 1_000}),
                ("rlm_solve", {"query": "How many?", "contexts": ["n" * 90 + "1"], "mode": "rlm"}),
            ]
            for tool, arguments in calls:
                result = await client.call_tool(tool, arguments)
                assert isinstance(result, CallToolResult)
                text = result.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind
                as_json = json.dumps(result.structured_content, ensure_ascii=False)
                passed = len(json.dumps(text, ensure_ascii=False)) + len(as_json) if limits.reads == "both" else (
                    max(len(text), len(as_json))
                )  # fmt: skip
                assert passed <= limits.chars + (3_500 if tool == "list_contexts" else 200), tool


@pytest.mark.anyio
async def test_a_client_that_reads_both_forms_gets_the_facts_once(workspace: Workspace, era: str) -> None:
    await workspace.contexts.register(text="ERROR here\n", name="t")
    info = Implementation(name="copilot-cli", version="1")
    async with Client(build_server(workspace), mode=era, client_info=info) as client:
        read = await client.call_tool("inspect_context", {"context": "t", "start_line": 1})
        listed = await client.call_tool("list_contexts", {})
    assert isinstance(read, CallToolResult)
    assert isinstance(listed, CallToolResult)
    context_id = (read.structured_content or {})["context_id"]
    assert read.structured_content == {"context_id": context_id, "view": "read"}
    assert "ERROR here" in read.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind
    assert listed.structured_content == {"contexts": [{"context_id": context_id}]}


def test_the_answer_is_the_first_line_and_before_that_of_a_running_run_its_status() -> None:
    run = {
        "run_id": "run-1",
        "status": "completed",
        "answer": "Two.\nThree.",
        "message": "",
        "usage": {"root_calls": 1},
    }
    assert compact(run) == "answer: Two.\nThree.\nrun_id: run-1\nstatus: completed\nmessage: \nusage: root_calls=1"
    running = run | {"status": "running", "answer": None, "message": "Still running."}
    assert compact(running).splitlines()[:2] == ["status: running", "message: Still running."]


def test_coverage_is_told_once_it_is_known() -> None:
    running = RunState(run_id="run-1", status="running", query="q", contexts=(), created_at="")
    assert "coverage" not in fields_of(run_result(running))
    assert "coverage" not in run_facts(running)
    known = RunState(
        run_id="r", status="completed", query="q", contexts=(), created_at="", coverage=Coverage(total_chars=9)
    )
    assert fields_of(run_result(known))["coverage"]["total_chars"] == 9

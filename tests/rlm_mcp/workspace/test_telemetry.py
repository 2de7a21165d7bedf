"""The spans of runs, kept in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer

from rlm_mcp.errors import SubCallFailed
from rlm_mcp.models.base import Profile
from rlm_mcp.models.scripted import ScriptedCall, ScriptedModel
from rlm_mcp.repl.guest_functions import functions_of
from rlm_mcp.repl.scripted import Play, ScriptedOpener
from rlm_mcp.repl.types import CellError, CellResult, Final, GuestCalls
from rlm_mcp.settings import Settings, load_settings
from rlm_mcp.workspace.launch import RunModels, SolveRequest
from rlm_mcp.workspace.telemetry import Telemetry
from rlm_mcp.workspace.workspace import Workspace, open_workspace

pytestmark = pytest.mark.anyio

FIGURE = "the figure is 4711"


class Recorder:
    """A tracer whose ended spans can be looked at."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def tree(self) -> dict[str, str]:
        """name -> name of its parent, of spans with names of their own"""
        spans = self.spans
        names = {span.context.span_id: span.name for span in spans if span.context is not None}
        return {span.name: names.get(span.parent.span_id, "?") if span.parent else "" for span in spans}

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def one(self, name: str) -> dict[str, Any]:
        """The attributes of the only span of this name."""
        (span,) = [span for span in self.spans if span.name == name]
        return dict(span.attributes or {})


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


async def asks(code: str, calls: GuestCalls) -> CellResult:
    answer = await calls.llm_query(f"Say it: {FIGURE}", model=None, schema=None)
    return CellResult(code=code, stdout=f"{answer}\n", final=Final(value=answer))


@asynccontextmanager
async def workspace(
    directory: Path, telemetry: Telemetry, play: Play = asks, root: ScriptedModel | None = None
) -> AsyncIterator[Workspace]:
    settings = Settings(data_dir=directory / "data", cache_dir=directory / "cache", sub_call_cache=False)
    priced = Profile(usd_per_mtok_in=1.0, usd_per_mtok_out=2.0)
    models = RunModels(
        root=root or ScriptedModel(lambda _: "```repl\nask()\n```", name="big", profile=priced),
        sub=ScriptedModel(lambda _: FIGURE, name="small", profile=priced),
    )

    async def choose(root: str | None, sub: str | None) -> RunModels:
        return models

    async with open_workspace(
        settings, choose=choose, open_repl=ScriptedOpener(play), telemetry=telemetry
    ) as workspace:
        await workspace.contexts.register(text="a line\n" * 5_000, name="text")
        yield workspace


async def run(workspace: Workspace) -> str:
    with anyio.fail_after(60):
        run_id = await workspace.runs.start(SolveRequest(query="Which figure?", contexts=("text",), mode="rlm"))
        async for _ in workspace.runs.follow(run_id):
            pass
    return run_id


async def test_a_run_is_an_agent_with_chats_and_tools_below_it(tmp_path: Path, recorder: Recorder) -> None:
    async with workspace(tmp_path, Telemetry(tracer=recorder.tracer)) as there:
        run_id = await run(there)
        state = await there.runs.state(run_id)
    assert recorder.tree() == {
        "chat small": "execute_tool python",
        "execute_tool python": "invoke_agent rlm",
        "chat big": "invoke_agent rlm",
        "invoke_agent rlm": "",
    }
    agent = recorder.one("invoke_agent rlm")
    assert agent["gen_ai.operation.name"] == "invoke_agent"
    assert agent["gen_ai.conversation.id"] == run_id
    assert agent["gen_ai.usage.input_tokens"] == state.usage.prompt_tokens
    assert agent["rlm.cost_usd"] == state.usage.cost_usd
    assert (agent["rlm.mode"], agent["rlm.status"]) == ("rlm", "completed")
    chats = recorder.one("chat big"), recorder.one("chat small")
    assert [chat["gen_ai.request.model"] for chat in chats] == ["big", "small"]
    assert sum(chat["gen_ai.usage.output_tokens"] for chat in chats) == state.usage.completion_tokens
    tool = recorder.one("execute_tool python")
    assert (tool["gen_ai.tool.name"], tool["gen_ai.operation.name"]) == ("python", "execute_tool")


async def test_what_was_said_is_in_no_span_unless_it_is_asked_for(tmp_path: Path, recorder: Recorder) -> None:
    async with workspace(tmp_path, Telemetry(tracer=recorder.tracer)) as there:
        await run(there)
    everything = " ".join(span.to_json() for span in recorder.spans)
    for said in (FIGURE, "Which figure?", "ask()"):
        assert said not in everything

    asked_for = Recorder()
    async with workspace(tmp_path / "2", Telemetry(tracer=asked_for.tracer, content=True)) as there:
        await run(there)
    assert "Which figure?" in asked_for.one("invoke_agent rlm")["gen_ai.input.messages"]
    assert FIGURE in asked_for.one("invoke_agent rlm")["gen_ai.output.messages"]
    assert "ask()" in asked_for.one("execute_tool python")["gen_ai.tool.call.arguments"]
    assert FIGURE in asked_for.one("chat small")["gen_ai.output.messages"]


async def test_spans_are_below_the_one_of_the_request(tmp_path: Path, recorder: Recorder) -> None:
    async with workspace(tmp_path, Telemetry(tracer=recorder.tracer)) as there:
        with recorder.tracer.start_as_current_span("tools/call rlm_solve"):
            await run(there)
    assert recorder.tree()["invoke_agent rlm"] == "tools/call rlm_solve"


async def test_failures_carry_their_type_and_no_text(tmp_path: Path, recorder: Recorder) -> None:
    async def fails(code: str, calls: GuestCalls) -> CellResult:
        if "FINAL" in code:
            return CellResult(code=code, final=Final(value=1))
        with pytest.raises(SubCallFailed):
            await calls.llm_query("x", model="nobody", schema=None)
        error = CellError(type="KeyError", message=FIGURE, line=1, traceback=FIGURE)
        return CellResult(code=code, error=error)

    def looks_then_answers(asked: ScriptedCall) -> str:
        return f"```repl\n{'ask()' if len(asked.messages) == 2 else 'FINAL(1)'}\n```"

    root = ScriptedModel(looks_then_answers, name="big")
    async with workspace(tmp_path, Telemetry(tracer=recorder.tracer), fails, root) as there:
        await run(there)
    types = [dict(span.attributes or {}).get("error.type") for span in recorder.spans]
    assert [kind for kind in types if kind] == ["sub_call_failed", "KeyError"]
    assert FIGURE not in " ".join(span.to_json() for span in recorder.spans)


async def test_a_cancelled_run_leaves_no_span_open(tmp_path: Path, recorder: Recorder) -> None:
    begun = anyio.Event()

    async def holds(code: str, calls: GuestCalls) -> CellResult:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with workspace(tmp_path, Telemetry(tracer=recorder.tracer), holds) as there:
        run_id = await there.runs.start(SolveRequest(query="Which figure?", contexts=("text",), mode="rlm"))
        with anyio.fail_after(60):
            await begun.wait()
            await there.runs.cancel(run_id)
    assert recorder.one("execute_tool python")["error.type"] == "cancelled"
    assert recorder.one("invoke_agent rlm")["error.type"] == "cancelled"


async def test_child_runs_are_agents_below_the_code_that_asked_for_them(tmp_path: Path, recorder: Recorder) -> None:
    async def recurses(code: str, calls: GuestCalls) -> CellResult:
        if "ask()" not in code:
            return CellResult(code=code, final=Final(value=7))
        return CellResult(code=code, final=Final(value=await calls.rlm_query("And this part?", "part " * 50_000)))

    async with workspace(tmp_path, Telemetry(tracer=recorder.tracer), recurses) as there:
        await run(there)
    agents = [span for span in recorder.spans if span.name == "invoke_agent rlm"]
    assert len(agents) == 2
    (child,) = [span for span in agents if span.parent is not None]
    parents = {span.context.span_id: span.name for span in recorder.spans if span.context is not None}
    assert child.parent is not None
    assert parents[child.parent.span_id] == "execute_tool python"


async def test_functions_of_the_caller_are_tools(tmp_path: Path, recorder: Recorder) -> None:
    async def calls_a_function(code: str, calls: GuestCalls) -> CellResult:
        answer = await calls.call_function("lookup", ["a"], {})
        return CellResult(code=code, final=Final(value=answer))

    request = SolveRequest(
        query="Which figure?",
        contexts=("text",),
        functions=functions_of({"lookup": lambda word: f"of {word}"}),
    )
    async with workspace(tmp_path, Telemetry(tracer=recorder.tracer), calls_a_function) as opened:
        with anyio.fail_after(60):
            run_id = await opened.runs.start(request)
            async for _ in opened.runs.follow(run_id):
                pass
    assert recorder.tree()["execute_tool lookup"] == "execute_tool python"
    assert recorder.one("execute_tool lookup")["gen_ai.tool.name"] == "lookup"


async def test_where_nothing_records_no_event_is_looked_at(tmp_path: Path) -> None:
    async with workspace(tmp_path, Telemetry(tracer=NoOpTracer())) as there:
        run_id = await there.runs.start(SolveRequest(query="Which figure?", contexts=("text",), mode="rlm"))
        assert there.runs._live[run_id].listeners == []


@pytest.mark.parametrize(
    ("variables", "traces", "content"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, False, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False, False),
        ({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}, False, True),
    ],
)
def test_the_standard_variables_decide(tmp_path: Path, variables: dict[str, str], traces: bool, content: bool) -> None:
    settings = load_settings(environ={"HOME": str(tmp_path), **variables})
    assert (settings.traces, settings.trace_content) == (traces, content)

"""Runs as OpenTelemetry spans, named by the GenAI semantic conventions.

    tools/call rlm_solve                 made by the SDK for the request; each later request has its own
    └ invoke_agent rlm                   the run; a trace of its own where no request or program is its parent
      ├ chat gpt-5                       one reply of the root model
      └ execute_tool python              one block of code
        ├ chat gpt-5-mini                a sub-call
        └ invoke_agent rlm               a child run, with spans like these

The spans are made from the run's events as they happen. Where nothing records spans, none are made and no event is
looked at. Prompts, code and answers are in them only under OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT; so are
error texts, since an exception of code shows data. Keys never are, because no event holds one.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlm_mcp.models.connections import Connections
from rlm_mcp.records.events import (
    Cell,
    CellBegun,
    Event,
    RootAsked,
    RootReply,
    Routed,
    RunEnded,
    SubAsked,
    SubFailed,
    SubReply,
)
from rlm_mcp.records.fold import FoldChange, OpenRun, RunFold, Work
from rlm_mcp.version import __version__
from rlm_mcp.workspace.launch import Launch

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

AGENT, TOOL = "rlm", "python"
PROVIDERS = {"api.openai.com": "openai", "sampling": "mcp-client"}
"""host of an endpoint -> the provider's name in the conventions; others are named by their host"""

FLUSH_MS = 300
"""For sending the last spans: a server on stdio has one second to shut down."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Where spans are recorded. `tracer` None means the provider of this process (`export_spans`), if one is set up."""

    tracer: "Tracer | None" = None
    content: bool = False

    def begin(self, run_id: str, launch: Launch) -> "Callable[[Event], None] | None":
        """Begins the span of a run below the current one. Returns the listener for its events, if any records."""
        from opentelemetry import trace  # not at the top: most commands of the command line start no run

        tracer = self.tracer or trace.get_tracer("rlm_mcp", __version__)
        agent = tracer.start_span(f"invoke_agent {AGENT}", attributes=_agent_facts(run_id, launch))
        if not agent.is_recording():
            return None
        if self.content:
            agent.set_attribute("gen_ai.input.messages", _messages("user", launch.spec.query))
        return _Spans(tracer, agent, launch, content=self.content)


@dataclass(slots=True)
class _Spans:
    """The open spans of one run: one for what each of its runs is doing, one for each sub-call in flight."""

    tracer: "Tracer"
    agent: "Span"
    launch: Launch
    content: bool = field(kw_only=True)
    fold: RunFold = field(default_factory=RunFold)
    open: dict[Work, "Span"] = field(default_factory=dict)
    """the span of a child run is that of the sub-call that it answers"""

    def __call__(self, event: Event) -> None:
        change = self.fold.apply(event)
        if change.begun is not None and change.run is not None:
            self.open[change.begun] = self._begin(change.begun.begun, change.run)
        if isinstance(event, RunEnded):
            self._end(event, change)
            return
        if isinstance(event, Routed):
            self._of(change.run).set_attributes({"rlm.mode": event.mode, "rlm.depth": event.depth})
        for work in change.ended:
            if (span := self.open.pop(work, None)) is not None:
                self._finish(span, event)

    def _of(self, run: OpenRun | None) -> "Span":
        """The span of a run or child run."""
        return self.open.get(run.call, self.agent) if run is not None and run.call is not None else self.agent

    def _begin(self, event: RootAsked | CellBegun | SubAsked, run: OpenRun) -> "Span":
        agent = self._of(run)
        match event:
            case RootAsked():
                return self._chat(agent, event.model, root=not run.path)
            case CellBegun():
                return self._tool(agent, event)
            case SubAsked():
                doing = self.open.get(run.work, agent) if run.work is not None else agent
                return self._ask(doing, event)

    def _under(self, parent: "Span", name: str, attributes: Mapping[str, Any], *, client: bool = False) -> "Span":
        from opentelemetry.trace import SpanKind, set_span_in_context

        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        return self.tracer.start_span(name, context=set_span_in_context(parent), kind=kind, attributes=attributes)

    def _chat(self, parent: "Span", model: str, *, root: bool) -> "Span":
        known = self.launch.models.named.get(model) or (self.launch.models.root if root else self.launch.models.sub)
        facts = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": model,
            "gen_ai.provider.name": PROVIDERS.get(known.provider, known.provider),
            "server.address": known.provider,
        }
        return self._under(parent, f"chat {model}", facts, client=True)

    def _tool(self, parent: "Span", event: CellBegun) -> "Span":
        facts = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": TOOL, "gen_ai.tool.type": "function"}
        span = self._under(parent, f"execute_tool {TOOL}", facts)
        span.set_attribute("gen_ai.tool.call.id", f"{event.path or AGENT}-{event.turn}-{event.block}")
        if self.content:
            span.set_attribute("gen_ai.tool.call.arguments", json.dumps({"code": event.code}))
        return span

    def _ask(self, parent: "Span", event: SubAsked) -> "Span":
        if event.kind == "rlm":
            return self._under(parent, f"invoke_agent {AGENT}", _AGENT)
        if event.kind == "tool":
            name = event.prompt_head.partition("(")[0]
            facts = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.type": "function"}
            return self._under(parent, f"execute_tool {name}", facts)
        span = self._chat(parent, self.launch.models.sub.name, root=False)
        if self.content:
            span.set_attribute("gen_ai.input.messages", _messages("user", event.prompt_head))
        return span

    def _finish(self, span: "Span", event: Event) -> None:
        """Ends the span of a root call, block or sub-call with what came of it."""
        match event:
            case RootReply():
                self._set_reply(span, event, event.text)
                span.set_attribute("gen_ai.response.finish_reasons", [event.finish_reason])
            case SubReply():
                if event.cached:
                    span.set_attribute("rlm.cached", value=True)
                self._set_reply(span, event, event.said())
            case SubFailed():
                self._set_failure(span, "sub_call_failed", event.error)
                self._set_reply(span, event, None)
            case Cell():
                self._set_result(span, event)
        span.end()

    def _set_reply(self, span: "Span", event: RootReply | SubReply | SubFailed, reply: object) -> None:
        if event.model:
            span.set_attribute("gen_ai.response.model", event.model)
        span.set_attributes(_usage(event.usage or {}))
        if self.content and reply is not None:
            span.set_attribute("gen_ai.output.messages", _messages("assistant", reply))

    def _set_result(self, span: "Span", event: Cell) -> None:
        if event.error:
            self._set_failure(span, str(event.error["type"]), str(event.error["message"]))
        elif event.stopped_by:
            self._set_failure(span, event.stopped_by, "")
        if self.content:
            shown = {"stdout": event.stdout, "value": event.value}
            span.set_attribute("gen_ai.tool.call.result", json.dumps(shown))

    def _end(self, event: RunEnded, change: FoldChange) -> None:
        """Ends the span of a run or child run, and first those of everything that it was still doing."""
        for work in change.ended:
            if (span := self.open.pop(work, None)) is not None:
                self._set_failure(span, event.stopped_by or event.status, "")
                span.end()
        if not event.path:
            self._end_agent(self.agent, event)
        elif change.run is not None and change.run.call in self.open:
            self._end_agent(self.open.pop(change.run.call), event)

    def _end_agent(self, span: "Span", event: RunEnded) -> None:
        if event.status != "completed":
            self._set_failure(span, event.stopped_by or event.status, event.message)
        facts = {"rlm.status": event.status, "rlm.stopped_by": event.stopped_by or ""}
        span.set_attributes(facts | _usage(event.usage))
        if self.content and event.answer is not None:
            span.set_attribute("gen_ai.output.messages", _messages("assistant", event.answer))
        span.end()

    def _set_failure(self, span: "Span", kind: str, text: str) -> None:
        from opentelemetry.trace import StatusCode

        span.set_attribute("error.type", kind)
        span.set_status(StatusCode.ERROR, text if self.content and text else None)


_AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": AGENT}


def _agent_facts(run_id: str, launch: Launch) -> dict[str, Any]:
    provider = launch.models.root.provider
    return {
        **_AGENT,
        "gen_ai.agent.version": __version__,
        "gen_ai.conversation.id": run_id,
        "gen_ai.provider.name": PROVIDERS.get(provider, provider),
        "gen_ai.request.model": launch.models.root.name,
        "gen_ai.output.type": "text" if launch.spec.output_schema is None else "json",
    }


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "gen_ai.usage.cache_read.input_tokens": usage.get("cached_prompt_tokens"),
        "rlm.cost_usd": usage.get("cost_usd"),
    }
    return {name: value for name, value in names.items() if value is not None}


def _messages(role: str, content: object) -> str:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}], ensure_ascii=False)


# --- export


def export_spans(connections: Connections | None = None) -> "TracerProvider | None":
    """Sends the spans of this process to where the OTEL_* variables say; None if the extra `otel` is not installed.

    The OpenTelemetry SDK reads the variables; the settings have found that some are set. A process that has no network
    of its own passes `connections`.
    """
    from opentelemetry import trace

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("OTEL_* variables ask for traces, but nothing can send them: pip install 'rlm-mcp[otel]'")
        return None
    ours = Resource({"service.name": "rlm-mcp", "service.version": __version__})
    session = None
    if connections is not None:
        from rlm_mcp.workspace.passed_requests import passed_session

        session = passed_session(connections)
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=session)))
    trace.set_tracer_provider(provider)
    return provider


def flush(provider: "TracerProvider | None") -> None:
    """Sends the spans that wait to be sent, for at most FLUSH_MS. Blocks."""
    if provider is not None:
        provider.force_flush(FLUSH_MS)

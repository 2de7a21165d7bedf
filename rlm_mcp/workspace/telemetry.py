"""Runs as OpenTelemetry spans, in the words of the GenAI semantic conventions.

    tools/call rlm_solve                 by the SDK, for the request; another one for every later request
    └ invoke_agent rlm                   the run: a trace of its own where no request or program is its parent
      ├ chat gpt-5                       one reply of the root model
      └ execute_tool python              one block of code
        ├ chat gpt-5-mini                a sub-call
        └ invoke_agent rlm               a child run, with spans like these

The spans are made of the run's events, as they happen. Where nothing records spans, none are made and no event is
looked at. Prompts, code and answers are in them only under OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT; error
texts count as such, since an exception of code shows data. Keys never are: no event holds one.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
from rlm_mcp.version import __version__
from rlm_mcp.workspace.launch import Launch

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

AGENT, TOOL = "rlm", "python"
PROVIDERS = {"api.openai.com": "openai", "sampling": "mcp-client"}
"""host of an endpoint -> what the conventions call its operator; others are named by their host"""

FLUSH_MS = 300
"""For sending the last spans: a server on stdio has a second for its whole end."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Who records spans, if anybody. `tracer` None: whoever has been set up for this process (`export_spans`)."""

    tracer: "Tracer | None" = None
    content: bool = False

    def begin(self, run_id: str, launch: Launch) -> "Callable[[Event], None] | None":
        """Begins the span of a run below the current one; what has to be told every event, or None."""
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
    """The open spans of one run."""

    tracer: "Tracer"
    agent: "Span"
    launch: Launch
    content: bool = field(kw_only=True)
    agents: dict[str, "Span"] = field(default_factory=dict)
    """path of a run or child run -> its span"""
    doing: dict[str, "Span"] = field(default_factory=dict)
    """path -> the root call or the block of code that it is at"""
    calls: dict[tuple[str, str], "Span"] = field(default_factory=dict)
    """path and key of a sub-call -> its span"""

    def __post_init__(self) -> None:
        self.agents[""] = self.agent

    def __call__(self, event: Event) -> None:
        path = event.path
        match event:
            case Routed():
                self._of(path).set_attributes({"rlm.mode": event.mode, "rlm.depth": event.depth})
            case RootAsked():
                self.doing[path] = self._chat(self._of(path), event.model, root=not path)
            case RootReply() if (span := self.doing.pop(path, None)) is not None:
                self._said(span, event, event.text)
                span.set_attribute("gen_ai.response.finish_reasons", [event.finish_reason])
                span.end()
            case CellBegun():
                self.doing[path] = self._tool(path, event)
            case Cell() if (span := self.doing.pop(path, None)) is not None:
                self._ran(span, event)
            case SubAsked():
                self._ask(path, event)
            case SubReply() | SubFailed() if (span := self.calls.pop((path, event.key), None)) is not None:
                self._answered(span, event)
            case RunEnded():
                self._end(path, event)

    def _of(self, path: str) -> "Span":
        return self.agents.get(path, self.agent)

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

    def _tool(self, path: str, event: CellBegun) -> "Span":
        facts = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": TOOL, "gen_ai.tool.type": "function"}
        span = self._under(self._of(path), f"execute_tool {TOOL}", facts)
        span.set_attribute("gen_ai.tool.call.id", f"{path or AGENT}-{event.turn}-{event.block}")
        if self.content:
            span.set_attribute("gen_ai.tool.call.arguments", json.dumps({"code": event.code}))
        return span

    def _ask(self, path: str, event: SubAsked) -> None:
        parent = self.doing.get(path) or self._of(path)
        if event.kind == "rlm":
            child = f"{path}.{event.child}" if path else str(event.child)
            self.agents[child] = self._under(parent, f"invoke_agent {AGENT}", _AGENT)
            return
        span = self._chat(parent, self.launch.models.sub.name, root=False)
        if self.content:
            span.set_attribute("gen_ai.input.messages", _messages("user", event.prompt_head))
        self.calls[path, event.key] = span

    def _answered(self, span: "Span", event: SubReply | SubFailed) -> None:
        if isinstance(event, SubFailed):
            self._failed(span, "sub_call_failed", event.error)
        if event.cached:
            span.set_attribute("rlm.cached", value=True)
        self._said(span, event, None if isinstance(event, SubFailed) else event.value)
        span.end()

    def _said(self, span: "Span", event: RootReply | SubReply | SubFailed, reply: object) -> None:
        if event.model:
            span.set_attribute("gen_ai.response.model", event.model)
        span.set_attributes(_usage(event.usage or {}))
        if self.content and reply is not None:
            span.set_attribute("gen_ai.output.messages", _messages("assistant", reply))

    def _ran(self, span: "Span", event: Cell) -> None:
        if event.error:
            self._failed(span, str(event.error["type"]), str(event.error["message"]))
        elif event.stopped_by:
            self._failed(span, event.stopped_by, "")
        if self.content:
            shown = {"stdout": event.stdout, "value": event.value}
            span.set_attribute("gen_ai.tool.call.result", json.dumps(shown))
        span.end()

    def _end(self, path: str, event: RunEnded) -> None:
        """The end of a run or child run, and of whatever it was at."""
        for at in [at for at in self.doing if _is_below(at, path)]:
            self._break_off(self.doing.pop(at), event)
        for key in [key for key in self.calls if _is_below(key[0], path)]:
            self._break_off(self.calls.pop(key), event)
        for below in [at for at in self.agents if at != path and _is_below(at, path)]:
            self._break_off(self.agents.pop(below), event)
        span = self.agents.pop(path, None)
        if span is None:
            return
        if event.status != "completed":
            self._failed(span, event.stopped_by or event.status, event.message)
        facts = {"rlm.status": event.status, "rlm.stopped_by": event.stopped_by or ""}
        span.set_attributes(facts | _usage(event.usage))
        if self.content and event.answer is not None:
            span.set_attribute("gen_ai.output.messages", _messages("assistant", event.answer))
        span.end()

    def _break_off(self, span: "Span", event: RunEnded) -> None:
        self._failed(span, event.stopped_by or event.status, "")
        span.end()

    def _failed(self, span: "Span", kind: str, text: str) -> None:
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


def _is_below(path: str, top: str) -> bool:
    return path == top or not top or path.startswith(f"{top}.")


# --- who records them


def export_spans() -> "TracerProvider | None":
    """Sends the spans of this process where the OTEL_* variables say; None where the extra for that is missing.

    The variables are read by the OpenTelemetry SDK; settings.py has seen that there are any.
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
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def flush(provider: "TracerProvider | None") -> None:
    """Sends what waits to be sent, for FLUSH_MS at most. Blocks."""
    if provider is not None:
        provider.force_flush(FLUSH_MS)

"""Spans that a collector receives from a server process: the SDK's for the request, and below it those of the run."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp_types import CallToolResult
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.peers.openai_server import OpenAIServer
from tests.peers.places import environment, on_stdio

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector:
    """Keeps every span that it receives, and the names of the services that sent them."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: dict[str, Any] = {}
        self.services: set[str] = set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        keep = self._keep

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                keep(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()

    def _keep(self, body: bytes) -> None:
        sent = ExportTraceServiceRequest()
        sent.ParseFromString(body)
        for group in sent.resource_spans:
            facts = {fact.key: fact.value.string_value for fact in group.resource.attributes}
            self.services.add(facts["service.name"])
            for scope in group.scope_spans:
                self.spans.update({span.name: span for span in scope.spans})


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    with OpenAIServer(lambda _: "```repl\nFINAL(len(context))\n```").run_in_thread() as server:
        yield server


async def test_a_client_finds_the_run_in_its_own_trace(
    tmp_path: Path, compiled_cache: Path, endpoint: OpenAIServer
) -> None:
    collector = Collector()
    with collector.listening():
        environ = environment(tmp_path, compiled_cache, endpoint.base_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        with anyio.fail_after(60):
            async with on_stdio(environ, "auto") as client:
                await client.call_tool("register_context", {"text": "a b c", "name": "abc"})
                question = {"query": "How long?", "contexts": ["abc"], "mode": "rlm"}
                meta: Any = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
                result = await client.call_tool("rlm_solve", question, meta=meta)
    assert isinstance(result, CallToolResult)
    assert result.structured_content is not None
    assert result.structured_content["status"] == "completed"
    spans = collector.spans
    assert collector.services == {"rlm-mcp"}
    assert {span.trace_id.hex() for name, span in spans.items() if name != "tools/call register_context"} >= {TRACE}
    below = {name: span.parent_span_id for name, span in spans.items()}
    assert below["invoke_agent rlm"] == spans["tools/call rlm_solve"].span_id
    assert below["chat scripted"] == below["execute_tool python"] == spans["invoke_agent rlm"].span_id
    assert "How long?" not in str(spans)

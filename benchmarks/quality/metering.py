"""A proxy on loopback before a real endpoint: it adds the key, counts requests and tokens, and stops at a price.

So every contender is counted in the same way, and none of them gets the key. Replies are passed on when they are
complete, streams too.
"""

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.quality.figures import Price, dollars

_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


@dataclass(slots=True)
class Meter:
    """Counts of what passed so far. `max_usd` is the price after which requests are refused with 402."""

    prices: Mapping[str, Price]
    max_usd: float | None = None
    requests: int = 0
    tokens_of: dict[str, list[int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def usd(self) -> float:
        """Dollars spent on models whose price is known."""
        return dollars({name: one for name, one in self.tokens_of.items() if name in self.prices}, self.prices) or 0.0

    @property
    def is_spent(self) -> bool:
        """Whether nothing more may be sent."""
        return self.max_usd is not None and self.usd >= self.max_usd

    def count(self, model: str, reply: bytes) -> None:
        """Counts a request and the tokens in the last usage of its reply."""
        found = _USAGE.findall(reply)
        usage = json.loads(found[-1]) if found else {}
        with self.lock:
            self.requests += 1
            tokens = self.tokens_of.setdefault(model, [0, 0])
            tokens[0] += usage.get("prompt_tokens") or 0
            tokens[1] += usage.get("completion_tokens") or 0


@contextmanager
def metered(base_url: str, api_key: str, meter: Meter, *, seconds: float = 600.0) -> Iterator[str]:
    """Runs the proxy on a thread; yields its base URL. A request upstream may take so many seconds."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._forward(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if meter.is_spent:
                said = json.dumps({"error": {"message": f"{meter.max_usd} dollars are spent: raise --max-usd"}})
                self._reply(402, said.encode(), "application/json")
                return
            self._forward(body)

        def _forward(self, body: bytes | None) -> None:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}
            url = base_url.rstrip("/") + self.path.removeprefix("/v1")
            request = urllib.request.Request(url, body, headers)  # noqa: S310 # the user's address
            try:
                with urllib.request.urlopen(request, timeout=seconds) as reply:  # noqa: S310 # the user's address
                    status, data, kind = reply.status, reply.read(), reply.headers.get("Content-Type", "")
            except urllib.error.HTTPError as error:
                status, data, kind = error.code, error.read(), error.headers.get("Content-Type", "")
            except OSError as error:
                status, data, kind = 502, json.dumps({"error": {"message": str(error)}}).encode(), "application/json"
            if body is not None:
                meter.count(str(json.loads(body).get("model")), data)
            self._reply(status, data, kind)

        def _reply(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="metering", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)

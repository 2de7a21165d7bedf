"""A scripted OpenAI-compatible server on loopback, for tests, benchmarks and trying things by hand.

It replies with what a function of the request says, counts requests and tokens (GET /counts tells them), and can be
made as awkward as real servers are: wrong keys, unknown models, rate limits, server errors, latency, broken
connections, empty replies, windows, dialects.

    async with OpenAIServer(lambda request: "hello") as server: ...          # in this event loop
    with OpenAIServer(good_root).run_in_thread() as server: ...                  # beside it, for other processes
    python -m tests.peers.good_root --port 8000 --latency 0.1                # by hand, as a good root model

Plain asyncio streams rather than a framework: a reply costs 0.1 ms, so that benchmarks measure the client.
"""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self
from urllib.request import urlopen

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it arrived. `number` counts requests for completions, from 0."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: JSON
    sender: str = ""
    """the address that it came from"""
    at: float = 0.0
    """time.monotonic() when it had arrived"""

    @property
    def messages(self) -> list[JSON]:
        """The chat, of either API."""
        messages: list[JSON] = self.body.get("messages") or self.body.get("input") or []
        return messages

    @property
    def last(self) -> str:
        """The text of the last message."""
        return str(self.messages[-1]["content"]) if self.messages else ""

    @property
    def turn(self) -> int:
        """The number of the turn that a root model is asked for, from 1."""
        return [message["role"] for message in self.messages].count("assistant") + 1

    @property
    def text(self) -> str:
        """The texts of all messages."""
        return "\n".join(str(message["content"]) for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A reply with its particulars; behaviours may also return the bare text."""

    text: str
    reasoning: str = ""
    finish_reason: str = "stop"
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one request. `drop`: the connection breaks before the reply, or in the middle of it."""

    status: int | None = None
    message: str = "scripted fault"
    retry_after: float | None = None
    location: str | None = None
    latency: float | None = None
    drop: Literal["before", "during"] | None = None
    body: str | None = None
    """sent with status 200 instead of a reply"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """In which ways this server differs from the one of OpenAI."""

    length_name: Literal["max_tokens", "max_completion_tokens"] | None = None
    """the only name it takes; None takes both"""
    longest_reply: int | None = None
    system_role: bool = True
    temperature: bool = True
    structured: bool = True
    usage: bool = True
    stream_usage: bool = True
    stream_only: bool = False
    always_streams: bool = False
    responses_only: bool = False
    takes_turns: bool = False
    """refuses two messages of one role in a row, and an assistant message at the end"""
    window_tokens: int | None = None
    parts: bool = False
    """content as a list of parts"""


Behaviour = Callable[[Request], "str | Said | Fault"]
Faults = Mapping[int, Fault] | Callable[[Request], Fault | None]


@dataclass(slots=True)
class Counts:
    """What the server saw. Tokens are those of replies that were sent to the last byte."""

    requests: int = 0
    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    aborted: int = 0
    """connections that the client closed before the reply was sent"""
    aborted_at: float = 0.0
    """time.monotonic() when the last of them was seen"""
    last_byte_in: float = 0.0
    """time.monotonic() of the last byte received"""
    tokens_of: dict[str, list[int]] = field(default_factory=dict)
    """prompt and completion tokens by model"""


def count_tokens(text: str) -> int:
    """This server's tokens: four bytes each, rounded up."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


class OpenAIServer:
    """The server. `requests` keeps every request for a completion; `counts` the sums."""

    def __init__(
        self,
        behaviour: Behaviour | Sequence[str | Said | Fault],
        *,
        faults: Faults | None = None,
        latency: float = 0.0,
        quirks: Quirks | None = None,
        models: Sequence[str] = ("scripted",),
        api_key: str | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        keep_requests: bool = True,
    ) -> None:
        """A sequence as behaviour is replied in order; its last entry is repeated."""
        self.requests: list[Request] = []
        self.counts = Counts()
        self.latency = latency
        self.quirks = quirks or Quirks()
        self.models = list(models)
        self._behaviour = behaviour if callable(behaviour) else _in_order(list(behaviour))
        self._faults = faults
        self._api_key = api_key
        self._address, self._port = address, port
        self._keep_requests = keep_requests
        self._numbers = itertools.count()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None, "the server has not been started"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def base_url(self) -> str:
        """What a client is configured with."""
        return f"http://{self._address}:{self.port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._address, self._port, backlog=1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    @contextmanager
    def run_in_thread(self) -> Iterator[Self]:
        """Runs it on a thread with an event loop of its own."""
        loop, started = asyncio.new_event_loop(), threading.Event()

        async def main() -> None:
            self._stop = asyncio.Event()
            async with self:
                started.set()
                await self._stop.wait()

        def run() -> None:
            loop.run_until_complete(main())
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

        thread = threading.Thread(target=run, name="openai-server", daemon=True)
        thread.start()
        assert started.wait(10), "the server did not start"
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(self._stop.set)
            thread.join(10)

    # --- HTTP -----------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (read := await self._read_request(reader)) is not None:
                await self._answer(*read, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, _Dropped):
            pass  # a cancelled connection ends like the others: asyncio logs one that ends by an exception
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _read_request(self, reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if method == "POST":
            self.counts.last_byte_in = time.monotonic()
        return method, path, headers, body

    async def _answer(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if self._api_key is not None and headers.get("authorization") != f"Bearer {self._api_key}":
            given = headers.get("authorization", "").removeprefix("Bearer ")
            message = f"Incorrect API key provided: {given}. You can find your API key in your account."
            return await _send_error(writer, 401, message, code="invalid_api_key")
        if path == "/counts":
            told = asdict(self.counts) | {"cpu_seconds": time.process_time()}
            return await _send(writer, 200, json.dumps(told))
        if path == "/v1/models":
            rows = [{"id": name, "object": "model", "max_model_len": self.quirks.window_tokens} for name in self.models]
            return await _send(writer, 200, json.dumps({"object": "list", "data": rows}))
        endpoint = "/v1/responses" if self.quirks.responses_only else "/v1/chat/completions"
        if method != "POST" or path != endpoint:
            return await _send_error(writer, 404, "Not Found")
        request = Request(
            number=next(self._numbers), path=path, headers=headers, body=json.loads(body),
            sender=writer.get_extra_info("peername")[0], at=time.monotonic(),
        )  # fmt: skip
        if self._keep_requests:
            self.requests.append(request)
        async with self._counted(reader):
            await self._complete(request, reader, writer)
        return None

    @asynccontextmanager
    async def _counted(self, reader: asyncio.StreamReader) -> AsyncIterator[None]:
        """Counts a request in flight, and breaks it off when the client has gone."""
        counts = self.counts
        counts.requests += 1
        counts.in_flight += 1
        counts.most_in_flight = max(counts.most_in_flight, counts.in_flight)
        try:
            yield
        finally:
            counts.in_flight -= 1
            if reader.at_eof():
                counts.aborted += 1
                counts.aborted_at = time.monotonic()

    async def _complete(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self._fault(request)
        await _pause(self.latency if fault is None or fault.latency is None else fault.latency, reader)
        if fault is not None and await self._go_wrong(fault, writer):
            return
        prompt_tokens = sum(count_tokens(str(message["content"])) for message in request.messages)
        if (refused := self._refuse(request, prompt_tokens)) is not None:
            await _send_error(writer, *refused)
            return
        said = self._behaviour(request)
        if isinstance(said, Fault):
            await self._go_wrong(said, writer)
            return
        said = _cut(Said(text=said) if isinstance(said, str) else said, request.body)
        await self._reply(request, said, prompt_tokens, writer, drop=fault is not None and fault.drop == "during")

    def _refuse(self, request: Request, prompt_tokens: int) -> tuple[int, str, str] | None:
        """Status, message and code of a request that this server does not take."""
        if (complaint := complain(request.body, self.quirks)) is not None:
            return 400, complaint, "invalid_request_error"
        if (model := request.body.get("model")) not in self.models:
            return 404, f"The model `{model}` does not exist or you do not have access to it.", "model_not_found"
        window = self.quirks.window_tokens
        if window is not None and prompt_tokens > window:
            message = (
                f"This model's maximum context length is {window} tokens. However, your messages resulted in"
                f" {prompt_tokens} tokens. Please reduce the length of the messages."
            )
            return 400, message, "context_length_exceeded"
        return None

    def _fault(self, request: Request) -> Fault | None:
        if self._faults is None:
            return None
        return self._faults(request) if callable(self._faults) else self._faults.get(request.number)

    async def _go_wrong(self, fault: Fault, writer: asyncio.StreamWriter) -> bool:
        """Whether the fault has taken the place of a reply."""
        if fault.drop == "before":
            raise _Dropped
        if fault.body is not None:
            await _send(writer, 200, fault.body)
            return True
        if fault.status is not None:
            await _send_error(
                writer, fault.status, fault.message, retry_after=fault.retry_after, location=fault.location
            )
            return True
        return False

    async def _reply(
        self, request: Request, said: Said, prompt_tokens: int, writer: asyncio.StreamWriter, *, drop: bool
    ) -> None:
        completion_tokens = count_tokens(said.text) + count_tokens(said.reasoning)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }
        if said.cost is not None:
            usage["cost"] = said.cost  # type: ignore[assignment] # dollars stand among the counts on the wire too
        if self.quirks.responses_only:
            body, kind = _responses_body(request, said, usage), "application/json"
        elif request.body.get("stream") or self.quirks.always_streams:
            body, kind = _stream_body(request, said, usage, self.quirks), "text/event-stream"
        else:
            body, kind = _chat_body(request, said, usage, self.quirks), "application/json"
        if drop:
            writer.write(_head(200, kind, len(body.encode())) + body.encode()[: len(body) // 2])
            await writer.drain()
            raise _Dropped
        await _send(writer, 200, body, kind=kind)
        self.counts.replies += 1
        self.counts.prompt_tokens += prompt_tokens
        self.counts.completion_tokens += completion_tokens
        tokens = self.counts.tokens_of.setdefault(str(request.body["model"]), [0, 0])
        tokens[0] += prompt_tokens
        tokens[1] += completion_tokens


class _Dropped(Exception):
    """The connection is broken on purpose."""


async def _pause(seconds: float, reader: asyncio.StreamReader) -> None:
    """A long latency ends when the client has gone; a short one is as exact as it can be."""
    if seconds < 1:
        return await asyncio.sleep(seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if reader.at_eof():
            raise _Dropped
        await asyncio.sleep(0.005)
    return None


def complain(body: JSON, quirks: Quirks) -> str | None:
    """What a server with these quirks says against a request."""
    messages = body.get("messages") or body.get("input") or []
    roles = [message["role"] for message in messages]
    if quirks.length_name is not None:
        other = "max_completion_tokens" if quirks.length_name == "max_tokens" else "max_tokens"
        if other in body:
            return f"Unsupported parameter: '{other}' is not supported. Use '{quirks.length_name}' instead."
    longest = body.get("max_tokens") or body.get("max_completion_tokens")
    if quirks.longest_reply is not None and longest is not None and longest > quirks.longest_reply:
        return (
            f"max_tokens is too large: {longest}. This model supports at most {quirks.longest_reply} completion tokens."
        )
    if not quirks.system_role and "system" in roles:
        return "System role not supported"
    if not quirks.temperature and "temperature" in body:
        return "Unsupported value: 'temperature' does not support this value with this model."
    if not quirks.structured and "response_format" in body:
        return "This response_format type is unavailable now"
    if quirks.stream_only and not body.get("stream"):
        return "This model only supports streaming: set stream=true"
    if not quirks.stream_usage and "stream_options" in body:
        return "Unknown parameter: 'stream_options'"
    if quirks.takes_turns and any(one == two for one, two in itertools.pairwise(roles)):
        return "Conversation roles must alternate user/assistant/user/assistant/..."
    if quirks.takes_turns and roles and roles[-1] == "assistant":
        return "Cannot have an assistant message at the end of the list of messages"
    return None


def _cut(said: Said, body: JSON) -> Said:
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_output_tokens")
    if limit is None or count_tokens(said.text) <= limit:
        return said
    return replace(said, text=said.text[: limit * 4], finish_reason="length")


def _chat_body(request: Request, said: Said, usage: JSON, quirks: Quirks) -> str:
    message: JSON = {
        "role": "assistant",
        "content": [{"type": "text", "text": said.text}] if quirks.parts else said.text,
    }
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    choice = {"index": 0, "message": message, "finish_reason": said.finish_reason}
    body: JSON = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": request.body["model"],
        "choices": [choice],
    }
    if quirks.usage:
        body["usage"] = usage
    return json.dumps(body)


def _stream_body(request: Request, said: Said, usage: JSON, quirks: Quirks) -> str:
    def chunk(delta: JSON, finish: str | None = None) -> JSON:
        return {"model": request.body["model"], "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    third = len(said.text) // 3 + 1
    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"reasoning_content": said.reasoning})] if said.reasoning else []
    chunks += [chunk({"content": said.text[start : start + third]}) for start in range(0, len(said.text), third)]
    chunks += [chunk({}, said.finish_reason)]
    if quirks.usage and (request.body.get("stream_options") or {}).get("include_usage"):
        chunks += [{"model": request.body["model"], "choices": [], "usage": usage}]
    return "".join(f"data: {json.dumps(part)}\n\n" for part in chunks) + "data: [DONE]\n\n"


def _responses_body(request: Request, said: Said, usage: JSON) -> str:
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said.text}]}]
    counted = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    cut = {"reason": "max_output_tokens"} if said.finish_reason == "length" else None
    return json.dumps(
        {"id": "r", "model": request.body["model"], "output": output, "usage": counted, "incomplete_details": cut}
    )


def _head(status: int, kind: str, length: int, extra: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} Scripted\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{extra}"
        "connection: keep-alive\r\n\r\n"
    ).encode("latin-1")


async def _send(
    writer: asyncio.StreamWriter, status: int, body: str, *, kind: str = "application/json", extra: str = ""
) -> None:
    data = body.encode()
    if writer.is_closing():
        raise _Dropped
    writer.write(_head(status, kind, len(data), extra) + data)
    await writer.drain()


async def _send_error(
    writer: asyncio.StreamWriter,
    status: int,
    message: str,
    code: str | None = None,
    *,
    retry_after: float | None = None,
    location: str | None = None,
) -> None:
    extra = "" if retry_after is None else f"retry-after: {retry_after:g}\r\n"
    extra += "" if location is None else f"location: {location}\r\n"
    body = json.dumps({"error": {"message": message, "type": "scripted", "param": None, "code": code}})
    await _send(writer, status, body, extra=extra)


def _in_order(replies: list[str | Said | Fault]) -> Behaviour:
    numbers = itertools.count()
    return lambda request: replies[min(next(numbers), len(replies) - 1)]


def counts_at(url: str) -> JSON:
    """The counts of a server in another process, by its base URL."""
    with urlopen(url.removesuffix("/v1") + "/counts") as response:  # noqa: S310 # our own server
        found: JSON = json.loads(response.read())
    return found

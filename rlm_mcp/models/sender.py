"""Sends requests to a model endpoint with the `openai` library over its aiohttp transport.

This is the only file that imports `openai`, which takes 0.5 s; it is therefore imported when a model is first called.

A batch of sub-calls is bounded by the processor time of a request: 0.6 ms with 64 connections to a server on loopback,
against 1.0 ms over the library's default transport. Three things keep it low: all options of a request are given, the
headers about this machine are omitted, and URL and body are passed complete.
"""

import asyncio
import json
import os
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import cache, partial
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import httpx2
import openai
from openai import Omit, RequestOptions

from rlm_mcp.models.connections import Connections
from rlm_mcp.models.exchange import (
    CONNECT_SECONDS,
    LATE_SECONDS,
    REPLY_SECONDS,
    HTTPResponse,
    NoResponse,
    endpoint_url,
    takes_azure_key,
)
from rlm_mcp.models.limiter import MOST
from rlm_mcp.models.passed_sockets import OverPassedSockets
from rlm_mcp.models.profiles import is_local
from rlm_mcp.models.retries import retry_after_seconds
from rlm_mcp.redact import Secret

# Common servers close an idle connection after five seconds.
IDLE_SECONDS = 4.0
# A reply is text and never this long, neither on the wire nor unpacked.
MOST_BODY_BYTES = 64 << 20


class Sender:
    """Sends requests to one endpoint, any number at once. Close it with `aclose`."""

    def __init__(
        self,
        base_url: str,
        api_key: Secret,
        *,
        late_seconds: float = LATE_SECONDS,
        reply_seconds: float = REPLY_SECONDS,
        connections: Connections | None = None,
    ) -> None:
        """Opens its own connections without `connections`."""
        self.base_url = base_url.rstrip("/")
        self._late_seconds = late_seconds
        self._reply_seconds = reply_seconds
        local = is_local(base_url)
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS)  # `pool` bounds connecting, too
        self._options = _options(timeout, base_url, api_key, local=local)
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key.reveal() or "none",  # the library refuses an empty one
            max_retries=0,  # retries.py decides, so that every request is counted and the limiter sees every 429
            http_client=_client_class(connections)(
                timeout=timeout,
                # Never reached: the limiter permits MOST requests at once.
                limits=httpx2.Limits(
                    max_connections=2 * MOST, max_keepalive_connections=MOST, keepalive_expiry=IDLE_SECONDS
                ),
                verify=_tls_context(trust_env=not local),
                trust_env=not local,  # a proxy from the environment does not apply to this machine
                follow_redirects=False,  # prompts and the key go to the configured host only
                event_hooks={"response": [_bound_body]},
            ),
        )

    def __repr__(self) -> str:
        return f"<Sender to {self.base_url}>"

    async def send(self, path: str, body: Mapping[str, Any] | None) -> HTTPResponse | NoResponse:
        """Sends one POST with `body`, or a GET if it is None.

        When the caller is cancelled, this still returns a response that arrives within `late_seconds`; the cancellation
        takes effect where the caller next waits. Otherwise the connection is closed, so that the server stops working.
        """
        return await _finished(partial(self._send, path, body), self._reply_seconds, self._late_seconds)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _send(self, path: str, body: Mapping[str, Any] | None) -> HTTPResponse | NoResponse:
        url = endpoint_url(self.base_url, path)
        try:
            if body is None:
                response = await self._client.get(url, cast_to=httpx2.Response, options=self._options)
            else:
                content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
                response = await self._client.post(url, cast_to=httpx2.Response, content=content, options=self._options)
        except openai.APIStatusError as error:
            response = error.response
        except (openai.APIConnectionError, aiohttp.ClientError) as error:  # the library does not wrap all of aiohttp's
            return _no_response(error)
        return HTTPResponse(
            status=response.status_code,
            text=response.content.decode("utf-8", "replace"),
            retry_after=retry_after_seconds(response.headers),
            location=response.headers.get("location", ""),
        )


def _options(timeout: httpx2.Timeout, base_url: str, api_key: Secret, *, local: bool) -> RequestOptions:
    """Returns the options of every request. All are given: the library copies a default for each missing one."""
    about_us = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
    headers: dict[str, str | Omit] = {
        f"X-Stainless-{name}": Omit() for name in (*about_us, "Retry-Count", "Read-Timeout")
    }
    headers["Accept-Encoding"] = "gzip"  # the only one that _BoundedBody unpacks
    if takes_azure_key(base_url, api_key.reveal()):
        headers |= {"Authorization": Omit(), "api-key": api_key.reveal()}
    elif not api_key:
        headers["Authorization"] = Omit()
    if local:  # names at OpenAI, which the library reads from the environment
        headers |= {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
    return {
        "headers": headers,
        "max_retries": 0,
        "timeout": timeout,
        "params": {},
        "follow_redirects": False,
        "security": {"bearer_auth": True},
        "synthesize_event_and_data": False,
        "stream_mode": "legacy",
    }


class _BoundedBody(httpx2.AsyncByteStream):
    """The body of a response, unpacked; reading fails once it is longer than MOST_BODY_BYTES.

    It is unpacked here because the library would unpack a chunk whole: 1 MB of gzip may hold 1 GB.
    """

    def __init__(self, stream: httpx2.AsyncByteStream, *, packed: bool) -> None:
        self._stream = stream
        self._gzip = zlib.decompressobj(16 + zlib.MAX_WBITS) if packed else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        wire = size = 0
        async for chunk in self._stream:
            wire += len(chunk)
            _require_bounded(wire)
            text = self._unpack(chunk, MOST_BODY_BYTES + 1 - size)
            size += len(text)
            _require_bounded(size)
            yield text
        if self._gzip is not None and wire and not self._gzip.eof:
            raise httpx2.ReadError("a gzip body that breaks off")

    def _unpack(self, chunk: bytes, most: int) -> bytes:
        if self._gzip is None:
            return chunk
        try:
            return self._gzip.decompress(chunk, most)
        except zlib.error as error:
            raise httpx2.ReadError(f"a body that is not gzip as its header says ({error})") from error

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound_body(response: httpx2.Response) -> None:
    length = response.headers.get("content-length", "").lstrip("0")
    if length.isdecimal():
        _require_bounded(int(length[:20]))
    packing = response.headers.pop("content-encoding", "identity").strip().lower()
    if packing not in {"gzip", "x-gzip", "identity", ""}:
        raise httpx2.ReadError(f"a body packed as {packing[:40]!r}, though only gzip was asked for")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _BoundedBody(response.stream, packed="gzip" in packing)


def _require_bounded(size: int) -> None:
    if size > MOST_BODY_BYTES:
        raise httpx2.ReadError(f"a body of more than {MOST_BODY_BYTES} bytes")


@cache
def _tls_context(*, trust_env: bool) -> ssl.SSLContext:
    """The certificates of authorities, which all senders share: reading them takes 30 ms."""
    return httpx2.create_ssl_context(trust_env=trust_env)


class _PassedSocketClient(OverPassedSockets, openai.DefaultAioHttpClient):
    """The client over aiohttp, for a process that has no network of its own."""


def _client_class(connections: Connections | None) -> Callable[..., httpx2.AsyncClient]:
    """Returns the client over aiohttp, or the default one on event loops on which aiohttp does not run."""
    if connections is not None:
        return partial(_PassedSocketClient, connections)
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # trio
        return openai.DefaultAsyncHttpxClient
    return openai.DefaultAioHttpClient


async def _finished(
    send: Callable[[], Awaitable[HTTPResponse | NoResponse]], reply_seconds: float, late_seconds: float
) -> HTTPResponse | NoResponse:
    """Awaits `send` for `reply_seconds`. Once the caller is cancelled, `send` has `late_seconds` left."""
    results: list[HTTPResponse | NoResponse] = []
    done = anyio.Event()
    shield = anyio.CancelScope(shield=True, deadline=anyio.current_time() + reply_seconds)

    async def run() -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()  # nothing has been sent yet
        with shield:
            results.append(await send())
        done.set()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            try:
                await done.wait()
            finally:
                shield.deadline = min(shield.deadline, anyio.current_time() + late_seconds)
    except anyio.get_cancelled_exc_class():
        if not results:
            raise
    if results:
        return results[0]
    return NoResponse(kind="timeout", why=f"{reply_seconds:g} s have passed", sent=True)


def _no_response(error: Exception) -> NoResponse:
    """Translates an exception of the library, which wraps one of httpx2, which wraps one of aiohttp."""
    cause: BaseException = error
    while isinstance(cause.__cause__, httpx2.HTTPError | aiohttp.ClientError):
        cause = cause.__cause__
    match cause:
        case aiohttp.ConnectionTimeoutError() | httpx2.ConnectTimeout():
            return NoResponse(kind="unreachable", why=f"{CONNECT_SECONDS:g} s have passed", sent=False)
        case aiohttp.ClientConnectorError():
            return NoResponse(kind="unreachable", why=_reason(cause.os_error), sent=False)
        case httpx2.ConnectError() | aiohttp.ClientHttpProxyError():
            return NoResponse(kind="unreachable", why=str(cause), sent=False)
        case aiohttp.ClientResponseError():
            return NoResponse(kind="broken", why=f"not HTTP: {cause.message}", sent=True)
    return NoResponse(kind="broken", why=str(cause) or type(cause).__name__, sent=True)


def _reason(error: OSError) -> str:
    """Returns the operating system's words for an error, in place of asyncio's."""
    if error.errno and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__

"""The TCP connections of workers, which have no network of their own.

A worker asks over a unix socket that it inherited. The broker, in the front, looks the host up, connects, and passes
the connected socket by SCM_RIGHTS; from then on the worker speaks TLS and HTTP over it by itself. Only the hosts and
ports that the settings name are connected to (`allowed_destinations`).

    worker   {"host", "port"} and one end of a new socket pair  ->   broker
    worker   <-  over that pair: the connected socket, or {"reason", "errno"}

Each request brings its own way back, so that any thread of a worker may ask, and the broker waits for none of them: an
answer that cannot be sent at once is dropped. A socket is passed only once it is connected: a worker cannot connect it
to another address (system_calls.py). Requests of one worker are taken one by one with a pause after each, and a bounded
number of them at a time; more of them wait in the socket and stop that worker alone.
"""

import errno
import json
import logging
import os
import re
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohappyeyeballs
import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from rlm_mcp.models.discovery import USUAL_PORTS
from rlm_mcp.models.exchange import CONNECT_SECONDS
from rlm_mcp.settings import OPENAI_BASE_URL, Settings

log = logging.getLogger(__name__)

Destination = tuple[str, int]
"""A host as it is in a URL, in lower case and without brackets, and a port."""
Connect = Callable[[str, int], Awaitable[socket.socket]]

AddressInfo = tuple[Any, ...]
"""As `getaddrinfo` returns them."""
LookUp = Callable[[str, int], list[AddressInfo]]
Clock = Callable[[], float]

MOST_BYTES, MOST_REASON_CHARS = 2_048, 300
"""Size of one message, and of the reason in it, in which a character may take four bytes."""
MOST_OPENING = 64
"""Connections that are being opened for one worker. One that takes long holds up no other before that."""
PAUSE_SECONDS, REFUSED_SECONDS = 0.001, 0.1
"""After each request, and after one that is refused: a worker that asks all the time takes little of the front."""
ADDRESS_SECONDS = 10.0
"""How long the addresses of a host are used, as in aiohttp. They are looked up again once none of them answers."""

FULL_SECONDS = 0.01
"""Before a worker asks again when MOST_OPENING and all that fits into the socket wait already."""
EYEBALLS_SECONDS = 0.25
"""Before the next address of a host is tried as well, as RFC 8305 recommends."""
REFUSED = (
    "this server connects only to the endpoints, proxies and collectors in its settings, and {host}:{port} is none of"
    " them: set RLM_MCP_BASE_URL"
)

_INT = struct.Struct("i")

_CERTIFICATES = re.compile(
    r"SSL_CERT_(?:FILE|DIR)|(?:REQUESTS|CURL)_CA_BUNDLE"
    r"|OTEL_EXPORTER_OTLP_(?:TRACES_)?(?:CERTIFICATE|CLIENT_KEY|CLIENT_CERTIFICATE)"
)

DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
OTLP_URL = "http://localhost:4318"
"""The address to which OpenTelemetry sends spans unless a variable names another address."""


def egress_pair() -> tuple[socket.socket, socket.socket] | None:
    """The broker's and a worker's end; None on systems that do not confine workers, where they use the network."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) if sys.platform == "linux" else None


# --- what is allowed ----------------------------------------------------------------------------------------------


def allowed_destinations(
    settings: Settings, environ: Mapping[str, str], others: Iterable[str] = ()
) -> frozenset[Destination]:
    """The endpoints of models, proxies, and where spans are sent. `others` are URLs or HOST:PORT of the operator."""
    urls = [settings.base_url, settings.sub_base_url, *others]
    if settings.base_url is None and (settings.api_key or settings.sub_api_key):
        urls.append(OPENAI_BASE_URL)
    if settings.base_url is None and not settings.api_key:
        urls.extend(f"http://127.0.0.1:{port}" for _, port in USUAL_PORTS)
    variables = {name.lower(): value for name, value in environ.items()}
    urls.extend(variables.get(f"{scheme}_proxy") for scheme in ("http", "https", "all"))
    if settings.traces:
        named = [variables.get(f"otel_exporter_otlp_{name}endpoint") for name in ("traces_", "")]
        urls.append(next(filter(None, named), OTLP_URL))
    return frozenset(destination_of(url) for url in urls if url)


def certificate_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The files and directories that variables name for TLS, which a worker speaks: authorities, and its own key."""
    return tuple(Path(value) for name, value in environ.items() if value and _CERTIFICATES.fullmatch(name))


def destination_of(url: str) -> Destination:
    """The host and port to which a URL leads. Raises ValueError for a port that is not a number."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    return _plain(parts.hostname or ""), parts.port or DEFAULT_PORTS.get(parts.scheme, 443)


def _plain(host: str) -> str:
    with suppress(UnicodeError):
        host = host.encode("idna").decode()
    return host.lower().rstrip(".")


# --- the broker ---------------------------------------------------------------------------------------------------


class EgressBroker:
    """Opens connections for all workers of this process, on its event loop."""

    def __init__(self, allowed: Collection[Destination], *, connect: Connect | None = None) -> None:
        self._allowed = frozenset(allowed)
        self._connect = connect or Dialer().connect

    def __repr__(self) -> str:
        return f"<EgressBroker to {sorted(self._allowed)}>"

    async def serve(self, channel: socket.socket) -> None:
        """Serves the worker with the other end of `channel` until it ends, and closes `channel`.

        A fault of ours, to which a worker may have led, is logged and ends the service of that worker alone.
        """
        channel.settimeout(0)
        slots = anyio.Semaphore(MOST_OPENING)
        with channel:
            try:
                async with anyio.create_task_group() as tasks:
                    while await self._serve_one(channel, slots, tasks):
                        pass
                    tasks.cancel_scope.cancel()
            except Exception:  # whatever it is, it must not end the front
                log.exception("the broker failed, so a worker has no more connections")

    async def _serve_one(self, channel: socket.socket, slots: anyio.Semaphore, tasks: TaskGroup) -> bool:
        """Takes one request. False once the worker has closed its end."""
        await slots.acquire()
        await anyio.wait_readable(channel)
        try:
            message, passed = _received(channel)
        except OSError as error:
            log.warning("a worker has no more connections: %s", error)
            return False
        if not message:
            if passed is not None:
                passed.close()
            return False
        destination = _asked(message)
        if passed is not None and destination in self._allowed:
            tasks.start_soon(self._open, destination, passed, slots)
            await anyio.sleep(PAUSE_SECONDS)
            return True
        if passed is not None:
            with passed:
                _answer(passed, _error(REFUSED.format(host=destination[0][:100], port=destination[1])))
        slots.release()
        await anyio.sleep(REFUSED_SECONDS)
        return True

    async def _open(self, destination: Destination, way_back: socket.socket, slots: anyio.Semaphore) -> None:
        with way_back:
            try:
                with anyio.fail_after(CONNECT_SECONDS):
                    opened = await self._connect(*destination)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the front
                _answer(way_back, _failure(error))
            else:
                with opened:
                    _answer(way_back, b"\0", opened.fileno())
            finally:
                slots.release()


class Dialer:
    """Looks up host names and connects to the first address that answers.

    One name is looked up by one thread at a time, so a name server that does not answer holds up this name alone.
    """

    def __init__(self, *, look_up: LookUp | None = None, clock: Clock = time.monotonic) -> None:
        self._look_up = look_up or partial(socket.getaddrinfo, type=socket.SOCK_STREAM)
        self._clock = clock
        self._looking: defaultdict[Destination, anyio.Lock] = defaultdict(anyio.Lock)
        self._found: dict[Destination, tuple[list[AddressInfo], float]] = {}

    async def connect(self, host: str, port: int) -> socket.socket:
        """Returns a connected socket. Raises OSError."""
        try:
            return await aiohappyeyeballs.start_connection(
                await self._addresses(host, port), happy_eyeballs_delay=EYEBALLS_SECONDS
            )
        except OSError:
            self._found.pop((host, port), None)
            raise

    async def _addresses(self, host: str, port: int) -> list[AddressInfo]:
        async with self._looking[host, port]:
            found, at = self._found.get((host, port), ([], 0.0))
            if not found or self._clock() - at > ADDRESS_SECONDS:
                found = await anyio.to_thread.run_sync(self._look_up, host, port, abandon_on_cancel=True)
                self._found[host, port] = found, self._clock()
        return found


def _asked(message: bytes) -> Destination:
    """The destination of a request; one that is never allowed if it has none."""
    try:
        asked = json.loads(message)
        return _plain(str(asked["host"])), int(asked["port"])
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
        return "", 0


def _failure(error: Exception) -> bytes:
    match error:
        case TimeoutError():
            return _error(f"{CONNECT_SECONDS:g} s have passed", errno.ETIMEDOUT)
        case socket.gaierror():  # its numbers are none of the system's
            return _error(error.strerror or str(error))
        case OSError():
            return _error(error.strerror or str(error), error.errno or 0)
    return _error(f"{type(error).__name__}: {error}")


def _error(reason: str, number: int = 0) -> bytes:
    text = json.dumps({"reason": reason[:MOST_REASON_CHARS], "errno": number}, ensure_ascii=False)
    return text.encode("utf-8", "replace")  # a worker may ask for half of a surrogate pair


def _answer(way_back: socket.socket, message: bytes, *descriptors: int) -> None:
    with suppress(OSError):  # the worker no longer waits, or has passed something else
        _send(way_back, message, descriptors, socket.MSG_DONTWAIT)


# --- the worker ---------------------------------------------------------------------------------------------------


class Egress:
    """The connections of a worker, which the broker opens: see `Connections`. Made of the worker's end of the pair."""

    def __init__(self, channel: socket.socket) -> None:
        channel.settimeout(None)
        self._channel = channel

    def __repr__(self) -> str:
        return f"<Egress over descriptor {self._channel.fileno()}>"

    async def connect(self, host: str, port: int) -> socket.socket:
        """Returns a connected socket, which the caller closes. Raises OSError with the reason."""
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                while not self._ask(host, port, theirs):  # noqa: ASYNC110 - anyio lets one task wait
                    await anyio.sleep(FULL_SECONDS)
            await anyio.wait_readable(mine)
            return _opened(mine)

    def connect_now(self, host: str, port: int, seconds: float) -> socket.socket:
        """Does the same on a worker thread, where it blocks for at most `seconds`."""
        end = time.monotonic() + seconds
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                while not self._ask(host, port, theirs):
                    time.sleep(min(FULL_SECONDS, _left_until(end)))
            mine.settimeout(_left_until(end))
            return _opened(mine)

    def _ask(self, host: str, port: int, way_back: socket.socket) -> bool:
        """Sends a request. False if as many are waiting as the channel takes."""
        message = json.dumps({"host": host, "port": port}).encode()
        try:
            _send(self._channel, message, [way_back.fileno()], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True


def _left_until(end: float) -> float:
    """The seconds until `end`. Raises TimeoutError when it has passed."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    return left


def _opened(way_back: socket.socket) -> socket.socket:
    message, passed = _received(way_back)
    if passed is not None:
        return passed
    if not message:
        raise ConnectionAbortedError(errno.ECONNABORTED, "the server has ended, or has no file descriptors left")
    error = json.loads(message)
    raise OSError(error["errno"], error["reason"]) if error["errno"] else OSError(error["reason"])


# --- messages of both ---------------------------------------------------------------------------------------------


def _send(channel: socket.socket, message: bytes, descriptors: Sequence[int], flags: int) -> None:
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
    channel.sendmsg([message], control if descriptors else [], flags)


def _received(channel: socket.socket) -> tuple[bytes, socket.socket | None]:
    """One message, empty at the end, and the socket that came with it, if any. Raises TimeoutError."""
    try:
        # For one descriptor: the kernel drops the others of a message.
        message, control, _, _ = channel.recvmsg(MOST_BYTES, socket.CMSG_LEN(_INT.size), socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return b"", None
    for _, _, data in control:
        (descriptor,) = _INT.unpack(data)
        try:
            return message, socket.socket(fileno=descriptor)
        except OSError:  # not a socket
            os.close(descriptor)
    return message, None

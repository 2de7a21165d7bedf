"""A file over https: bounded in bytes, time and redirects, and fetched from checked addresses only.

The body is stored as it was sent. If the server has packed it against the request, it is unpacked later like any
compressed file, within the limits for bombs.
"""

import asyncio
import errno
import hashlib
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from rlm_mcp.contexts.processes import POLL_SECONDS
from rlm_mcp.contexts.sources.address import RemoteAddress, resolve_redirect
from rlm_mcp.contexts.sources.remote import CONNECT_SECONDS, IDLE_SECONDS, MAX_REDIRECTS, RemoteAccess, find_addresses
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.errors import SourceRefused
from rlm_mcp.redact import ellipsize, escape_controls
from rlm_mcp.version import __version__

CHUNK_BYTES = 1 << 18
CLOSING_TURNS = 3
"""Turns of the event loop in which a connection is closed whose socket was shut down."""
HEADER_CHARS = 200
"""Length of a header that is recorded."""

GIT_SERVICE = "service=git-upload-pack"
_ADVERTISEMENT = "application/x-git-upload-pack-advertisement"

_STORED_AS_SENT = frozenset({"", "identity", "gzip", "x-gzip", "zstd"})
"""Encodings of a body that are found by its content when it is read."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A fetched file, and the version that the server reported for it."""

    address: RemoteAddress
    """after redirects"""
    bytes: int
    sha256: str
    etag: str = ""
    last_modified: str = ""


def download(
    address: RemoteAddress, to: Path, access: RemoteAccess, *, check_cancelled: Callable[[], None]
) -> Download:
    """Fetches a file. `check_cancelled` is called many times a second. Raises SourceRefused."""

    async def save(at: RemoteAddress, response: aiohttp.ClientResponse) -> Download:
        return await _save(at, response, to, access.most_bytes)

    return _follow(address, access, Timeout(access.seconds), save, check_cancelled)


def find_repository(
    address: RemoteAddress, access: RemoteAccess, timeout: Timeout, *, check_cancelled: Callable[[], None]
) -> RemoteAddress:
    """The address of a git repository over https once redirects are followed. Raises SourceRefused if none is there.

    Only the protocol of git's own servers is accepted, not that of plain files, which may name other servers.
    """

    async def check(at: RemoteAddress, response: aiohttp.ClientResponse) -> RemoteAddress:
        if response.content_type != _ADVERTISEMENT or not at.path.endswith("/info/refs"):
            raise SourceRefused(f"{address.shown} is not a git repository: register the address of a file without git+")
        return at

    asked = replace(address, kind="file", path=f"{address.path}/info/refs", query=GIT_SERVICE)
    found = _follow(asked, access, timeout, check, check_cancelled)
    return replace(_repository_at(found), revision=address.revision)


Use = Callable[[RemoteAddress, aiohttp.ClientResponse], Coroutine[Any, Any, _T]]


def _follow(
    address: RemoteAddress,
    access: RemoteAccess,
    timeout: Timeout,
    use: Use[_T],
    check_cancelled: Callable[[], None],
) -> _T:
    at = address
    for _ in range(MAX_REDIRECTS + 1):
        access.check_host(at)
        addresses = find_addresses(access, at, check_cancelled=check_cancelled)
        found: list[_T] = []
        location = _run(_request(at, addresses, access, timeout.seconds_left, use, found), check_cancelled, at)
        if location is None:
            return found[0]
        at = resolve_redirect(at, location)
    raise SourceRefused(f"{address.shown} redirects more than {MAX_REDIRECTS} times: check it in a browser")


def _run(work: Coroutine[Any, Any, _T], check_cancelled: Callable[[], None], address: RemoteAddress) -> _T:
    with suppress(asyncio.CancelledError):  # raised by `check_cancelled`, which raises it again below
        return asyncio.run(_until_cancelled(work, check_cancelled))
    check_cancelled()
    raise SourceRefused(f"fetching {address.shown} was interrupted: register it again")


async def _until_cancelled(work: Coroutine[Any, Any, _T], check_cancelled: Callable[[], None]) -> _T:
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=POLL_SECONDS))[0]:
            check_cancelled()
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(CLOSING_TURNS):
            await asyncio.sleep(0)


async def _request(
    address: RemoteAddress,
    addresses: Sequence[str],
    access: RemoteAccess,
    seconds: float,
    use: Use[_T],
    found: list[_T],
) -> str | None:
    """Sends one request. Returns where it redirects, or adds to `found` what `use` makes of the response."""
    sockets: list[socket.socket] = []
    connector = aiohttp.TCPConnector(
        resolver=_Pinned(addresses),
        socket_factory=lambda row: _checked_socket(row, access, sockets),
        ssl=ssl.create_default_context(cafile=access.ca_file),
        use_dns_cache=False,
    )
    timeout = aiohttp.ClientTimeout(
        total=max(seconds, 0.001),  # 0 would mean that there is no limit
        sock_connect=CONNECT_SECONDS,
        sock_read=IDLE_SECONDS,
    )
    headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"git/2 (rlm-mcp {__version__})"}
    if address.login:
        headers["Authorization"] = address.authorization.reveal()
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                auto_decompress=False,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            session.get(URL(address.url), headers=headers, allow_redirects=False) as response,
        ):
            if response.status in _REDIRECTS and response.headers.get("Location"):
                return response.headers["Location"]
            _check_status(address, response.status)
            found.append(await use(address, response))
            return None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise SourceRefused(f"{address.shown} cannot be fetched ({_reason(error, access)}): try again later") from None
    finally:  # TLS would else wait for the other side to say goodbye
        for used in sockets:
            with suppress(OSError):
                used.shutdown(socket.SHUT_RDWR)


def _check_status(address: RemoteAddress, status: int) -> None:
    if status == 200:
        return
    is_git = address.query == GIT_SERVICE
    match status:
        case 401 | 403 if is_git:
            remedy = "it needs a login, or does not exist: use git+ssh:// with a key of ssh, or register a clone"
        case 401 | 403:
            remedy = "it needs a login: download it yourself and register the file"
        case 404 | 410:
            remedy = "it does not exist there, or needs a login: check the address"
        case _:
            remedy = "try again later"
    shown = _repository_at(address).shown if is_git else address.shown
    raise SourceRefused(f"{shown} was answered with status {status}: {remedy}")


def _repository_at(asked: RemoteAddress) -> RemoteAddress:
    """The repository whose references were asked for."""
    return replace(asked, kind="git", path=asked.path.removesuffix("/info/refs"), query="")


async def _save(address: RemoteAddress, response: aiohttp.ClientResponse, to: Path, most: int) -> Download:
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _STORED_AS_SENT:
        shown = ellipsize(escape_controls(encoding), 40)
        raise SourceRefused(f"{address.shown} was sent packed as {shown!r}: download it yourself and register the file")
    if (response.content_length or 0) > most:
        raise _too_large(address, most)
    digest, size = hashlib.sha256(), 0
    with to.open("xb") as file:
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            if size > most:
                raise _too_large(address, most)
            digest.update(chunk)
            file.write(chunk)
    return Download(
        address=address,
        bytes=size,
        sha256=digest.hexdigest(),
        etag=_header(response, "ETag"),
        last_modified=_header(response, "Last-Modified"),
    )


def _too_large(address: RemoteAddress, most: int) -> SourceRefused:
    return SourceRefused(f"{address.shown} is larger than {most:,} bytes: download it yourself and register the file")


def _header(response: aiohttp.ClientResponse, name: str) -> str:
    return ellipsize(escape_controls(response.headers.get(name, "")), HEADER_CHARS)


def _reason(error: Exception, access: RemoteAccess) -> str:
    """The reason in words that hold no part of the address."""
    match error:
        case TimeoutError():
            return f"it took longer than {access.seconds:.0f} s, or sent nothing for {IDLE_SECONDS:.0f} s"
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not valid: {getattr(error.certificate_error, 'verify_message', 'unknown')}"
        case aiohttp.ClientConnectorError(os_error=OSError() as cause):
            return cause.strerror or type(cause).__name__
        case aiohttp.ClientResponseError():
            return "its reply is not valid HTTP"
        case aiohttp.ClientPayloadError():
            return "the transfer broke off"
        case OSError(strerror=str() as reason):
            return reason
    return type(error).__name__


class _Pinned(AbstractResolver):
    """Answers with the addresses that were checked, whatever the name leads to by now."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - of the interface
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=ip,
                port=port,
                family=socket.AF_INET6 if ":" in ip else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for ip in self._addresses
        ]

    async def close(self) -> None:
        pass


def _checked_socket(row: tuple[Any, ...], access: RemoteAccess, made_so_far: list[socket.socket]) -> socket.socket:
    """A socket for an address, which is checked once more as it is connected to."""
    family, kind, protocol, _, address = row
    if not access.allows(str(address[0])):
        raise OSError(errno.EACCES, "its address is not public")
    made = socket.socket(family, kind, protocol)
    made.settimeout(0)
    made_so_far.append(made)
    return made

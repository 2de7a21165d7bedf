"""Addresses of sources on other machines: a git repository or a file, and what of an address may be shown.

A password or token in an address is kept apart as a Secret. `shown` is the address without it: this is what records,
errors and logs get, and what `refresh` fetches again.
"""

import re
from base64 import b64encode
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urljoin, urlsplit

from rlm_mcp.errors import SourceRefused
from rlm_mcp.redact import MASK, Secret, ellipsize, escape_controls, without_keys

Scheme = Literal["https", "ssh", "git"]

PORTS: dict[str, int] = {"https": 443, "ssh": 22, "git": 9418}
MAX_ADDRESS_CHARS = 4_096
SHOWN_CHARS = 300

FORGES = frozenset({"github.com", "gitlab.com", "bitbucket.org", "codeberg.org"})
"""Where `https://HOST/OWNER/REPO` is a repository."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCP_LIKE = re.compile(r"([A-Za-z0-9_][\w.-]*)@([A-Za-z0-9][A-Za-z0-9.-]*):(?!//)([^\\]+)")
_HELPER = re.compile(r"(?:ext|fd|file|https?|ftps?|ssh|git)::")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\.?")
_USER = re.compile(r"[A-Za-z0-9_][\w.-]{0,63}")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[\w./+-]{0,253}[\w+-])?")
_SECRET_NAME = re.compile(r"key|token|secret|sig|passw|pwd|auth|credential|cookie|session|code|jwt", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAddress:
    """A source on another machine. `path` begins with a slash; `query` belongs to a file."""

    kind: Literal["git", "file"]
    scheme: Scheme
    host: str
    port: int
    path: str
    query: str = ""
    is_below_home: bool = False
    """of ssh: whether git takes `path` as relative to the home of `user`, as in `git@HOST:PATH`"""
    user: str = ""
    """of ssh, where it is no secret"""
    revision: str | None = None
    login: Secret = field(default_factory=lambda: Secret(""))
    """`user:password` for https"""

    @property
    def url(self) -> str:
        """The address to fetch, without login and revision."""
        return self.url_at(self.host)

    def url_at(self, host: str) -> str:
        """The same on a host of another name."""
        user = f"{self.user}@" if self.user else ""
        if self.is_below_home:
            return f"{user}{host}:{self.path[1:]}"
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{user}{f'[{host}]' if ':' in host else host}{port}{self.path}{query}"

    @property
    def shown(self) -> str:
        """The address as it may be shown and recorded, which names the same source if it held no secret."""
        url = self.url.partition("?")[0]
        is_plain = self.kind == "file" or self.scheme == "git" or self.is_below_home or _is_on_forge(self)
        prefix = "" if is_plain else "git+"
        revision = f"@{self.revision}" if self.revision else ""
        query = f"?{_masked_query(self.query)}" if self.query else ""
        return without_keys(f"{prefix}{url}{revision}{query}")

    @property
    def has_secret(self) -> bool:
        """Whether `shown` leaves out what fetching needs."""
        return bool(self.login) or MASK in self.shown or "[key]" in self.shown

    @property
    def name(self) -> str:
        """A name for the context."""
        last = unquote(self.path.rstrip("/").rpartition("/")[2]) or self.host
        if self.kind == "file":
            return last
        return last.removesuffix(".git") + (f"@{self.revision.replace('/', '-')}" if self.revision else "")

    @property
    def authorization(self) -> Secret:
        """The value of the header that logs in; empty without a login."""
        if not self.login:
            return Secret("")
        return Secret(f"Basic {b64encode(self.login.reveal().encode()).decode()}")


def is_address(source: str) -> bool:
    """Whether a source names something on another machine; `file:` addresses do not."""
    scheme = _SCHEME.match(source)
    if scheme is not None:
        return scheme[1].lower() != "file"
    return _SCP_LIKE.fullmatch(source) is not None or _HELPER.match(source) is not None


def shown_address(source: str) -> str:
    """An address without its secrets, also of a kind that is not fetched."""
    try:
        return ellipsize(parse_address(source).shown, SHOWN_CHARS)
    except SourceRefused:
        bare = re.sub(r"//[^/]*@", "//", source).partition("?")[0].partition("#")[0]
        return ellipsize(without_keys(escape_controls(bare)), SHOWN_CHARS)


def parse_address(source: str) -> RemoteAddress:
    """Reads an address. Raises SourceRefused, without the secrets in it."""
    if len(source) > MAX_ADDRESS_CHARS or not source.isprintable() or " " in source or "\\" in source:
        raise SourceRefused(
            f"the address of the source holds a blank, a backslash or a control character, or is over "
            f"{MAX_ADDRESS_CHARS:,} characters long: write its blanks as %20"
        )
    if scp := _SCP_LIKE.fullmatch(source):
        address = _git_address("ssh", _parts(f"ssh://{scp[1]}@{scp[2]}/{scp[3].removeprefix('/')}"))
        return replace(address, is_below_home=not scp[3].startswith("/"))
    written = _SCHEME.match(source)
    scheme = written[1].lower() if written else source.partition("::")[0]
    match scheme:
        case "https":
            return _https_address(_parts(source))
        case "git+https":
            return _git_address("https", _parts(source))
        case "ssh" | "git+ssh":
            return _git_address("ssh", _parts(source))
        case "git":
            return _git_address("git", _parts(source))
        case "http" | "git+http":
            raise SourceRefused("sources are not fetched over http, which anybody on the way can change: use https")
    raise SourceRefused(
        f"sources are not fetched by {scheme[:40]!r}: name an address that begins with https://, git+https://, "
        "git+ssh:// or git://"
    )


def resolve_redirect(address: RemoteAddress, location: str) -> RemoteAddress:
    """The address of a file to which another one redirects, without its login unless the host is the same."""
    try:
        target = urljoin(address.url, location)
    except ValueError as error:
        raise SourceRefused(f"{address.shown} redirects to what is no address: check it in a browser") from error
    if len(target) > MAX_ADDRESS_CHARS or not target.isprintable():
        raise SourceRefused(
            f"{address.shown} redirects to an address that holds a control character or bytes that are not UTF-8, or "
            f"is over {MAX_ADDRESS_CHARS:,} characters long: download the file yourself and register it"
        )
    if not target.lower().startswith("https://"):
        raise SourceRefused(f"{address.shown} redirects to an address without https: fetch the file yourself")
    found = _plain(_parts(target), "https", kind="file")
    same = (found.host, found.port) == (address.host, address.port)
    return replace(found, login=address.login if same else Secret(""))


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.partition("#")[0])
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or not _is_host(parts.hostname or ""):
        raise SourceRefused("the address of the source names no host: write, for example, https://example.org/file.txt")
    return parts


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _HOST.fullmatch(host) is not None
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _https_address(parts: SplitResult) -> RemoteAddress:
    address = _plain(parts, "https", kind="file")
    segments = [part for part in address.path.split("/") if part]
    if address.host in FORGES and len(segments) > 3 and segments[2] in {"blob", "raw"}:
        raise SourceRefused(
            f"{address.shown} is a page that shows a file: register the repository, "
            f"https://{address.host}/{segments[0]}/{segments[1]}@REVISION, or the address of the raw file"
        )
    if address.host in FORGES and len(segments) > 4 and segments[2] == "tree":
        raise SourceRefused(
            f"{address.shown} is a page that shows a folder, or a branch whose name has a slash: register the "
            f"repository, https://{address.host}/{segments[0]}/{segments[1]}@BRANCH"
        )
    if address.host in FORGES and len(segments) == 4 and segments[2] == "tree":
        return _git_address("https", parts, path=f"/{segments[0]}/{segments[1]}@{segments[3]}")
    is_repository = address.host in FORGES and len(address.path.partition("@")[0].strip("/").split("/")) == 2
    if is_repository or re.search(r"\.git/?(@|$)", address.path):
        return _git_address("https", parts)
    return address


def _git_address(scheme: Scheme, parts: SplitResult, *, path: str | None = None) -> RemoteAddress:
    address = _plain(parts, scheme, kind="git")
    path, at, revision = (path or address.path).rstrip("/").partition("@")
    if (at and not _is_revision(revision)) or not path.strip("/"):
        raise SourceRefused(
            "the address of the source names no repository, or its revision is neither a branch nor a tag nor a whole "
            "commit: write, for example, https://github.com/OWNER/REPO@v1.0"
        )
    return replace(address, path=path.rstrip("/"), query="", revision=revision or None)


def _is_revision(text: str) -> bool:
    return _REVISION.fullmatch(text) is not None and not any(bad in text for bad in ("..", "//", "/.", ".lock"))


def _plain(parts: SplitResult, scheme: Scheme, *, kind: Literal["git", "file"]) -> RemoteAddress:
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    is_ssh = scheme == "ssh"
    if is_ssh and (password or (user and not _USER.fullmatch(user))):
        raise SourceRefused("the address of the source has a password, which ssh does not take: use a key of ssh")
    return RemoteAddress(
        kind=kind,
        scheme=scheme,
        host=(parts.hostname or "").rstrip("."),
        port=parts.port or PORTS[scheme],
        path=parts.path or "/",
        query=parts.query,
        user=user if is_ssh else "",
        login=Secret(f"{user}:{password}" if scheme == "https" and (user or password) else ""),
    )


def _is_on_forge(address: RemoteAddress) -> bool:
    return address.scheme == "https" and address.host in FORGES and len(address.path.strip("/").split("/")) == 2


def _masked_query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    if not any(_holds_secret(name, value) for name, value in pairs):
        return query
    return urlencode([(name, MASK if _holds_secret(name, value) else value) for name, value in pairs], safe=MASK)


def _holds_secret(name: str, value: str) -> bool:
    """Whether a parameter looks like a secret. A value may hold parameters, after a `;` or of another address."""
    return bool(_SECRET_NAME.search(name) or ("=" in value and _SECRET_NAME.search(value)))

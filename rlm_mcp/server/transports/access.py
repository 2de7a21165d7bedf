"""Access to a server over HTTP: the tokens that it accepts, and the hosts under which browsers may reach it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl

from rlm_mcp.errors import SettingsError
from rlm_mcp.server.transports.addresses import is_loopback
from rlm_mcp.server.transports.token_file import read_token_file

if TYPE_CHECKING:
    from rlm_mcp.server.transports.issuer_keys import IssuerKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Which tokens are accepted, and where an OAuth client is told to get one."""

    verifier: TokenVerifier
    issuer: str
    resource: str | None = None
    names: Collection[str] | None = None
    """all tenants that have a token; None: only the issuer knows them"""
    keys: "IssuerKeys | None" = None
    """of the issuer, which the server keeps fresh while it runs"""

    def stop_waiting(self) -> None:
        """When the server ends: tokens that wait for the issuer are refused."""
        if self.keys is not None:
            self.keys.stop()

    def settings(self) -> AuthSettings:
        """The settings of the SDK. Static tokens have no authorization server, so no metadata that points to one."""
        return AuthSettings(
            issuer_url=AnyHttpUrl(self.issuer),
            resource_server_url=None if self.resource is None else AnyHttpUrl(self.resource),
            validate_token_resource=None if self.resource is None else True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessOptions:
    """The operator's choice, as on the command line of `serve --http`."""

    token_file: str | None = None
    oauth_issuer: str | None = None
    oauth_resource: str | None = None
    allowed_hosts: tuple[str, ...] = ()


async def open_access(options: AccessOptions, host: str, url: str) -> Access | None:
    """Reads the tokens, or finds the issuer. None: everybody has access.

    Raises SettingsError, as for an address that is reachable from other machines without a token.
    """
    if options.oauth_issuer is not None:
        # What checks signatures takes a tenth of a server's start, and token files do not need it.
        from rlm_mcp.server.transports.oauth_tokens import JwtVerifier, discover_issuer

        keys = await discover_issuer(options.oauth_issuer)
        resource = options.oauth_resource or f"{url}/mcp"
        verifier = JwtVerifier(options.oauth_issuer, resource, keys.key_for)
        return Access(verifier=verifier, issuer=options.oauth_issuer, resource=resource, keys=keys)
    if options.token_file is not None:
        tokens = read_token_file(Path(options.token_file))
        return Access(verifier=tokens, issuer=url, names=tokens.names)
    if not is_loopback(host):
        raise SettingsError(
            f"{host} can be reached from other machines: give --token-file (see `rlm-mcp token`) or --oauth-issuer, or "
            "serve on 127.0.0.1"
        )
    return None


def host_checks(host: str, allowed_hosts: tuple[str, ...]) -> TransportSecuritySettings:
    """Host and Origin checks against DNS rebinding. The operator adds the names that remote clients use."""
    names = ("127.0.0.1", "localhost", "[::1]", *([] if host in {"0.0.0.0", "::"} else [host]), *allowed_hosts)  # noqa: S104 - compared, not bound
    hosts = [f"{name}:*" for name in names] + list(allowed_hosts)
    origins = [f"{scheme}://{name}" for scheme in ("http", "https") for name in hosts]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)

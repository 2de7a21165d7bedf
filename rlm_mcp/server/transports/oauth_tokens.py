"""Access tokens of an OAuth authorization server, with which clients reach a server over HTTP.

They are JWTs (RFC 9068) that the authorization server signed for us and that have not expired. The address of its keys
is discovered (RFC 8414, OpenID Connect Discovery). A token for another resource is refused (RFC 8707): accepting it
would let that resource's operator act here.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from ssl import SSLContext
from typing import Any

import httpx2
import jwt
from mcp.server.auth.provider import AccessToken

from rlm_mcp.errors import SettingsError
from rlm_mcp.server.transports.issuer_keys import FETCH_SECONDS, IssuerKeys, fetch_keys

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a private key. Never "none", and none that could be made with a public key."""

METADATA = ("oauth-authorization-server", "openid-configuration")
REQUIRED_CLAIMS = ["exp", "iss", "aud", "sub"]

log = logging.getLogger(__name__)


class JwtVerifier:
    """Verifies access tokens of `issuer` for `resource`. A TokenVerifier of the SDK.

    `key_for` returns the key that signed a token, or raises jwt.PyJWTError.
    """

    def __init__(self, issuer: str, resource: str, key_for: Callable[[str], Awaitable[Any]]) -> None:
        self._issuer = issuer
        self._resource = resource
        self._key_for = key_for

    def __repr__(self) -> str:
        return f"<JwtVerifier of {self._issuer} for {self._resource}>"

    async def verify_token(self, token: str) -> AccessToken | None:
        """The access token with its claims, or None. The reason of a refusal is logged and not told to the client."""
        try:
            claims = jwt.decode(
                token,
                await self._key_for(token),
                algorithms=list(ALGORITHMS),
                audience=self._resource,
                issuer=self._issuer,
                options={"require": REQUIRED_CLAIMS},
            )
        except (jwt.PyJWTError, RecursionError) as error:
            log.warning("a bearer token was refused: %s", error)
            return None
        return AccessToken(
            token=token,
            client_id=str(claims.get("client_id") or claims.get("azp") or claims["sub"]),
            scopes=str(claims.get("scope") or "").split(),
            expires_at=int(claims["exp"]),
            resource=self._resource,
            subject=str(claims["sub"]),
            claims={"iss": claims["iss"]},
        )


async def discover_issuer(issuer: str) -> IssuerKeys:
    """The keys of an issuer, not yet fetched. Raises SettingsError when it does not say where they are."""
    addresses = [f"{issuer.rstrip('/')}/.well-known/{name}" for name in METADATA]
    tls = httpx2.create_ssl_context()  # takes 20 ms, so it is made once
    async with httpx2.AsyncClient(timeout=10, verify=tls) as http:
        for address in addresses:
            if (jwks_uri := await _read_jwks_uri(http, address, issuer)) is not None:
                return IssuerKeys(partial(_fetch_keys, jwks_uri, tls))
    raise SettingsError(f"{issuer} publishes no keys at {' or '.join(addresses)}: check --oauth-issuer")


async def _read_jwks_uri(http: httpx2.AsyncClient, address: str, issuer: str) -> str | None:
    """The address of the issuer's keys, if its metadata is at `address`."""
    try:
        found = (await http.get(address)).json()
    except (httpx2.HTTPError, ValueError):
        return None
    uri = found.get("jwks_uri") if isinstance(found, dict) and found.get("issuer") == issuer else None
    return uri if isinstance(uri, str) else None


async def _fetch_keys(jwks_uri: str, tls: SSLContext) -> object:
    async with httpx2.AsyncClient(timeout=FETCH_SECONDS, verify=tls) as http:
        return await fetch_keys(jwks_uri, http)

"""Access tokens of an OAuth authorization server: JWTs (RFC 9068) that it signed for us and that have not expired.

The server's keys are found where it says (RFC 8414, OpenID Connect Discovery) and kept for as long as PyJWT keeps them;
an unknown key id makes it look again. A token for another resource is refused (RFC 8707): it would let that resource's
operator act here.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import httpx2
import jwt
from mcp.server.auth.provider import AccessToken

from rlm_mcp.errors import SettingsError

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a private key. Never "none", and none that a public key could make."""

METADATA = ("oauth-authorization-server", "openid-configuration")
REQUIRED = ["exp", "iss", "aud", "sub"]

log = logging.getLogger(__name__)


class JwtVerifier:
    """Verifies access tokens of `issuer` for `resource`. A TokenVerifier of the SDK.

    `key_for` gives the key that signed a token; it may ask the network and runs on a thread.
    """

    def __init__(self, issuer: str, resource: str, key_for: Callable[[str], Any]) -> None:
        self._issuer = issuer
        self._resource = resource
        self._key_for = key_for

    def __repr__(self) -> str:
        return f"<JwtVerifier of {self._issuer} for {self._resource}>"

    async def verify_token(self, token: str) -> AccessToken | None:
        """Whose token this is, or None. The reason goes to the log, not to whoever tries."""
        try:
            key = await anyio.to_thread.run_sync(self._key_for, token)
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._resource,
                issuer=self._issuer,
                options={"require": REQUIRED},
            )
        except jwt.PyJWTError as error:
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


async def discover(issuer: str, resource: str) -> JwtVerifier:
    """The verifier for an issuer, with the keys it publishes. Raises SettingsError when it publishes none."""
    places = [f"{issuer.rstrip('/')}/.well-known/{name}" for name in METADATA]
    async with httpx2.AsyncClient(timeout=10) as http:
        for place in places:
            if (keys := await _keys_at(http, place, issuer)) is not None:
                return JwtVerifier(issuer, resource, partial(_signing_key, jwt.PyJWKClient(keys)))
    raise SettingsError(f"{issuer} publishes no keys at {' or '.join(places)}: check --oauth-issuer")


async def _keys_at(http: httpx2.AsyncClient, place: str, issuer: str) -> str | None:
    """Where the keys are, if the metadata stands here and is that of the issuer."""
    try:
        found = (await http.get(place)).json()
    except (httpx2.HTTPError, ValueError):
        return None
    keys = found.get("jwks_uri") if isinstance(found, dict) and found.get("issuer") == issuer else None
    return keys if isinstance(keys, str) else None


def _signing_key(keys: jwt.PyJWKClient, token: str) -> Any:
    return keys.get_signing_key_from_jwt(token).key

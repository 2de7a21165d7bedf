"""The token by which the front names the tenant of a request to a worker; nobody else can make one."""

import hmac

from mcp.server.auth.provider import AccessToken


class FrontVerifier:
    """Accepts the tokens that `front_token` makes with the same key, and no others. A TokenVerifier of the SDK."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "<FrontVerifier>"

    async def verify_token(self, token: str) -> AccessToken | None:
        """The tenant for which the front sends a request."""
        key, _, tenant = token.partition(" ")
        if not tenant or not hmac.compare_digest(key.encode(), self._key.encode()):
            return None
        return AccessToken(token="", client_id=tenant, scopes=[], subject=tenant)


def front_token(key: str, tenant: str) -> str:
    """The bearer token of a request that the front sends for a tenant."""
    return f"{key} {tenant}"

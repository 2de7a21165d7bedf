"""The public keys of an OAuth issuer, which never make a token wait for another.

A token whose key is known is verified without any request. The set is fetched again every REFRESH_SECONDS in the
background, and when a token names an unknown key: one request at a time, at most one in COOLDOWN_SECONDS, each ended
after FETCH_SECONDS. Anybody can send a token with an unknown key id, so between two requests those are refused at once.
While the issuer cannot be reached the keys that it published last stay valid for STALE_SECONDS.
"""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import httpx2
import jwt

REFRESH_SECONDS = 300.0
COOLDOWN_SECONDS = 30.0
FETCH_SECONDS = 5.0
STALE_SECONDS = 3_600.0

KEYS_MAX_BYTES = 1 << 20
MOST_KEYS = 100
"""An issuer publishes a handful of keys; parsing one takes some 50 µs."""

log = logging.getLogger(__name__)

FetchKeys = Callable[[], Awaitable[object]]
"""Returns the parsed JSON Web Key Set. Raises httpx2.HTTPError or ValueError."""


class IssuerKeys:
    """The keys that `fetch` returned last, by key id."""

    def __init__(
        self, fetch: FetchKeys, *, fetch_seconds: float = FETCH_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._fetch_seconds = fetch_seconds
        self._clock = clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = -float("inf")
        self._fetching = anyio.Lock()
        self._request: anyio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<IssuerKeys {', '.join(self._keys)[:80]}>"

    async def key_for(self, token: str) -> jwt.PyJWK:
        """The key that a token names as its own. Raises jwt.PyJWTError."""
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except RecursionError as error:
            raise jwt.DecodeError("its header is nested too deeply") from error
        if not isinstance(key_id, str):
            raise jwt.InvalidTokenError("it names no key")
        if (known := self._known(key_id)) is None and (self._may_fetch() or self._fetching.locked()):
            async with self._fetching:  # those that waited for a request do not begin another
                if self._may_fetch():
                    await self.refresh()
            known = self._known(key_id)
        if known is None:
            raise jwt.PyJWKClientError(f"the issuer publishes no key {key_id[:80]!r}")
        return known

    async def keep_fresh(self) -> None:
        """Fetches the keys now and every REFRESH_SECONDS."""
        while True:
            async with self._fetching:
                await self.refresh()
            await anyio.sleep(REFRESH_SECONDS)

    def stop(self) -> None:
        """Ends the request that goes on, without which its tokens are refused, and begins no other."""
        self._tried_at = float("inf")
        if self._request is not None:
            self._request.cancel()

    async def refresh(self) -> None:
        """Fetches the keys. A failure is logged, and the keys that are known stay.

        A caller that is cancelled does not cancel the request: the next one would have to begin it anew.
        """
        self._tried_at = self._clock()
        with anyio.move_on_after(self._fetch_seconds, shield=True) as self._request:
            try:
                self._keys = _signing_keys(await self._fetch())
                self._fetched_at = self._clock()
            except (httpx2.HTTPError, ValueError, RecursionError) as error:
                log.warning("the keys of the issuer could not be fetched: %s: %s", type(error).__name__, error)
        if self._request.cancelled_caught and self._tried_at < float("inf"):
            log.warning("the keys of the issuer could not be fetched within %.0f s", self._fetch_seconds)

    def _known(self, key_id: str) -> jwt.PyJWK | None:
        return self._keys.get(key_id) if self._clock() - self._fetched_at < STALE_SECONDS else None

    def _may_fetch(self) -> bool:
        """Whether the last request began long enough ago."""
        return self._clock() - self._tried_at >= COOLDOWN_SECONDS


async def fetch_keys(address: str, http: httpx2.AsyncClient) -> object:
    """The JSON at `address`, which may have KEYS_MAX_BYTES."""
    read = bytearray()
    async with http.stream("GET", address) as answer:
        answer.raise_for_status()
        async for part in answer.aiter_bytes():
            read += part
            if len(read) > KEYS_MAX_BYTES:
                raise ValueError(f"{address} sends more than {KEYS_MAX_BYTES} bytes")
    found: object = json.loads(read)
    return found


def _signing_keys(found: object) -> dict[str, jwt.PyJWK]:
    """The keys of a set that sign and have an id; those of an unknown kind are left out. Raises ValueError."""
    listed: Any = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("what the issuer sent is no JSON Web Key Set")  # noqa: TRY004 - a fault of the data
    keys: dict[str, jwt.PyJWK] = {}
    for entry in listed[:MOST_KEYS]:
        if isinstance(entry, dict) and isinstance(entry.get("kid"), str) and entry.get("use", "sig") == "sig":
            try:
                keys[entry["kid"]] = jwt.PyJWK.from_dict(entry)
            except (jwt.PyJWTError, ValueError, TypeError):
                continue
    if not keys:
        raise ValueError("the issuer publishes no signing key")
    return keys

"""Tokens that nobody signed do not keep out those whose key is known, whatever the issuer does."""

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from rlm_mcp.server.transports.issuer_keys import COOLDOWN_SECONDS, MOST_KEYS, STALE_SECONDS, IssuerKeys
from rlm_mcp.server.transports.oauth_tokens import JwtVerifier

pytestmark = pytest.mark.anyio

ISSUER, RESOURCE = "https://issuer.example", "https://rlm.example/mcp"
MOST_TOKENS = 60


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Issuer:
    """An issuer that counts what it is asked for, and hangs or fails when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.published: object = {"keys": [public("k")]}
        self.hang = False
        self.keys = IssuerKeys(self.fetch, fetch_seconds=0.2, clock=lambda: self.now)
        self.verifier = JwtVerifier(ISSUER, RESOURCE, self.keys.key_for)

    async def fetch(self) -> object:
        self.asked += 1
        if self.hang:
            await anyio.sleep_forever()
        return self.published

    async def accepts(self, token: str) -> bool:
        return await self.verifier.verify_token(token) is not None


def public(key_id: str, **more: object) -> dict[str, Any]:
    key: dict[str, Any] = json.loads(RSAAlgorithm.to_jwk(private_key().public_key()))
    return key | {"kid": key_id, "use": "sig", "alg": "RS256"} | more


def token(key_id: str | None) -> str:
    claims = {"iss": ISSUER, "aud": RESOURCE, "sub": "ann", "exp": int(time.time()) + 3_600}
    return jwt.encode(claims, private_key(), "RS256", headers={} if key_id is None else {"kid": key_id})


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


async def test_a_token_with_a_known_key_does_not_wait_for_a_request_that_hangs(issuer: Issuer) -> None:
    assert await issuer.accepts(token("k"))
    issuer.now, issuer.hang = COOLDOWN_SECONDS, True
    async with anyio.create_task_group() as attackers:
        for number in range(MOST_TOKENS):
            attackers.start_soon(issuer.accepts, token(f"unknown {number}"))
        await anyio.wait_all_tasks_blocked()
        assert issuer.asked == 2
        good: list[bool] = []

        async def ask() -> None:
            good.append(await issuer.accepts(token("k")))

        attackers.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert good == [True]
    assert issuer.asked == 2  # which ended by itself, and was not begun again by those that waited for it


async def test_unknown_keys_are_refused_without_a_request_until_some_time_has_passed(issuer: Issuer) -> None:
    assert [await issuer.accepts(token(f"unknown {number}")) for number in range(MOST_TOKENS)] == [False] * MOST_TOKENS
    assert issuer.asked == 1
    issuer.published = {"keys": [public("k"), public("new")]}
    assert not await issuer.accepts(token("new"))
    issuer.now = COOLDOWN_SECONDS
    assert await issuer.accepts(token("new"))
    assert issuer.asked == 2


async def test_one_who_leaves_does_not_end_the_request_that_others_wait_for(issuer: Issuer) -> None:
    go = anyio.Event()

    async def fetch() -> object:
        issuer.asked += 1
        await go.wait()
        return issuer.published

    keys = IssuerKeys(fetch, clock=lambda: issuer.now)
    found: list[jwt.PyJWK] = []

    async def find() -> None:
        found.append(await keys.key_for(token("k")))

    async with anyio.create_task_group() as callers:
        leaving = anyio.CancelScope()

        async def leave() -> None:
            with leaving:
                await find()

        callers.start_soon(leave)
        await anyio.wait_all_tasks_blocked()
        callers.start_soon(find)
        await anyio.wait_all_tasks_blocked()
        leaving.cancel()
        go.set()
    assert issuer.asked == 1
    assert [key.key_id for key in found][-1:] == ["k"]


@pytest.mark.parametrize(
    "sent", [None, [], {}, {"keys": {}}, {"keys": []}, {"keys": [1, None, {"kid": 5}, {"kid": "k"}]}, "x"]
)
async def test_an_issuer_that_sends_something_else_leaves_the_known_keys_for_an_hour(
    issuer: Issuer, sent: object
) -> None:
    assert await issuer.accepts(token("k"))
    issuer.published, issuer.now = sent, COOLDOWN_SECONDS
    assert not await issuer.accepts(token("unknown"))
    assert await issuer.accepts(token("k"))
    issuer.now = STALE_SECONDS
    assert not await issuer.accepts(token("k"))


async def test_a_key_that_is_published_no_longer_is_refused(issuer: Issuer) -> None:
    assert await issuer.accepts(token("k"))
    issuer.published = {"keys": [public("another")]}
    await issuer.keys.refresh()
    assert not await issuer.accepts(token("k"))


async def test_keys_that_encrypt_and_tokens_without_a_key_id_are_refused(issuer: Issuer) -> None:
    issuer.published = {"keys": [public("k"), public("secret", use="enc"), *(public(f"{n}") for n in range(MOST_KEYS))]}
    hostile: list[Callable[[], str]] = [lambda: token("secret"), lambda: token(None), lambda: token(f"{MOST_KEYS - 1}")]
    assert [await issuer.accepts(make()) for make in hostile] == [False] * 3
    assert await issuer.accepts(token("k"))


async def test_tokens_that_wait_for_the_issuer_are_refused_when_the_server_ends(issuer: Issuer) -> None:
    issuer.hang = True
    issuer.keys = IssuerKeys(issuer.fetch, fetch_seconds=3_600, clock=lambda: issuer.now)
    issuer.verifier = JwtVerifier(ISSUER, RESOURCE, issuer.keys.key_for)
    told: list[bool] = []

    async def ask(number: int) -> None:
        told.append(await issuer.accepts(token(f"unknown {number}")))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as attackers:
            for number in range(MOST_TOKENS):
                attackers.start_soon(ask, number)
            await anyio.wait_all_tasks_blocked()
            issuer.keys.stop()
        issuer.now = COOLDOWN_SECONDS
        await ask(MOST_TOKENS)
    assert told == [False] * (MOST_TOKENS + 1)
    assert issuer.asked == 1

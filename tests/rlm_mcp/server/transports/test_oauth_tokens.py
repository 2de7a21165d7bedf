import time
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rlm_mcp.errors import SettingsError
from rlm_mcp.server.transports.oauth_tokens import JwtVerifier, discover_issuer

pytestmark = pytest.mark.anyio

ISSUER, RESOURCE = "https://issuer.example", "https://rlm.example/mcp"


@cache
def key(_name: str = "of the issuer") -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def claims(**changes: Any) -> dict[str, Any]:
    """Valid claims with some changed; those that are None are left out."""
    given = {"iss": ISSUER, "aud": RESOURCE, "sub": "ann", "exp": int(time.time()) + 3_600, "scope": "a b", **changes}
    return {name: value for name, value in given.items() if value is not None}


@pytest.fixture
def verifier() -> JwtVerifier:
    async def key_for(_: str) -> rsa.RSAPublicKey:
        return key().public_key()

    return JwtVerifier(ISSUER, RESOURCE, key_for)


async def test_a_token_of_the_issuer_for_this_resource_names_its_subject(verifier: JwtVerifier) -> None:
    token = await verifier.verify_token(jwt.encode(claims(client_id="app"), key(), "RS256"))
    assert token is not None
    assert (token.client_id, token.subject, token.scopes, token.resource) == ("app", "ann", ["a", "b"], RESOURCE)
    assert token.claims == {"iss": ISSUER}


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"aud": "https://other.example"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"sub": None},
    ],
)
async def test_other_tokens_of_the_issuer_are_refused(verifier: JwtVerifier, changes: dict[str, Any]) -> None:
    assert await verifier.verify_token(jwt.encode(claims(**changes), key(), "RS256")) is None


async def test_a_token_is_refused_before_it_becomes_valid(verifier: JwtVerifier) -> None:
    early = claims(nbf=int(time.time()) + 3_600)
    assert await verifier.verify_token(jwt.encode(early, key(), "RS256")) is None


async def test_forged_tokens_are_refused(verifier: JwtVerifier) -> None:
    public = key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = [
        jwt.encode(claims(), key("of somebody else"), "RS256"),
        jwt.encode(claims(), None, "none"),  # type: ignore[arg-type] # unsigned is the point
        jwt.encode(claims(), "x" * 32, "HS256"),
        "not a token",
        public.decode(),
    ]
    assert [await verifier.verify_token(token) for token in forged] == [None] * len(forged)


async def test_an_issuer_without_metadata_is_a_setting_that_cannot_be_used() -> None:
    with pytest.raises(SettingsError, match="publishes no keys"):
        await discover_issuer("http://127.0.0.1:9")

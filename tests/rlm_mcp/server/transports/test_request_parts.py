"""Requests of many values: which are refused before they are read, and that the others arrive whole."""

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from rlm_mcp.server.transports.request_parts import MOST_PARTS, RequestPartsMiddleware

pytestmark = pytest.mark.anyio


class Client:
    """A client that sends a body in pieces, and what the application behind the middleware has read of it."""

    def __init__(self, body: bytes, *, method: str = "POST") -> None:
        half = len(body) // 2
        self.pieces = [body[:half], body[half:]]
        self._method = method
        self.read: bytes | None = None
        self.said: list[Message] = []

    async def ask(self, *, tokens: bool = False) -> "Client":
        middleware = RequestPartsMiddleware(self._answer, tokens=tokens)
        await middleware({"type": "http", "method": self._method}, self._receive, self._send)
        return self

    async def _receive(self) -> Message:
        if not self.pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.pieces.pop(0), "more_body": bool(self.pieces)}

    async def _send(self, message: Message) -> None:
        self.said.append(message)

    async def _answer(self, _: Scope, receive: Receive, __: Send) -> None:
        self.read = b""
        while (message := await receive())["type"] == "http.request":
            self.read += message["body"]


@pytest.mark.parametrize("value", [[[]] * MOST_PARTS, [0] * (MOST_PARTS + 1), {str(n): n for n in range(MOST_PARTS)}])
async def test_a_request_of_more_values_than_any_client_sends_is_not_read(value: Any) -> None:
    asked = await Client(json.dumps({"params": value}).encode()).ask()
    assert (asked.read, asked.said[0]["status"]) == (None, 413)
    error = json.loads(asked.said[1]["body"])["error"]
    assert error == {
        "code": -32600,
        "message": "a request may hold 20,000 values, and this one holds more: pass long data as a text or by its path",
    }


@pytest.mark.parametrize("text", ["a, [b], {c}\n" * 100_000, '\\"[' * 100_000])
async def test_a_long_text_is_one_value_whatever_is_in_it(text: str) -> None:
    body = json.dumps({"params": {"arguments": {"text": text}}}).encode()
    asked = await Client(body).ask()
    assert (asked.read, asked.said) == (body, [])


async def test_a_client_that_goes_away_while_it_sends_is_not_answered() -> None:
    asked = Client(b"[]")
    asked.pieces = []
    await asked.ask()
    assert (asked.read, asked.said) == (None, [])


async def test_a_request_without_a_token_where_one_is_wanted_is_left_to_who_asks_for_it() -> None:
    body = json.dumps([[]] * MOST_PARTS).encode()
    asked = await Client(body).ask(tokens=True)
    assert (asked.read, asked.said) == (body, [])

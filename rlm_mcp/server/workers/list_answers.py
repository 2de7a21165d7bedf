"""Answers of the front that are the same for every tenant, so that none waits for another's work or for a worker.

The answers are those that early_answers.py sends on stdio, prepared by the real server. Only requests are answered
whose shape and headers are known in full; a worker would send the same bytes, which a test compares.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.shared.inbound import MCP_METHOD_HEADER, MCP_NAME_HEADER, MCP_PROTOCOL_VERSION_HEADER
from multidict import CIMultiDict

from rlm_mcp.server.early_answers import MAX_CHARS, PLAIN, Opening, Prepared, answer_line, opening_of, parsed
from rlm_mcp.server.list_cache import METHODS

ANSWERED = METHODS | {"server/discover"}

ACCEPTED = frozenset(["application/json, text/event-stream", "application/json,text/event-stream"])
"""The headers by which clients accept both kinds of answers."""

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
"""what the SDK escapes in answers that are not streams"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAnswer:
    """An HTTP answer with status 200."""

    headers: Mapping[str, str]
    body: bytes


class ListAnswers:
    """Answers these requests; `find_prepared` is asked until it has the prepared results."""

    def __init__(self, find_prepared: Callable[[], Prepared | None]) -> None:
        self._find_prepared = find_prepared
        self._prepared: Prepared | None = None

    def __repr__(self) -> str:
        return f"<ListAnswers {'prepared' if self._prepared else 'not yet prepared'}>"

    def answer(
        self, headers: "CIMultiDict[str]", body: bytes, session: tuple[str, Opening | None] | None
    ) -> ListAnswer | None:
        """The answer to a POST, if it is one of these requests.

        `session` is the id of the open session that the request names, and how it was opened.
        """
        if len(body) > MAX_CHARS or headers.get("Accept") not in ACCEPTED:
            return None
        match parsed(body.decode("utf-8", "replace")):
            case {"jsonrpc": "2.0", "id": str() | int(), "method": str() as method} as request if method in ANSWERED:
                opening = _opening(headers, method, opening_of(request), session)
                return None if opening is None else self._answer(opening, method, request["id"], session)
        return None

    def _answer(
        self, opening: Opening, method: str, request_id: object, session: tuple[str, Opening | None] | None
    ) -> ListAnswer | None:
        self._prepared = self._prepared or self._find_prepared()
        way, version = opening
        result = (self._prepared or {}).get(way, {}).get(version, {}).get(method)
        if result is None:
            return None
        line = answer_line(request_id, result)
        if session is None:
            body = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], line).encode()
            return ListAnswer(headers={"content-type": "application/json", "content-length": str(len(body))}, body=body)
        stream = {"cache-control": "no-cache, no-transform", "content-type": "text/event-stream"}
        return ListAnswer(
            headers=stream | {MCP_SESSION_ID_HEADER: session[0], "x-accel-buffering": "no"},
            body=b"event: message\r\ndata: " + line.encode() + b"\r\n\r\n",
        )


def _opening(
    headers: "CIMultiDict[str]", method: str, asked: Opening | None, session: tuple[str, Opening | None] | None
) -> Opening | None:
    """How the connection was opened to which the request belongs; None unless all headers say the same."""
    versions, methods = headers.getall(MCP_PROTOCOL_VERSION_HEADER, []), headers.getall(MCP_METHOD_HEADER, [])
    if MCP_NAME_HEADER in headers:
        return None
    if session is None:
        is_sound = asked is not None and asked[0] == "envelope" and versions == [asked[1]] and methods == [method]
        return asked if is_sound else None
    opened = session[1]
    if opened is None or asked != PLAIN or methods or versions not in ([], [opened[1]]):
        return None
    return opened

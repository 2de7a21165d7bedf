"""Answers to a client's first requests before the server itself is imported.

Importing the MCP SDK takes most of a second, and some hosts go on without a server's tools if it has not listed them
within one second. The answers to `initialize`, `server/discover` and the lists that never change are the same for every
client of a protocol version, so they are prepared once (prepared_answers.py) and sent from there until the server reads
its stdin itself.

`EarlyAnswers` reads each line in the client's place in the protocol: the first request decides the era. It answers only
requests whose shape it knows in full; for these the server would send the same bytes, which a test compares. It leaves
everything else to the server: other requests, responses, what is malformed, and whatever it does not understand. The
opening request is answered and also passed on, under an id of our own, because the server's connection begins with it;
`is_repeated` recognizes the server's answer, which the client must not get a second time.

This file imports no other module of the server, and of the standard library only what the settings have imported.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Prepared = Mapping[str, Mapping[str, Mapping[str, str]]]
"""The way a connection was opened, "initialize" or "envelope" → protocol version → method → the result as JSON."""

META = "io.modelcontextprotocol/"
REPEATED_ID = "rlm-mcp/answered-early"
MAX_CHARS = 20_000
"""Requests of these methods are short; a longer line is left to the server unread."""

Opening = tuple[str, str]
"""The form in which a request names its protocol version, "initialize" or "envelope", and the version."""
PLAIN: Opening = ("plain", "")
"""Requests after a handshake name no version."""

_TEXT: Any = str
_OBJECTS: Any = {...: dict}
_CLIENT_INFO: Any = {
    "name": _TEXT,
    "version": _TEXT,
    "title": _TEXT,
    "description": _TEXT,
    "websiteUrl": _TEXT,
    "icons": None,
}
_CAPABILITIES: Any = {
    "experimental": _OBJECTS,
    "extensions": _OBJECTS,
    "elicitation": {"form": dict, "url": dict},
    "roots": {"listChanged": bool},
    "sampling": {"context": dict, "tools": dict},
    "tasks": {
        "list": dict,
        "cancel": dict,
        "requests": {"elicitation": {"create": dict}, "sampling": {"createMessage": dict}},
    },
}
"""Types of the fields that the server reads, each of which may be missing or null: a type, the fields of an object, or
under `...` the type of all its fields. None: only null is understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """The outcome for one line of the client."""

    answer: str | None = None
    """the line that is sent at once"""
    passed_on: str | None = None
    """the line that the server reads"""
    needs_server: bool = False
    """whether the client may be waiting for something that only the server can answer"""


class EarlyAnswers:
    """The beginning of one connection."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._opening: Opening | None = None

    def __repr__(self) -> str:
        return f"<EarlyAnswers, opened by {self._opening}>"

    def react(self, line: str) -> Reaction:
        """Decides about the next line."""
        match parsed(line):
            case {"jsonrpc": "2.0", "id": str() | int(), "method": str()} as request:
                return self._react_to_request(line, request)
            case {"jsonrpc": "2.0", "method": str()} as message if "id" not in message:
                return Reaction(passed_on=line)
            case _:
                return Reaction(passed_on=line, needs_server=True)

    def _react_to_request(self, line: str, request: Mapping[str, Any]) -> Reaction:
        is_opening, opening = self._opening is None, opening_of(request)
        if is_opening:
            self._opening = opening or PLAIN  # after which nothing is answered early
        if opening is None or self._opening is None or (not is_opening and opening != _next(self._opening)):
            return Reaction(passed_on=line, needs_server=True)
        way, version = self._opening
        result = self._prepared.get(way, {}).get(version, {}).get(request["method"])
        if result is None:
            return Reaction(passed_on=line, needs_server=True)
        answer = answer_line(request["id"], result) + "\n"
        repeated = json.dumps({**request, "id": REPEATED_ID}) + "\n"
        return Reaction(answer=answer, passed_on=repeated if is_opening else None)


def answer_line(request_id: object, result: str) -> str:
    """The answer to a request, as the SDK writes it, without a newline."""
    return f'{{"jsonrpc":"2.0","id":{json.dumps(request_id)},"result":{result}}}'


def is_repeated(line: str) -> bool:
    """Whether the server answers an opening request that was answered early."""
    return line.startswith(f'{{"jsonrpc":"2.0","id":"{REPEATED_ID}"')


def _next(opening: Opening) -> Opening:
    """The beginning of later requests of a connection."""
    return PLAIN if opening[0] == "initialize" else opening


def parsed(line: str) -> Any:
    """The message, or None unless every JSON parser reads the line alike."""
    if len(line) > MAX_CHARS or "\\u" in line or "\ufffd" in line:  # lone surrogates, and undecodable bytes
        return None
    try:
        return json.loads(line, object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name occurs twice")
    return fields


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is read differently by different parsers")


def opening_of(request: Mapping[str, Any]) -> Opening | None:
    """How the request names its protocol, or None for one of a shape that the server must judge."""
    params = request.get("params", {})
    if request.keys() - {"jsonrpc", "id", "method", "params"} or not _is_id(request["id"]) or type(params) is not dict:
        return None
    by_meta = _opening_of_meta(params["_meta"]) if "_meta" in params else PLAIN
    fields = params.keys() - {"_meta"}
    if request["method"] != "initialize":
        return None if fields else by_meta
    version = params.get("protocolVersion")
    is_understood = (
        fields == {"protocolVersion", "clientInfo", "capabilities"}
        and by_meta == PLAIN
        and _is_client(params["clientInfo"], params["capabilities"])
    )
    return ("initialize", version) if is_understood and isinstance(version, str) else None


def _opening_of_meta(meta: Any) -> Opening | None:
    """How the metadata of a request names its protocol: in an envelope of three fields, or not."""
    if type(meta) is not dict or not (meta.get("progressToken") is None or _is_id(meta["progressToken"])):
        return None
    envelope = {name.removeprefix(META): value for name, value in meta.items() if name.startswith(META)}
    if not envelope:
        return PLAIN
    version = envelope.get("protocolVersion")
    is_understood = envelope.keys() == {"protocolVersion", "clientInfo", "clientCapabilities"} and _is_client(
        envelope["clientInfo"], envelope["clientCapabilities"]
    )
    return ("envelope", version) if is_understood and isinstance(version, str) else None


def _is_id(value: object) -> bool:
    """A request id that every JSON writer writes alike."""
    match value:
        case bool():
            return False
        case int():
            return abs(value) < 2**53
        case str():
            return re.fullmatch(r"[ !#-\[\]-~]*", value) is not None and value != REPEATED_ID
    return False


def _is_client(info: object, capabilities: object) -> bool:
    match info, capabilities:
        case {"name": str(), "version": str()}, dict():
            return _has_type(info, _CLIENT_INFO) and _has_type(capabilities, _CAPABILITIES)
    return False


def _has_type(value: object, expected: Any) -> bool:
    match value, expected:
        case None, _:
            return True
        case _, None:
            return False
        case dict(), dict() if ... in expected:
            return all(isinstance(part, expected[...]) for part in value.values())
        case dict(), dict():
            return all(_has_type(value.get(name), part) for name, part in expected.items())
        case _, dict():
            return False
    return isinstance(value, expected)

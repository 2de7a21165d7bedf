"""Calls and runs that clients give up while their worker is dying, and may not take note.

A worker learns from a broken connection, from `notifications/cancelled` or from a call of `cancel_run` that nobody
wants a run any more. One that stands still, or dies just then, never does, and the next worker would go on with the
run. Each call therefore has an id, which the worker puts down beside the run that the call waits for, and the front
tells the next worker the ids of calls and runs that were given up.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rlm_mcp.server.cancel_reasons import is_time_out

CALL_HEADER = "rlm-mcp-call"
"""Header of a request that the front passes on; it replaces one that a client has sent."""

MOST_READ_BYTES = 1 << 16
"""Size of a request that is parsed, which takes a millisecond at most."""

_CALL = re.compile(r"[0-9a-f]{16}")
_RUN = re.compile(r"run-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenCall:
    """A request that a worker is answering."""

    tenant: str
    session_id: str | None
    body: bytes = field(repr=False)
    call_id: str = field(default_factory=lambda: secrets.token_hex(8))


class OpenCalls:
    """The requests that are being answered."""

    def __init__(self) -> None:
        self._open: dict[OpenCall, None] = {}

    def __repr__(self) -> str:
        return f"<OpenCalls, {len(self._open)}>"

    @contextmanager
    def opened(self, call: OpenCall) -> Iterator[None]:
        """Counts it among the open ones during a block."""
        self._open[call] = None
        try:
            yield
        finally:
            del self._open[call]

    def cancelled_by(self, sent: OpenCall) -> Iterable[str]:
        """The ids of the open calls, or of the run, that a user wants to stop by this request or notification."""
        if b"cancel" not in sent.body:
            return
        match read(sent.body):
            case {"method": "notifications/cancelled", "params": {"requestId": str() | int() as request_id, **rest}}:
                if not is_time_out(rest.get("reason")):
                    for call in self._open:
                        is_same = (call.tenant, call.session_id) == (sent.tenant, sent.session_id)
                        if is_same and request_id_in(call.body) == request_id:
                            yield call.call_id
            case {"method": "tasks/cancel", "params": {"taskId": str() as run_id}} | {
                "method": "tools/call",
                "params": {"name": "cancel_run", "arguments": {"run_id": str() as run_id}},
            }:
                if _RUN.fullmatch(run_id):
                    yield run_id


def read(body: bytes) -> Any:
    """The JSON of a request, None if it is none or too long."""
    if len(body) > MOST_READ_BYTES:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def request_id_in(body: bytes) -> str | int | None:
    """The id of the request in a body; None if it is no request, or a long one."""
    match read(body):
        case {"id": str() | int() as request_id, "method": str()}:
            return request_id
    return None


def call_id_in(headers: Mapping[str, str] | None) -> str:
    """In a worker, the id under which the front knows a request; empty if there is no front."""
    call_id = (headers or {}).get(CALL_HEADER, "")
    return call_id if _CALL.fullmatch(call_id) else ""

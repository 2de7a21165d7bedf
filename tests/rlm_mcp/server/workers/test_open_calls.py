"""Which open calls a cancellation is about, and the ids by which workers know calls."""

import json
from contextlib import ExitStack

import pytest

from rlm_mcp.server.workers.open_calls import CALL_HEADER, MOST_READ_BYTES, OpenCall, OpenCalls, call_id_in


def call(body: object, tenant: str = "ann", session_id: str | None = "s") -> OpenCall:
    return OpenCall(tenant=tenant, session_id=session_id, body=json.dumps(body).encode())


def request(number: object) -> object:
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {}}


def cancelled(**params: object) -> OpenCall:
    return call({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


def test_a_cancellation_is_about_the_open_call_with_this_id_in_the_same_session_of_the_same_tenant() -> None:
    calls = OpenCalls()
    meant = call(request(3))
    others = [call(request(4)), call(request(3), tenant="bob"), call(request(3), session_id="t"), call(request("3"))]
    with ExitStack() as opened:
        for each in (meant, *others):
            opened.enter_context(calls.opened(each))
        assert list(calls.cancelled_by(cancelled(requestId=3))) == [meant.call_id]
        assert list(calls.cancelled_by(cancelled(requestId=3, reason="the user pressed Escape"))) == [meant.call_id]
        assert list(calls.cancelled_by(cancelled(requestId=3, reason="timed out after 60 s"))) == []
    assert list(calls.cancelled_by(cancelled(requestId=3))) == []


def test_a_request_to_cancel_a_run_names_it() -> None:
    calls, run_id = OpenCalls(), "run-0123456789ab"
    for method, params in (
        ("tools/call", {"name": "cancel_run", "arguments": {"run_id": run_id}}),
        ("tasks/cancel", {"taskId": run_id}),
    ):
        assert list(calls.cancelled_by(call({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))) == [
            run_id
        ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"notifications/cancelled",
        b'{"method": "notifications/cancelled", "params": {"requestId": 3}' + b" " * MOST_READ_BYTES + b"}",
        b'{"method": "notifications/cancelled", "params": {"requestId": {}}}',
        b'{"method": "notifications/cancelled", "params": [3]}',
        b'{"method": "tools/call", "params": {"requestId": 3, "name": "notifications/cancelled"}}',
        b'{"method": "tools/call", "params": {"name": "rlm_result", "arguments": {"run_id": "run-0123456789ab"}}}',
        b'{"method": "tools/call", "params": {"name": "cancel_run", "arguments": {"run_id": "0123"}}}',
        b'{"method": "tools/call", "params": {"name": "cancel_run"}}',
        b"[" * 10_000 + b'"notifications/cancelled"',
    ],
)
def test_what_is_no_cancellation_cancels_nothing(body: bytes) -> None:
    calls = OpenCalls()
    with calls.opened(call(request(3))):
        assert list(calls.cancelled_by(OpenCall(tenant="ann", session_id="s", body=body))) == []


def test_only_an_id_of_the_front_is_taken_for_one() -> None:
    known = call(request(1))
    assert call_id_in({CALL_HEADER: known.call_id}) == known.call_id
    assert {call_id_in(headers) for headers in (None, {}, {CALL_HEADER: "../.."}, {CALL_HEADER: "A" * 16})} == {""}

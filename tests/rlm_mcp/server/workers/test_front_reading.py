"""What the front reads of a request: little, of bounded length and depth, and it survives everything else."""

import json

import pytest
from mcp.shared.inbound import MCP_METHOD_HEADER, MCP_PROTOCOL_VERSION_HEADER
from multidict import CIMultiDict

from rlm_mcp.server.early_answers import MAX_CHARS
from rlm_mcp.server.workers.handshake_sessions import opening_in
from rlm_mcp.server.workers.list_answers import ListAnswers
from rlm_mcp.server.workers.open_calls import MOST_READ_BYTES
from rlm_mcp.server.workers.proxy import LOST, error_body, may_be_repeated

CALL = b'{"jsonrpc": "2.0", "id": %s, "method": "%s", "params": {}}'

NONSENSE = {
    "nothing": b"",
    "not JSON": b"tools/list",
    "not UTF-8": b'{"jsonrpc": "2.0", "id": "\xff", "method": "initialize"}',
    "very deep": b"[" * (MOST_READ_BYTES // 2) + b"]" * (MOST_READ_BYTES // 2),
    "deep in its parameters": CALL % (b"1", b"initialize") + b"," + b'{"a":' * 10_000,
    "a number of many digits": CALL % (b"9" * 10_000, b"tools/list"),
    "a number that is none": CALL % (b"NaN", b"tools/list"),
    "no request": b'{"jsonrpc": "2.0", "result": {}, "id": 1}',
    "an id of another type": CALL % (b'{"a": 1}', b"tools/list"),
    "many requests": b"[" + CALL % (b"1", b"tools/list") + b"]",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_is_no_request_has_no_answer_opens_nothing_and_raises_nothing(name: str) -> None:
    lists = ListAnswers(lambda: pytest.fail("nothing is asked for"))
    headers = CIMultiDict(
        {
            "Accept": "application/json, text/event-stream",
            MCP_METHOD_HEADER: "tools/list",
            MCP_PROTOCOL_VERSION_HEADER: "2026-07-28",
        }
    )
    body = NONSENSE[name]
    assert (error_body(body, LOST), opening_in(body), lists.answer(headers, body, None)) == (b"", None, None)
    assert not may_be_repeated(body)


def test_a_long_request_is_passed_on_unread_and_its_loss_is_told_without_its_id() -> None:
    long = CALL % (b"1", b"initialize") + b" " * (max(MAX_CHARS, MOST_READ_BYTES) + 1)
    assert (error_body(long, LOST), opening_in(long)) == (b"", None)


@pytest.mark.parametrize("request_id", [b"7", b'"seven"'])
def test_a_request_that_was_lost_is_answered_under_its_id_in_a_sentence(request_id: bytes) -> None:
    told = json.loads(error_body(CALL % (request_id, b"tools/call"), LOST))
    assert told == {"jsonrpc": "2.0", "id": json.loads(request_id), "error": {"code": -32603, "message": LOST}}


def test_only_a_request_that_changes_nothing_more_is_sent_to_a_second_worker() -> None:
    def repeated(method: str, params: object) -> bool:
        return may_be_repeated(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())

    assert repeated("initialize", {})
    assert repeated("tasks/cancel", {"taskId": "run-1"})
    assert repeated("tools/call", {"name": "cancel_run", "arguments": {"run_id": "run-1"}})
    assert not repeated("tools/call", {"name": "rlm_solve", "arguments": {}})
    assert not repeated("tools/call", ["cancel_run"])
    assert not repeated("prompts/get", {"name": "cancel_run"})
    assert not repeated("notifications/cancelled", {})

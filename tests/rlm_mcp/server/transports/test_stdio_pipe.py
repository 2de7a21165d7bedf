"""The pipe between client and process while the server is not there yet, and when it takes over."""

import json
import os
from collections.abc import Callable
from threading import Event

import pytest

from rlm_mcp.server.early_answers import REPEATED_ID
from rlm_mcp.server.transports.message_limit import INVALID_REQUEST, MOST_BYTES
from rlm_mcp.server.transports.stdio_pipe import WAITING_LINES, StdioPipe

PREPARED = {"initialize": {"1": {"initialize": '{"hello":1}', "tools/list": '{"tools":[]}'}}}
HELLO = (
    '{"jsonrpc": "2.0", "id": %s, "method": "initialize", "params": '
    '{"protocolVersion": "1", "clientInfo": {"name": "x", "version": "1"}, "capabilities": {}}}\n'
)
LIST = '{"jsonrpc":"2.0","id":%d,"method":"tools/list"}\n'
LISTED = '{"jsonrpc":"2.0","id":%d,"result":{"tools":[]}}\n'
CALL = '{"jsonrpc":"2.0","id":9,"method":"tools/call"}\n'
NOTE = '{"jsonrpc":"2.0","method":"notifications/initialized"}\n'


class Client:
    """The client's ends of a pipe. `ended` is set when the process would have ended."""

    def __init__(
        self, prepared: dict[str, dict[str, dict[str, str]]] | None = PREPARED, *, most_bytes: int = MOST_BYTES
    ) -> None:
        source, self.stdin = os.pipe()
        self.stdout, sink = os.pipe()
        self.ended = Event()
        self.pipe = StdioPipe(source, sink, prepared, end=self.ended.set, most_bytes=most_bytes)
        self._received = os.fdopen(self.stdout, "r", closefd=False)

    def say(self, text: str) -> None:
        os.write(self.stdin, text.encode())

    def receive(self) -> str:
        return self._received.readline()

    def close(self) -> None:
        os.close(self.stdin)


@pytest.fixture
def opened() -> Client:
    """A client that was answered and reads nothing more."""
    client = Client()
    client.say(HELLO % 0)
    assert client.receive() == '{"jsonrpc":"2.0","id":0,"result":{"hello":1}}\n'
    return client


def test_a_client_that_only_lists_needs_no_server(opened: Client) -> None:
    opened.say(NOTE + LIST % 1 + LIST % 2)
    assert [opened.receive(), opened.receive()] == [LISTED % 1, LISTED % 2]
    opened.close()
    assert opened.ended.wait(timeout=60)


def test_lines_that_only_the_server_can_answer_wait_in_order_while_lists_are_answered(opened: Client) -> None:
    cancel = '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}\n'
    opened.say(NOTE + CALL + "{\n" + LIST % 1 + cancel + LIST % 2)
    assert [opened.receive(), opened.receive()] == [LISTED % 1, LISTED % 2]
    opened.pipe.wait_until_needed()
    opened.close()
    opened.pipe.serve()
    assert REPEATED_ID in (opened.pipe.read() or "")
    assert [opened.pipe.read() for _ in range(5)] == [NOTE, CALL, "{\n", cancel, None]
    assert not opened.ended.is_set()


def test_the_server_answers_alone_once_it_serves(opened: Client) -> None:
    opened.pipe.serve()
    opened.say(LIST % 1)
    assert [opened.pipe.read() for _ in range(2)][1] == LIST % 1
    opened.pipe.write(f'{{"jsonrpc":"2.0","id":"{REPEATED_ID}","result":{{}}}}\n')
    opened.pipe.write(LISTED % 1)
    assert opened.receive() == LISTED % 1


def test_without_prepared_answers_the_server_is_needed_at_once_and_reads_everything() -> None:
    client = Client(prepared=None)
    client.say(HELLO % 0)
    client.pipe.wait_until_needed()
    assert client.pipe.read() == HELLO % 0
    client.close()
    assert client.pipe.read() is None
    assert not client.ended.is_set()


def test_bytes_that_are_no_text_and_a_last_line_without_end_reach_the_server(opened: Client) -> None:
    os.write(opened.stdin, b"\xff\n" + CALL.strip().encode())
    opened.close()
    assert [opened.pipe.read() for _ in range(4)][1:] == ["\ufffd\n", CALL.strip(), None]


def test_what_a_client_sends_in_advance_is_left_in_its_pipe_beyond_a_number_of_lines(opened: Client) -> None:
    opened.say(CALL * WAITING_LINES)
    opened.say(LIST % 1)
    opened.pipe.serve()
    lines = [opened.pipe.read() for _ in range(WAITING_LINES + 2)]
    assert lines[1:-1] == [CALL] * WAITING_LINES


def a_closed_stdout(client: Client) -> None:
    os.close(client.stdout)


def an_end_of_file(client: Client) -> None:
    client.close()


@pytest.mark.parametrize("end", [a_closed_stdout, an_end_of_file])
def test_a_client_that_is_gone_ends_the_process_before_the_server_is_there(
    end: Callable[[Client], None], opened: Client
) -> None:
    end(opened)
    opened.pipe.wait_until_needed()
    assert opened.ended.wait(timeout=60)


def test_a_stdout_that_is_closed_before_an_early_answer_ends_the_process(opened: Client) -> None:
    os.close(opened.stdout)
    opened.say(LIST % 1)
    assert opened.ended.wait(timeout=60)


LONG = {
    "id first": ('{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"text":"%s"}}\n', 7),
    "id last": ('{"method":"tools/call","params":{"text":"%s"},"jsonrpc":"2.0","id": "a-7" }\r\n', "a-7"),
    "blanks": ('{ "id" : -7 , "jsonrpc" : "2.0" , "method" : "x" , "params" : ["%s"] }\n', -7),
    "ids in parameters": ('{"method":"x","params":{"id":8,"text":"%s","id":9}}\n', None),
    "a response": ('{"jsonrpc":"2.0","id":7,"result":{"text":"%s"}}\n', None),
    "a response with its id last": ('{"result":{"text":"%s"},"jsonrpc":"2.0","id":7}\n', None),
    "a notification": ('{"jsonrpc":"2.0","method":"x","params":{"text":"%s","id":7}}\n', None),
    "no JSON": ("%s\n", None),
}


@pytest.mark.parametrize(("message", "answered"), LONG.values(), ids=LONG)
def test_a_message_that_is_too_long_is_an_error_for_its_request_and_the_rest_goes_on(
    message: str, answered: object
) -> None:
    client = Client(most_bytes=4_000)
    client.say(HELLO % 0 + LIST % 1)
    client.say(message % ("x" * 10_000))
    client.say(LIST % 2)
    assert [client.receive() for _ in range(2)][1] == LISTED % 1
    refused = json.loads(client.receive())
    assert (refused["id"], refused["error"]["code"]) == (answered, INVALID_REQUEST)
    assert refused["error"]["message"] == (
        f"a message of {len(message) - 2 + 10_000:,} bytes is too long, at most 4,000 are read: register a large text "
        "as a file, by source in the place of text"
    )
    assert client.receive() == LISTED % 2


def test_a_message_of_the_longest_length_is_read_and_one_that_is_cut_off_is_refused() -> None:
    client = Client(prepared=None, most_bytes=len(CALL))
    client.say(CALL + "xx" + CALL.strip())
    client.close()
    assert [client.pipe.read() for _ in range(2)] == [CALL, None]
    assert json.loads(client.receive())["id"] is None

"""Early answers are, byte for byte, those of the server; everything else is left to it."""

import json
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_mcp.server.answer_preparation import converse, prepare_answers, server_without_workspace
from rlm_mcp.server.early_answers import EarlyAnswers, Prepared, Reaction, is_repeated
from rlm_mcp.server.server import RlmServer

META = "io.modelcontextprotocol/"
LISTS = ("tools/list", "prompts/list", "resources/templates/list")
CODEX = {"name": "codex-mcp-client", "title": "Codex", "version": "0.171.0"}
CLAUDE = {"name": "claude-code", "version": "2.1.332", "description": "é", "websiteUrl": "https://claude.com/code"}
CAPABILITIES = {
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": True},
    "sampling": {"tools": {}},
    "extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html;profile=mcp-app"]}},
    "experimental": None,
}


@pytest.fixture(scope="module")
def server() -> RlmServer:
    return server_without_workspace()


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return anyio.run(prepare_answers)


class Beginning:
    """Both sides of the comparison; its repr is short for Hypothesis."""

    def __init__(self, server: RlmServer, prepared: Prepared) -> None:
        self.server, self.prepared = server, prepared


@pytest.fixture(scope="module")
def beginning(server: RlmServer, prepared: Prepared) -> Beginning:
    return Beginning(server, prepared)


def line(method: str, params: object = None, identity: object = 1, **more: object) -> str:
    message = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params} | more
    return json.dumps({name: value for name, value in message.items() if value is not None}, ensure_ascii=False) + "\n"


def hello(version: str, client: object = CODEX, capabilities: object = CAPABILITIES, **more: object) -> dict[str, Any]:
    return {"protocolVersion": version, "clientInfo": client, "capabilities": capabilities, **more}


def envelope(
    version: str, client: object = CLAUDE, capabilities: object = CAPABILITIES, **more: object
) -> dict[str, Any]:
    fields = {"protocolVersion": version, "clientInfo": client, "clientCapabilities": capabilities}
    return {"_meta": {META + name: value for name, value in fields.items()} | more}


def requests_of(version: str) -> list[str]:
    """What a client of this version asks first, with ids of all kinds."""
    if version == "2026-07-28":
        return [
            line(method, envelope(version), f"{number}:a b")
            for number, method in enumerate(("server/discover", *LISTS))
        ]
    lists = [
        line("tools/list", {"_meta": {"progressToken": 3}}, -7),
        line("tools/list", None, "b"),
        line("ping", {}, 0),
    ]
    return [line("initialize", hello(version), 0), *lists, *(line(method, {}, 2**40) for method in LISTS)]


@pytest.mark.anyio
@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"])
async def test_early_answers_are_those_of_the_server_byte_for_byte(
    version: str, server: RlmServer, prepared: Prepared
) -> None:
    early, requests = EarlyAnswers(prepared), requests_of(version)
    assert [early.react(request).answer for request in requests] == await converse(server, requests)


JUNK: st.SearchStrategy[object] = st.sampled_from(
    [None, True, 0, 1.5, "", "x", [], ["x"], {}, {"x": 1}, {"list": {}}, {"src": "x"}, "2026-07-28"]
)


def changed(value: Any, path: list[int], junk: object) -> Any:
    """The value with one part, to which the numbers lead, replaced by junk or with junk added."""
    if not path or not isinstance(value, dict):
        return junk
    names = [*value, "title", "icons", "tasks", "progressToken", f"{META}logLevel"]
    name = names[path[0] % len(names)]
    return value | {name: changed(value.get(name), path[1:], junk)}


@settings(max_examples=150)
@given(path=st.lists(st.integers(0, 12), max_size=5), junk=JUNK, version=st.sampled_from(["2025-06-18", "2026-07-28"]))
def test_requests_that_are_answered_early_would_get_the_same_from_the_server(
    path: list[int], junk: object, version: str, beginning: Beginning
) -> None:
    """A request that a client sent a little differently."""
    for first, request in enumerate(requests_of(version)[:2]):
        message = json.dumps(changed(json.loads(request), path, junk)) + "\n"
        opening = requests_of(version)[:first]
        early = EarlyAnswers(beginning.prepared)
        answers = [early.react(line).answer for line in (*opening, message)]
        if answers[-1] is not None:
            assert answers == anyio.run(converse, beginning.server, [*opening, message])


@pytest.mark.parametrize(
    "request_line",
    [
        line("initialize", hello("2099-01-01")),
        line("initialize", hello("2025-06-18", client={"name": "x"})),
        line("initialize", hello("2025-06-18", capabilities={"roots": {"listChanged": "yes"}})),
        line("initialize", hello("2025-06-18", **envelope("2026-07-28"))),
        line("tools/list", envelope("2025-06-18")),
        line("tools/list", envelope("2026-07-28", capabilities=None)),
        line("tools/list"),
        line("server/discover", {}),
        line("ping"),
        line("initialize", hello("2025-06-18"), 1.5),
        line("initialize", hello("2025-06-18"), True),
        line("initialize", hello("2025-06-18"), "\u00e9"),
        line("initialize", hello("2025-06-18"), 10**20),
        line("initialize", hello("2025-06-18"), jsonrpc="1.0"),
        line("initialize", hello("2025-06-18"), more=1),
        line("initialize", hello("2025-06-18", capabilities={"experimental": {"x": {"y": 1e400}}})),
        '{"jsonrpc":"2.0","id":1,"id":2,"method":"server/discover"}\n',
        line("initialize", hello("2025-06-18")).replace("Codex", "\\ud800"),
        line("initialize", hello("2025-06-18")).replace("Codex", "\ufffd"),
        line("initialize", hello("2025-06-18", client=CODEX | {"title": "x" * 20_000})),
        "[" * 15_000 + "\n",
        "\n",
        '{"jsonrpc":"2.0","id":1,"result":{}}\n',
    ],
)
def test_an_opening_that_is_not_understood_is_left_to_the_server_with_all_that_follows(
    request_line: str, prepared: Prepared
) -> None:
    early, later = EarlyAnswers(prepared), line("tools/list", {}, 2)
    assert early.react(request_line) == Reaction(passed_on=request_line, needs_server=True)
    assert early.react(later) == Reaction(passed_on=later, needs_server=True)


@pytest.mark.parametrize(
    "later",
    [
        line("initialize", hello("2025-06-18"), 2),
        line("server/discover", envelope("2026-07-28"), 2),
        line("tools/list", envelope("2026-07-28"), 2),
        line("tools/list", {"cursor": "x"}, 2),
        line("resources/list", {}, 2),
        line("tools/call", {"name": "list_contexts", "arguments": {}}, 2),
        "nothing\n",
    ],
)
def test_other_lines_of_a_client_that_was_answered_are_left_to_the_server(later: str, prepared: Prepared) -> None:
    early = EarlyAnswers(prepared)
    early.react(line("initialize", hello("2025-06-18")))
    assert early.react(later) == Reaction(passed_on=later, needs_server=True)
    assert early.react(line("tools/list", {}, 3)).answer is not None


def test_the_server_reads_the_opening_under_another_id_and_all_notifications(prepared: Prepared) -> None:
    early = EarlyAnswers(prepared)
    opened = early.react(line("initialize", hello("2025-06-18"), 7))
    notifications = ['{"jsonrpc":"2.0","method":"notifications/initialized"}\n',
                     '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}\n']  # fmt: skip
    assert [early.react(each) for each in notifications] == [Reaction(passed_on=each) for each in notifications]
    assert early.react(line("tools/list", {}, 8)).passed_on is None
    assert json.loads(opened.passed_on or "") == {
        "jsonrpc": "2.0", "id": "rlm-mcp/answered-early", "method": "initialize", "params": hello("2025-06-18"),
    }  # fmt: skip
    (answer,) = anyio.run(converse, server_without_workspace(), [opened.passed_on or ""])
    assert is_repeated(answer)
    assert not is_repeated(opened.answer or "")

"""Replies to sub-calls belong to the tenant that paid for them, and to the client whose model made them up."""

import uuid
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from mcp_types import CreateMessageRequestParams, CreateMessageResult, TextContent

from tests.peers.openai_server import OpenAIServer, Request
from tests.peers.places import at
from tests.tenants.conftest import ANN, BOB, ServeTwo, called

pytestmark = pytest.mark.anyio

CODE = "```repl\nFINAL(llm_query('Is this invoice a fraud? ' + context))\n```"
QUESTION = {"query": "Is it a fraud?", "contexts": ["invoice"], "mode": "rlm", "wait_seconds": 50}


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    def reply(request: Request) -> str:
        return f"reply {request.number}" if request.last.startswith("Is this invoice") else CODE

    with OpenAIServer(reply).run_in_thread() as server:
        yield server


async def test_a_reply_that_one_tenant_got_is_not_given_to_another(serve_two: ServeTwo, endpoint: OpenAIServer) -> None:
    invoice = f"Invoice {uuid.uuid4()}"  # the cache directory is that of all tests
    with serve_two(endpoint.base_url) as url, anyio.fail_after(60):
        runs = {}
        for asked, token in (("ann", ANN), ("bob", BOB), ("ann again", ANN)):
            async with at(url, "auto", token) as client:
                await called(client, "register_context", text=invoice, name="invoice")
                runs[asked] = await called(client, "rlm_solve", **QUESTION)
    assert {asked: run["usage"]["cached_calls"] for asked, run in runs.items()} == {"ann": 0, "bob": 0, "ann again": 1}
    assert runs["ann"]["answer"] == runs["ann again"]["answer"] != runs["bob"]["answer"]


async def test_what_the_model_of_a_client_said_is_no_answer_for_any_later_run(serve_two: ServeTwo) -> None:
    invoice = f"Invoice {uuid.uuid4()}"
    answers = []
    with serve_two(RLM_MCP_MODEL="client") as url, anyio.fail_after(60):
        for token, verdict in ((ANN, "pay at once"), (BOB, "a fraud"), (BOB, "still a fraud")):
            async with at(url, "auto", token, sampling_callback=saying(verdict)) as client:
                await called(client, "register_context", text=invoice, name="invoice")
                answers.append((await called(client, "rlm_solve", **QUESTION))["answer"])
    assert answers == ["pay at once", "a fraud", "still a fraud"]


def saying(verdict: str) -> Any:
    """A client's model, which says this to sub-calls."""

    async def reply(_: object, params: CreateMessageRequestParams) -> CreateMessageResult:
        is_sub_call = "You answer one request about some text" in (params.system_prompt or "")
        content = TextContent(type="text", text=verdict if is_sub_call else CODE)
        return CreateMessageResult(role="assistant", content=content, model="theirs", stop_reason="endTurn")

    return reply

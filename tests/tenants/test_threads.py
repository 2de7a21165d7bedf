"""The threads and the memory of the sandbox are shared by all tenants, but none can take all of them."""

import threading

import anyio
import pytest

from rlm_mcp.concurrency import run_in_thread
from tests.peers.openai_server import Fault, OpenAIServer, Request
from tests.peers.places import at
from tests.tenants.conftest import ANN, BOB, ServeTwo, called

pytestmark = pytest.mark.anyio

ATTACK = """```repl
parallel_map(lambda n: llm_query(f"never answered {n}"), range(64))
```"""


async def test_copies_that_wait_for_the_model_of_one_tenant_delay_no_cell_of_another(serve_two: ServeTwo) -> None:
    waiting = threading.Event()

    def reply(request: Request) -> str | Fault:
        if not request.last.startswith("never answered"):
            return ATTACK
        waiting.set()
        return Fault(latency=600)

    with (
        OpenAIServer(reply).run_in_thread() as endpoint,
        serve_two(endpoint.base_url) as url,
        anyio.fail_after(120),
    ):
        async with at(url, "auto", ANN) as ann, at(url, "auto", BOB) as bob:
            await called(ann, "register_context", text="some text", name="text")
            await called(bob, "register_context", text="some text", name="text")
            asked = {"query": "Attack.", "contexts": ["text"], "mode": "rlm", "wait_seconds": 0}
            await called(ann, "rlm_solve", **asked)
            assert await run_in_thread(waiting.wait, 60)
            code = "parallel_map(lambda n: len(search('some')) + n, range(3))"
            cell = await called(bob, "inspect_context", context="text", code=code)
    assert cell["value"] == "[1, 2, 3]"

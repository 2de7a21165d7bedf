"""A real run in a chat, from its sub-calls in flight to its citations, in both themes.

`APP_SCREENSHOTS=docs/images .ci/browser tests/rlm_mcp/server/test_app_pictures.py` makes the pictures in
docs/run-page.md.
"""

import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from rlm_mcp.models.base import Completion, Message, Profile
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.server.server import build_server
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.launch import RunModels
from rlm_mcp.workspace.workspace import open_workspace
from tests.rlm_mcp.viewer.test_in_browser import script

from .in_chat import Chat, chromium, open_chat

pytestmark = [pytest.mark.browser, pytest.mark.anyio]

COMPONENTS = ("auth", "billing", "cart", "search", "mailer")
QUESTION = {
    "query": "Which errors in server.log hurt customers, and what do they have in common?",
    "contexts": ["server.log"],
    "mode": "rlm",
}
COUNT = """\
I count the errors first.

```repl
errors = [line for line in context.splitlines() if " ERROR " in line]
print(len(errors), "errors")
```
"""
JUDGE = """\
428 errors: I have them judged in batches.

```repl
head = "Which of these errors reach a customer?\\n"
batches = ["\\n".join(errors[at : at + 8]) for at in range(0, len(errors), 8)]
notes = llm_query_batched([head + batch for batch in batches])
print(set(notes))
```
"""
ANSWER = """\
```repl
failure = "timeout after 30 s calling payments-api"
for match in search(failure)[0:120:40]:
    cite(match, quote=failure)
FINAL(
    f'All 428 errors are the same failure: "{failure}". Every component that waits for payments-api is hit; customers'
    " notice it in cart and billing, whose pages answer only after the time-out."
)
```
"""
ANSWERED = 30
"""Sub-calls, of 54, whose answers come before the pictures of the running run are taken."""


def log_line(number: int) -> str:
    said = "timeout after 30 s calling payments-api" if number % 7 == 3 else "request served in 41 ms"
    level = "ERROR" if number % 7 == 3 else "INFO"
    time = f"10:{number // 60:02}:{number % 60:02}Z"
    return f"2026-11-22T{time} {level} {COMPONENTS[number * (number + 3) % 5]}: {said}\n"


class SubModel:
    """Answers in 0.3 to 2 seconds, and calls after the first ANSWERED only once `go` is set."""

    name = "small-model"
    provider = "scripted"
    profile = Profile(usd_per_mtok_in=0.1, usd_per_mtok_out=0.4)

    def __init__(self) -> None:
        self.go = anyio.Event()
        self._numbers = itertools.count(1)
        self._said = ScriptedModel(lambda _: "All of them: the checkout waits for it.", profile=self.profile)

    async def complete(self, messages: Sequence[Message], **options: Any) -> Completion:
        number = next(self._numbers)
        await anyio.sleep(0.3 + 0.1 * (number * 7 % 18))
        if number > ANSWERED:
            await self.go.wait()
        return await self._said.complete(messages, **options)


@pytest.fixture
def sub_model() -> SubModel:
    return SubModel()


@pytest.fixture
async def chat(tmp_path: Path, compiled_cache: Path, sub_model: SubModel) -> AsyncIterator[Chat]:
    (tmp_path / "server.log").write_text("".join(map(log_line, range(3_000))))
    dear = Profile(usd_per_mtok_in=2.0, usd_per_mtok_out=8.0)
    root = ScriptedModel((COUNT, JUDGE, ANSWER), name="big-model", profile=dear, seconds=0.8)
    settings = Settings(
        data_dir=tmp_path / "data",
        cache_dir=compiled_cache,
        roots=(tmp_path,),
        sub_call_cache=False,
    )

    async def choose(_root: str | None, _sub: str | None) -> RunModels:
        return RunModels(root=root, sub=sub_model)

    async with (
        chromium() as browser,
        open_workspace(settings, choose=choose) as workspace,
        Client(build_server(workspace)) as client,
        open_chat(browser, client, height=640) as chat,
    ):
        await workspace.contexts.register(source=str(tmp_path / "server.log"), name="server.log")
        yield chat


async def test_a_run_is_shown_with_its_sub_calls_in_flight_and_then_with_its_citations(
    chat: Chat, sub_model: SubModel
) -> None:
    frame = chat.frame
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", QUESTION)
        await chat.call("rlm_solve", QUESTION | {"wait_seconds": 0, "max_usd": 0.5, "max_seconds": 600})
        await frame.locator(".doing", has_text=f"{54 - ANSWERED} sub-calls in flight").wait_for()
        await frame.locator('nav a[href="#timeline"]').click()
        await look_in_both_themes(chat, "running")
        sub_model.go.set()
        await frame.locator(".status", has_text="completed").wait_for()
        await frame.locator('nav a[href="#answer"]').click()
        await frame.locator(".answer-text a.reference").first.click()
        await frame.locator(".give", has_text="in the chat").wait_for()
        assert await frame.locator(".citation .state").all_inner_texts() == ["verified"] * 3
        await look_in_both_themes(chat, "finished")


async def look_in_both_themes(chat: Chat, what: str) -> None:
    for theme in ("light", "dark"):
        await chat.page.evaluate("(theme) => window.bridge.setHostContext({ theme })", theme)
        await chat.page.wait_for_timeout(100)  # for the page to have it
        await chat.inside("scrollTo(0, 0)")
        assert await chat.inside(script("complaints")) == []
        await chat.look(f"chat-{what}-{theme}")

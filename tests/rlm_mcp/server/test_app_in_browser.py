"""The pages of MCP Apps in Chromium, as a host shows them (in_chat.py)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import Client

from rlm_mcp.records.events import Event, RunStarted
from rlm_mcp.workspace.workspace import Workspace
from tests.rlm_mcp.viewer import records
from tests.rlm_mcp.viewer.test_in_browser import HARMLESS, script

from .conftest import LOG, HeldModel
from .in_chat import Chat, chromium, open_chat

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.anyio]

QUESTION = {"query": "How many errors are there?", "contexts": ["t"], "mode": "rlm"}


@pytest.fixture
async def browser() -> AsyncIterator["Browser"]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def chat(browser: "Browser", client: Client) -> AsyncIterator[Chat]:
    async with open_chat(browser, client) as chat:
        yield chat


@pytest.fixture
async def context(workspace: Workspace) -> str:
    return (await workspace.contexts.register(text=LOG, name="t")).context_id


def put_on_record(workspace: Workspace, events: list[Event]) -> str:
    [started, *rest] = events
    assert isinstance(started, RunStarted)
    facts = {name: getattr(started, name) for name in ("query", "contexts", "limits", "models")}
    run = workspace.runs.records.create(RunStarted(**facts))
    for event in rest:
        run.append(event)
    run.close()
    return run.run_id


def cited_run(workspace: Workspace, context_id: str) -> str:
    """A run whose answer cites two lines, one of them wrongly."""
    stored = workspace.contexts.store.get(context_id)
    known = {"context_id": context_id, "path": workspace.contexts.store.files(stored)[0].path}
    quotes = {7: "worker-2 did thing 6", 99: "nobody ever wrote this"}
    citations = [
        known | {"start_line": n, "end_line": n, "quote": quote, "verified": n == 7} for n, quote in quotes.items()
    ]
    answer = f'Thing 6 was done: "{quotes[7]}". Also "{quotes[99]}".'
    ranges = {"code": {f"{context_id}/{known['path']}": [[0, len(LOG)]]}, "model": {}}
    about = {**known, "name": "t", "kind": "text", "chars": len(LOG), "lines": 60, "files": 1}
    events = [
        records.started(query="What did the workers do?", contexts=[about]),
        records.reply("", 1, "I count.\n\n```repl\nlen(context)\n```", 2.0, 1.5),
        records.cell("", 1, "len(context)", 2.2, 0.1, value="3000"),
        records.ended(
            answer,
            3.0,
            citations=citations,
            coverage={"total_chars": len(LOG), "read_by_code": len(LOG), "read_by_model": 0, "ranges": ranges},
        ),
    ]
    return put_on_record(workspace, records.events(events))


async def test_a_run_is_shown_from_its_question_to_its_answer(chat: Chat, context: str, model: HeldModel) -> None:
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", QUESTION)
        await chat.frame.locator(".doing", has_text="Waiting for the run").wait_for()
        started = await chat.call("rlm_solve", {**QUESTION, "wait_seconds": 0, "max_seconds": 600})
        run_id = started["structuredContent"]["run_id"]
        await chat.frame.locator(".mono", has_text=run_id).wait_for()
        await model.waiting.wait()
        await chat.frame.locator(".doing", has_text="asking the root model").wait_for()
        await chat.look("running-light")
        assert await chat.frame.locator("h1").inner_text() == QUESTION["query"]
        assert "left" in await chat.frame.locator(".figures-line").inner_text()
        model.go.set()
        await chat.frame.locator(".status", has_text="completed").wait_for()
        assert await chat.frame.locator(".answer-text").inner_text() == "42"
        assert await chat.frame.locator("#cancel").count() == 0
        ended = await chat.call("rlm_result", {"run_id": run_id})
        await chat.tell_result(ended)
        await chat.frame.locator(".answer-text", has_text="42").wait_for()


async def test_cancel_stops_the_run(chat: Chat, context: str, model: HeldModel) -> None:
    with anyio.fail_after(60):
        started = await chat.call("rlm_solve", {**QUESTION, "wait_seconds": 0})
        await model.waiting.wait()
        await chat.show("ui://rlm-mcp/run", QUESTION)
        await chat.tell_result(started)
        await chat.frame.locator("#cancel").click()
        await model.cancelled.wait()
        await chat.frame.locator(".status", has_text="cancelled").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_a_citation_is_shown_in_place_and_given_to_the_model(
    chat: Chat, workspace: Workspace, context: str, theme: str
) -> None:
    run_id = cited_run(workspace, context)
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", {"run_id": run_id}, context={"theme": theme})
        frame = chat.frame
        await frame.locator(".answer-text a.reference").first.click()
        await frame.locator(".give", has_text="in the chat").wait_for()
        await chat.look(f"finished-{theme}")
        assert await frame.locator("#citation-1 mark").inner_text() == "worker-2 did thing 6"
        assert await frame.locator(".citation .state").all_inner_texts() == ["verified", "not found"]
        [[given]] = await chat.heard("given")
        assert "LOG" not in given["text"]
        assert f"of {run_id}" in given["text"]
        assert "[citation 1, verified, context t" in given["text"]
        assert LOG.splitlines()[6] in given["text"]
        await frame.locator("#citation-1 .give").click()
        await frame.locator("#citation-1 .give", has_text="add to").wait_for()
        assert (await chat.heard("given"))[-1] == []
        for tab in ("coverage", "spending", "timeline", "turns"):
            await frame.locator(f'nav a[href="#{tab}"]').click()
            assert await frame.locator("main section:visible").count() == 1
            assert await chat.inside(script("complaints")) == []
            await chat.look(f"{tab}-{theme}")
        ground = await chat.inside("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[theme]


async def test_the_page_takes_on_the_hosts_colours_if_they_can_be_read(
    chat: Chat, workspace: Workspace, context: str
) -> None:
    run_id = cited_run(workspace, context)
    variables = {
        "--color-background-primary": "light-dark(#fffdf5, #10100c)",
        "--color-background-secondary": "light-dark(#f7f4e8, #191914)",
        "--color-text-primary": "light-dark(#222222, #eeeeee)",
        "--color-text-secondary": "light-dark(#555555, #aaaaaa)",
        "--font-sans": "Georgia, serif",
    }
    ground = "getComputedStyle(document.body).backgroundColor"
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", {"run_id": run_id}, context={"styles": {"variables": variables}})
        await chat.frame.locator(".answer-text").wait_for()
        assert await chat.inside(ground) == "rgb(255, 253, 245)"
        assert "Georgia" in await chat.inside("getComputedStyle(document.body).fontFamily")
        unreadable = {**variables, "--color-text-secondary": "#f0f0e8"}
        await chat.page.evaluate("(styles) => window.bridge.setHostContext({ styles })", {"variables": unreadable})
        await chat.page.wait_for_function("window.heard.sizes.length > 0")
        assert await chat.inside(ground) == "rgb(255, 255, 255)"


async def test_the_page_tells_its_height_and_no_more_than_a_chat_bears(
    chat: Chat, workspace: Workspace, context: str
) -> None:
    run_id = cited_run(workspace, context)
    with anyio.fail_after(60):
        await chat.show(
            "ui://rlm-mcp/run",
            {"run_id": run_id},
            context={"displayMode": "inline", "availableDisplayModes": ["inline", "fullscreen"]},
        )
        await chat.frame.locator(".answer-text").wait_for()
        assert max(await chat.heard("sizes")) <= 640
        await chat.frame.locator("#resize").click()
        await chat.frame.locator("#resize", has_text="Back to the chat").wait_for()
        await chat.look("full-screen")


async def test_five_thousand_sub_calls_come_in_pieces_and_are_a_few_rows(chat: Chat, workspace: Workspace) -> None:
    run_id = put_on_record(workspace, records.big(5_000))
    with anyio.fail_after(120):
        await chat.show("ui://rlm-mcp/run", {"run_id": run_id})
        await chat.frame.locator(".status", has_text="completed").wait_for()
        await chat.look("big-answer")
        await chat.frame.locator('nav a[href="#timeline"]').click()
        await chat.frame.locator("button", has_text="Open all").click()
        grid = chat.frame.locator("#timeline-grid")
        assert int(str(await grid.get_attribute("aria-rowcount"))) > 5_500
        assert await chat.frame.locator(".grid-row").count() < 60
        await chat.look("big-timeline")
        await chat.inside(script("scroll"))
        assert len(await chat.heard("calls")) < 60


async def test_a_page_that_is_told_the_same_result_again_does_not_ask_more_often(
    chat: Chat, context: str, model: HeldModel
) -> None:
    with anyio.fail_after(60):
        started = await chat.call("rlm_solve", {**QUESTION, "wait_seconds": 0})
        await model.waiting.wait()
        await chat.show("ui://rlm-mcp/run", QUESTION)
        await chat.frame.locator("#cancel").wait_for()
        for _ in range(8):
            asked = await chat.heard("calls.length")
            await chat.tell_result(started)
            await chat.page.wait_for_function(f"window.heard.calls.length > {asked}")
        asked = await chat.heard("calls.length")
        await chat.page.wait_for_timeout(2_500)
        assert await chat.heard("calls.length") - asked <= 3


async def test_pieces_that_hold_emoji_are_joined(chat: Chat, workspace: Workspace) -> None:
    [started, *rest] = records.big(1_500)
    smiling = records.events([records.reply("", 1, "\U0001f600", 0.1)])
    run_id = put_on_record(workspace, [started, *smiling, *rest])
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", {"run_id": run_id})
        await chat.frame.locator(".status", has_text="completed").wait_for()
        assert len(await chat.heard("calls")) > 3


async def test_the_result_of_a_call_turns_the_page_to_its_run(chat: Chat, workspace: Workspace, context: str) -> None:
    other = put_on_record(workspace, records.big(100))
    run_id = cited_run(workspace, context)
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", {"run_id": other})
        await chat.frame.locator(".status", has_text="completed").wait_for()
        await chat.tell_result(await chat.call("rlm_result", {"run_id": run_id}))
        await chat.frame.locator(".citation").first.wait_for()
        await chat.page.wait_for_function("window.heard.calls.length > 1")
        await chat.frame.locator('nav a[href="#turns"]').click()
        await chat.frame.locator("#turns", has_text="I count.").wait_for()
        assert "split(context" not in str(await chat.frame.locator("#turns").text_content())


async def test_a_cancelled_call_without_a_run_is_not_asked_about_any_more(chat: Chat) -> None:
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", QUESTION)
        await chat.page.wait_for_function("window.heard.calls.length > 0")
        await chat.page.evaluate("window.bridge.sendToolCancelled({ reason: 'stop' })")
        await chat.frame.locator(".note-line", has_text="cancelled").wait_for()
        asked = await chat.heard("calls.length")
        await chat.page.wait_for_timeout(2_500)
        assert await chat.heard("calls.length") - asked <= 1


async def test_hostile_texts_stay_texts(chat: Chat, workspace: Workspace) -> None:
    run_id = put_on_record(workspace, records.hostile())
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", {"run_id": run_id, "query": "<img src=x onerror=alert(1)>"})
        await chat.frame.locator(".status", has_text="completed").wait_for()
        await chat.look("hostile")
        for tab in ("coverage", "spending", "timeline", "turns"):
            await chat.frame.locator(f'nav a[href="#{tab}"]').click()
            await chat.look(f"hostile-{tab}")
        found = await chat.inside(script("census"))
        assert found | {"scripts": 2, "styles": 1} == HARMLESS


async def test_a_host_that_lets_pages_call_no_tools_shows_the_result_itself(
    chat: Chat, workspace: Workspace, context: str
) -> None:
    run_id = cited_run(workspace, context)
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", {"run_id": run_id}, capabilities={})
        await chat.tell_result(await chat.call("rlm_result", {"run_id": run_id}))
        await chat.frame.locator(".answer-text", has_text="Thing 6 was done").wait_for()
        assert await chat.heard("calls") == []


async def test_a_call_that_fails_says_so(chat: Chat) -> None:
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", QUESTION)
        await chat.tell_result(await chat.call("rlm_solve", QUESTION))
        await chat.frame.locator(".note-line", has_text="'t'").wait_for()
        await chat.look("failed")


CONTEXT_PAGE = "ui://rlm-mcp/ctx"


async def registered(chat: Chat, folder: Path) -> dict[str, Any]:
    """A context of files, registered by a call."""
    for name, text in {"docs/guide.md": "# Guide\n\n## Set-up\ntext\n", "app.log": LOG}.items():
        file = anyio.Path(folder) / "shop" / name
        await file.parent.mkdir(parents=True, exist_ok=True)
        await file.write_text(text)
    return await chat.call("register_context", {"source": str(folder / "shop")})


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_a_registered_context_shows_structure_files_and_text(chat: Chat, tmp_path: Path, theme: str) -> None:
    frame = chat.frame
    with anyio.fail_after(60):
        result = await registered(chat, tmp_path)
        await chat.show(CONTEXT_PAGE, {"source": "shop"}, context={"theme": theme})
        await chat.tell_result(result)
        assert await frame.locator("h1").inner_text() == "shop"
        await frame.locator(".structure dt", has_text="file types").wait_for()
        await chat.look(f"context-structure-{theme}")
        assert await chat.inside(script("complaints")) == []
        await frame.locator(".tab", has_text="Files").click()
        await chat.look(f"context-files-{theme}")
        await frame.locator(".tree button", has_text="guide.md").click()
        await frame.locator(".passage .row", has_text="## Set-up").wait_for()
        await frame.locator("input").fill("ERROR worker-[13]")
        await frame.locator("input").press("Enter")
        await frame.locator(".facts", has_text="lines match").wait_for()
        await chat.look(f"context-search-{theme}")
        await frame.locator(".give").click()
        await frame.locator(".give", has_text="in the chat").wait_for()
        [[given]] = await chat.heard("given")
        assert "app.log:4: 2026-11-22 10:00:03 ERROR worker-3" in given["text"]
        await frame.locator(".matches button").first.click()
        await frame.locator(".passage .row", has_text="did thing 59").wait_for()


@pytest.mark.parametrize(
    ("look", "selector", "text"),
    [
        ({"search": "thing 7"}, ".passage .row.cited", "did thing 7"),
        ({"start_line": 8, "end_line": 9}, ".passage .row", "did thing 7"),
        ({"code": "len(context)"}, ".output.value", "12"),
        ({}, ".structure dt", "format"),
    ],
)
async def test_a_look_into_a_context_is_shown_as_what_it_found(
    chat: Chat, context: str, look: dict[str, Any], selector: str, text: str
) -> None:
    arguments = {"context": context, **look}
    with anyio.fail_after(60):
        await chat.show(CONTEXT_PAGE, arguments)
        await chat.tell_result(await chat.call("inspect_context", arguments))
        await chat.frame.locator(selector, has_text=text).first.wait_for()
        await chat.frame.locator(".tab", has_text="Structure").click()
        await chat.frame.locator(".structure dt", has_text="format").first.wait_for()


async def test_given_lines_can_be_removed_from_wherever_the_reader_is(chat: Chat, context: str) -> None:
    lines = {"context": context, "start_line": 8, "end_line": 9}
    with anyio.fail_after(60):
        await chat.show(CONTEXT_PAGE, lines)
        await chat.tell_result(await chat.call("inspect_context", lines))
        await chat.frame.locator(".give").click()
        await chat.frame.locator(".give", has_text="in the chat").wait_for()
        assert await chat.frame.locator(".take-back").count() == 0
        await chat.frame.locator("button", has_text="after").click()
        await chat.frame.locator(".passage .row", has_text="did thing 20").wait_for()
        await chat.frame.locator(".note-line", has_text="In the chat: lines 8-9 of").wait_for()
        await chat.page.evaluate("window.refusesContext = true")
        await chat.frame.locator(".take-back").click()
        await chat.frame.locator(".note-line", has_text="did not remove the lines").wait_for()
        await chat.look("lines-not-removed")
        await chat.page.evaluate("window.refusesContext = false")
        await chat.frame.locator(".take-back").click()
        await chat.frame.locator(".take-back").wait_for(state="detached")
        assert (await chat.heard("given"))[-1] == []
        assert await chat.frame.locator(".give").inner_text() == "add to the chat"


async def test_a_passage_that_the_host_does_not_remove_is_still_given(
    chat: Chat, workspace: Workspace, context: str
) -> None:
    run_id = cited_run(workspace, context)
    with anyio.fail_after(60):
        await chat.show("ui://rlm-mcp/run", {"run_id": run_id})
        give = chat.frame.locator("#citation-1 .give")
        await give.click()
        await chat.frame.locator("#citation-1 .give", has_text="remove").wait_for()
        await chat.page.evaluate("window.refusesContext = true")
        await give.click()
        await chat.frame.locator(".note-line", has_text="did not remove the passage").wait_for()
        assert await give.inner_text() == "in the chat, remove"


async def test_a_hostile_context_stays_text(chat: Chat, workspace: Workspace) -> None:
    attack = '<img src=x onerror="window.pwned=1"><script>window.pwned = 2</script> \u202egnp.exe\u202c\n'
    stored = await workspace.contexts.register(text=attack * 20, name='<b onclick="pwned=3">x')
    with anyio.fail_after(60):
        await chat.show(CONTEXT_PAGE, {"context": attack})
        await chat.tell_result(await chat.call("inspect_context", {"context": stored.context_id}))
        await chat.frame.locator(".structure").first.wait_for()
        await chat.look("hostile-context")
        await chat.frame.locator(".tab", has_text="Text").click()
        await chat.frame.locator(".passage .row").first.wait_for()
        found = await chat.inside(script("census"))
        harm = {name: found[name] for name in ("loading", "handlers", "links", "unseen", "pwned")}
        assert harm == {"loading": 0, "handlers": 0, "links": 0, "unseen": 0, "pwned": None}

"""A chat in Chromium with one page of an MCP App in it, shown by the reference bridge for hosts.

`.ci/browser` installs both and names the bundled host (viewer/in_host/host.js) in APP_HOST. The frame has no origin,
and the policy that the specification asks of hosts. A chat fails in the end on a message in the console, an error, a
dialog, a breach of a policy or a request.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mcp import Client
from mcp_types import CallToolResult, TextResourceContents

from tests.rlm_mcp.viewer.test_in_browser import CHROMIUM, FLAGS, WATCH

if TYPE_CHECKING:
    from playwright.async_api import Browser, FrameLocator, Page

HOST = os.environ.get("APP_HOST", "")
SCREENSHOTS = os.environ.get("APP_SCREENSHOTS", "")
HOST_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "media-src 'self' data:; object-src 'none'; connect-src 'none'; frame-src 'none'; base-uri 'self'"
)
FRAME = '<body style="margin:0"><iframe id="frame" sandbox="allow-scripts" style="width:100%;height:200px;border:0">'
CAN: Mapping[str, Any] = {"serverTools": {}, "updateModelContext": {"text": {}}}


@asynccontextmanager
async def chromium() -> AsyncIterator["Browser"]:
    """The browser; skips the test without it or the host."""
    api = pytest.importorskip("playwright.async_api", reason="needs the package playwright")
    if CHROMIUM is None or not HOST:
        pytest.skip("needs chromium on the path and the host that .ci/browser makes")
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


class Chat:
    """A chat with one page in it."""

    def __init__(self, page: "Page", client: Client) -> None:
        self.page = page
        self.client = client
        self.frame: FrameLocator = page.frame_locator("#frame")

    async def show(
        self,
        uri: str,
        arguments: Mapping[str, Any],
        *,
        context: Mapping[str, Any] | None = None,
        capabilities: Mapping[str, Any] | None = None,
    ) -> None:
        """Shows the page as soon as its tool is called."""
        [content] = (await self.client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        policy = f'<meta http-equiv="Content-Security-Policy" content="{HOST_POLICY}">'
        html = content.text.replace("<head>", f"<head>{policy}<script>{WATCH}</script>", 1)
        facts = {"context": context or {}, "capabilities": CAN if capabilities is None else capabilities}
        await self.page.evaluate("([html, facts]) => window.show(html, facts)", [html, {**facts, "input": arguments}])

    async def tell_result(self, result: Mapping[str, Any]) -> None:
        await self.page.evaluate("(result) => window.bridge.sendToolResult(result)", result)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A call of a tool, as a host makes it for its model or for the page."""
        result = await self.client.call_tool(name, dict(arguments))
        assert isinstance(result, CallToolResult)
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    async def heard(self, what: str) -> Any:
        return await self.page.evaluate(f"window.heard.{what}")

    async def inside(self, function: str) -> Any:
        """What a function returns in the page."""
        return await self.page.frames[1].evaluate(function)

    async def look(self, name: str) -> None:
        """Keeps a screenshot for a person to look at."""
        if SCREENSHOTS:
            await self.page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"))


@asynccontextmanager
async def open_chat(browser: "Browser", client: Client, *, height: int = 820) -> AsyncIterator[Chat]:
    """A chat whose page calls the tools of a server through its client."""
    page = await browser.new_page(viewport={"width": 760, "height": height})
    chat = Chat(page, client)
    complaints: list[str] = []

    async def refuse(dialog: Any) -> None:
        complaints.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def note(message: Any) -> None:
        if message.type in {"warning", "error"}:
            complaints.append(f"console: {message.text}")

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("dialog", refuse)
    page.on("request", lambda request: complaints.append(f"request: {request.url}"))
    await page.expose_function("callTool", chat.call)
    await page.set_content(FRAME)
    await page.add_script_tag(path=HOST)
    yield chat
    if len(page.frames) > 1:
        complaints += [f"breach: {breach}" for breach in await chat.inside("window.breaches")]
    await page.close()
    assert [one for one in complaints if "about:srcdoc" not in one] == []

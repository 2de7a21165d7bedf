"""Shows at a terminal how much of a source has been ingested."""

import sys
from contextlib import suppress
from typing import TextIO

import anyio
from rich.live import Live
from rich.text import Text

from rlm_mcp.cli.console.drawing import can_be_drawn_on, console_on
from rlm_mcp.cli.console.excerpt import one_line
from rlm_mcp.concurrency import background_task
from rlm_mcp.contexts.sources.address import is_address, shown_address
from rlm_mcp.contexts.types import Context
from rlm_mcp.workspace.progress import IngestProgress
from rlm_mcp.workspace.workspace import Workspace

DELAY_SECONDS = 0.5
"""Nothing is shown for a source that is ingested by then."""

FRAME_SECONDS = 0.2


async def register_source(
    workspace: Workspace, source: str, stream: TextIO, *, quiet: bool, encoding: str | None = None
) -> Context:
    """The context of a source, which is registered if it is not yet."""
    if quiet or not can_be_drawn_on(stream):
        return await workspace.contexts.find_or_register(source, encoding=encoding, stdin=sys.stdin.buffer)
    progress = IngestProgress()
    async with background_task(_show, source, progress, stream):
        return await workspace.contexts.find_or_register(
            source, encoding=encoding, progress=progress, stdin=sys.stdin.buffer
        )


async def _show(source: str, progress: IngestProgress, stream: TextIO) -> None:
    await anyio.sleep(DELAY_SECONDS)
    shown = shown_address(source) if is_address(source) else source

    def line() -> Text:
        return Text(f"{one_line(shown)}: {progress} …", "dim", no_wrap=True, overflow="ellipsis")

    with (
        suppress(OSError),
        Live(console=console_on(stream), auto_refresh=False, transient=True, get_renderable=line) as live,
    ):
        while True:
            live.refresh()
            await anyio.sleep(FRAME_SECONDS)

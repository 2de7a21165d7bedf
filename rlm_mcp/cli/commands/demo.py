"""`demo`: a recorded run of a real model, executed again on this machine."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, Commands, settings_from


def add(commands: Commands) -> None:
    """Registers `demo`."""
    text = "replay a recorded run over a log that ships with rlm-mcp"
    commands.add("demo", lambda options: anyio.run(demo, options), text)


async def demo(options: argparse.Namespace) -> int:
    """Plays it in a data directory of its own, so that nothing is left among the user's contexts."""
    from rlm_mcp.cli.demo import play_demo
    from rlm_mcp.workspace.workspace import open_workspace

    settings = settings_from(options)
    with TemporaryDirectory() as scratch:
        async with open_workspace(replace(settings, data_dir=Path(scratch))) as workspace:
            page = settings.cache_dir / "demo" / "run.html"
            is_same = await play_demo(workspace, sys.stdout, as_json=options.json, page=page)
            return ANSWERED if is_same else FAILED

"""`doctor`, `config` and `demo`: whether this machine is ready, what is set on it, and an example of a run."""

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from rlm_mcp.cli.commands.output import name_commands, print_json
from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, Commands, run_async, settings_from
from rlm_mcp.redact import escape_controls
from rlm_mcp.settings import EffectiveSetting, Settings, config_path, effective_settings


def add_commands(commands: Commands) -> None:
    """Registers `doctor`, `config` and `demo`."""
    text = "check this machine, the sandbox, the model and the MCP clients"
    doctor_parser = commands.add("doctor", run_async(doctor), text)
    doctor_parser.add_argument(
        "--warm", action="store_true", help="compile the sandbox, and prepare the first answers, now"
    )
    config_parser = commands.add("config", config, "show every setting with its value and its origin")
    config_parser.add_argument("--path", action="store_true", help="print only the path of the settings file")
    demo_parser = commands.add("demo", demo, "replay a recorded run over data that ships with rlm-mcp")
    demo_parser.add_argument(
        "name",
        nargs="?",
        choices=["support", "small"],
        default="support",
        help="support (the default): a strong root model and a small sub-model answer a question over messages,"
        " customers and the channel of an incident; small: one small local model answers a question over a log",
    )


async def doctor(options: argparse.Namespace) -> int:
    """Prints each check when it is done."""
    import anyio.to_thread

    from rlm_mcp.cli.commands.serving import prepare_first_answers
    from rlm_mcp.cli.doctor import run_checks

    def print_progress(text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    settings = settings_from(options)
    if options.warm:
        await anyio.to_thread.run_sync(prepare_first_answers, settings)
    checks = []
    async for found in run_checks(settings, warm=options.warm, on_progress=print_progress):
        check = replace(found, detail=name_commands(found.detail), remedy=name_commands(found.remedy))
        checks.append(check)
        if not options.json:
            lines = [
                f"{check.status:<8} {check.name}: {check.detail}",
                *([" " * 9 + check.remedy] if check.remedy else []),
            ]
            print("\n".join(_folded(escape_controls(line), 9) for line in lines), flush=True)
    if options.json:
        print_json([asdict(check) for check in checks])
    return FAILED if any(check.status == "failure" for check in checks) else ANSWERED


def config(options: argparse.Namespace) -> int:
    """Prints each setting with its value and its origin."""
    path = config_path()
    if options.path:
        print_json({"path": str(path)}) if options.json else print(path)
        return ANSWERED
    settings = settings_from(options)
    rows = _with_found(settings, effective_settings(settings))
    if options.json:
        print_json({"path": str(path), "exists": path.exists(), "settings": [asdict(row) for row in rows]})
        return ANSWERED
    print(escape_controls(f"{path}{'' if path.exists() else ' (does not exist)'}"))
    width = min(40, max(len(_value(row.value)) for row in rows)) if _columns() >= 80 else 0
    for row in rows:
        line = escape_controls(f"{row.name:<17} {_value(row.value):<{width}} {row.origin}")
        print(_folded(line, 19 + width))
    return ANSWERED


def demo(options: argparse.Namespace) -> int:
    """Replays a recorded run that ships with rlm-mcp."""
    import anyio

    from rlm_mcp.cli.demo import run_demo

    is_as_recorded = anyio.run(
        partial(run_demo, settings_from(options), options.name, sys.stdout, as_json=options.json)
    )
    return ANSWERED if is_as_recorded else FAILED


def _with_found(settings: Settings, rows: Sequence[EffectiveSetting]) -> Sequence[EffectiveSetting]:
    """The settings with the local server that a run would use, if neither an endpoint nor a key is set."""
    from rlm_mcp.models.discovery import find_local_servers

    servers = [] if settings.base_url is not None or settings.api_key else find_local_servers()
    if not servers:
        return rows
    found = {"base_url": servers[0].base_url, "model": servers[0].models[0]}
    return [
        replace(row, value=found[row.name], origin=f"found: {servers[0].name} on this machine")
        if row.name in found and row.value is None
        else row
        for row in rows
    ]


def _value(value: Any) -> str:
    match value:
        case None:
            return "-"
        case str():
            return value
        case list():
            return os.pathsep.join(map(str, value))
    return json.dumps(value)


def _folded(line: str, indent: int) -> str:
    """The line wrapped to the width of the terminal, with an indentation; unchanged if stdout is not a terminal."""
    if not sys.stdout.isatty():
        return line
    columns = _columns()
    parts = textwrap.wrap(
        line,
        columns,
        subsequent_indent=" " * min(indent, columns // 2),
        drop_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(part.rstrip() for part in parts)


def _columns() -> int:
    return max(40, shutil.get_terminal_size().columns)

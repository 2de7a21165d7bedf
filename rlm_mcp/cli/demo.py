"""`rlm-mcp demo`: the main job on a machine with nothing configured, by replaying a recorded run of a real model.

Only the model's replies come from the record. Every block of code is executed again in the sandbox over the log that
ships with the package, every sub-call is matched by its prompt, every citation is checked again. At the end there is
the page of the run, in a place that stays.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TextIO

import anyio.to_thread
from rich.text import Text

from rlm_mcp.cli.console.drawing import RunPrinter, console_on
from rlm_mcp.cli.console.excerpt import excerpt
from rlm_mcp.cli.console.outcome import show_outcome
from rlm_mcp.errors import RlmError
from rlm_mcp.records.events import Event, RunStarted
from rlm_mcp.records.reading import read_events
from rlm_mcp.records.types import Outcome
from rlm_mcp.redact import escape_controls
from rlm_mcp.viewer.page import PageNotWritten, write_page
from rlm_mcp.workspace.workspace import Workspace

ANSWER_LINES = 40

INTRODUCTION = (
    "A recorded run of {model}, replayed. Its replies, and the time they took, come from the record. All else happens "
    "now: its code runs in the sandbox on this machine, over the log that ships with rlm-mcp.\n"
)
CAME_OUT = "It came out as recorded."
DIFFERS = "It differs from the record: {difference}"
NEXT_STEPS = """
Its page, with the evidence, the timeline and every step:
  {page}

What to do next:
  rlm-mcp doctor                  checks this machine, looks for a model on it
  rlm-mcp install CLIENT          adds it to claude-code, cursor, vscode, …
  rlm-mcp solve "QUESTION" PATH   answers a question of yours, with your model
  rlm-mcp inspect PATH            Python in the sandbox; needs no model
"""


class NoDemo(RlmError):
    """The package was built without the recorded run."""


async def play_demo(workspace: Workspace, out: TextIO, *, as_json: bool, page: Path) -> bool:
    """Replays the recorded run that ships with the package. True when it came out as recorded."""
    with _data("shop.log") as log, _data("run.jsonl") as record:
        if not record.is_file():
            raise NoDemo("this build of rlm-mcp has no recorded run: install a released version, or use rlm-mcp solve.")
        return await replay(workspace, list(read_events(record)), log, out, as_json=as_json, page=page)


async def replay(
    workspace: Workspace, events: Sequence[Event], log: Path, out: TextIO, *, as_json: bool, page: Path
) -> bool:
    """Replays a recorded run over `log`, tells it as it goes or as one JSON object, and writes its page."""
    context = await workspace.contexts.register(source=str(log), name=log.name)
    console = console_on(out)
    printer = RunPrinter(console)
    started = events[0]
    if isinstance(started, RunStarted) and not as_json:
        console.print(INTRODUCTION.format(model=escape_controls(started.models["root"]["name"])))
        printer.event(started)
    outcome, difference = await workspace.runs.replay_events(
        events, (context,), (lambda _: None) if as_json else printer.event
    )
    written = await _write_page(workspace, events, page)
    if as_json:
        out.write(json.dumps(_facts(outcome, difference, written), ensure_ascii=True, indent=1) + "\n")
        return difference is None
    console.print(Text(f"\n{_answer(outcome.answer)}", "bold"), soft_wrap=True)
    console.print(show_outcome(outcome))
    told = CAME_OUT if difference is None else DIFFERS.format(difference=escape_controls(difference))
    console.print(f"\n{told}", soft_wrap=True)
    console.print(NEXT_STEPS.format(page=escape_controls(str(written))), soft_wrap=True)
    return difference is None


async def _write_page(workspace: Workspace, events: Sequence[Event], page: Path) -> Path | str:
    """Where the page is, or why it is nowhere: the demo is worth having without it."""
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        return await anyio.to_thread.run_sync(partial(write_page, events, workspace.contexts.store, page))
    except (OSError, PageNotWritten) as error:
        return f"(not written: {error})"


def _data(name: str) -> AbstractContextManager[Path]:
    return as_file(files("rlm_mcp.cli.demo_data").joinpath(name))


def _answer(answer: object) -> str:
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    part = excerpt(text, first=ANSWER_LINES)
    return "\n".join((*part.first, f"… {part.left_out} more lines" if part.left_out else "")).rstrip("\n")


def _facts(outcome: Outcome, difference: str | None, page: Path | str) -> dict[str, Any]:
    facts = asdict(outcome)
    facts["coverage"].pop("ranges", None)
    return {"replay": True, "difference": difference, "page": str(page), **facts}

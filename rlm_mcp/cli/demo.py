"""`rlm-mcp demo`: replays a recorded run of a real model, so that it works on a machine with nothing configured.

Only the model's replies come from the record. Every block of code is executed again in the sandbox over the log that
ships with the package, every sub-call is matched by its prompt, and every citation is checked again. The page of the
run is kept in the cache directory.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
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
from rlm_mcp.settings import Settings
from rlm_mcp.viewer.page import PageNotWritten, write_page
from rlm_mcp.workspace.workspace import Workspace, open_workspace

ANSWER_LINES = 40

INTRODUCTION = (
    "A recorded run of {model}, replayed. The model's replies and their times come from the record. Everything else "
    "happens now: the code runs in the sandbox on this machine, over the log that ships with rlm-mcp.\n"
)
SAME = "The result is the same as in the record."
DIFFERENT = "The result differs from the record: {difference}"
NEXT_STEPS = """
The page of the run, with its evidence, timeline and every step:
  {page}

What to do next:
  rlm-mcp doctor                  checks this machine and looks for a local model
  rlm-mcp install CLIENT          adds rlm-mcp to claude-code, cursor, vscode, …
  rlm-mcp solve "QUESTION" PATH   answers your own question with your model
  rlm-mcp inspect PATH            opens a Python prompt in the sandbox; needs no model
"""


class NoDemo(RlmError):
    """The package was built without the recorded run."""


async def run_demo(settings: Settings, out: TextIO, *, as_json: bool) -> bool:
    """Plays the demo in a temporary data directory, so that nothing is added to the user's contexts and runs."""
    with TemporaryDirectory() as directory:
        async with open_workspace(replace(settings, data_dir=Path(directory))) as workspace:
            page = settings.cache_dir / "demo" / "run.html"
            return await play_demo(workspace, out, as_json=as_json, page=page)


async def play_demo(workspace: Workspace, out: TextIO, *, as_json: bool, page: Path) -> bool:
    """Replays the recorded run that ships with the package. True if the result is as recorded."""
    with _data("shop.log") as log, _data("run.jsonl") as record:
        if not record.is_file():
            raise NoDemo(
                "this build of rlm-mcp has no recorded run: install a released version, or use `rlm-mcp solve`"
            )
        return await replay(workspace, list(read_events(record)), log, out, as_json=as_json, page=page)


async def replay(
    workspace: Workspace, events: Sequence[Event], log: Path, out: TextIO, *, as_json: bool, page: Path
) -> bool:
    """Replays a recorded run over `log`, prints it turn by turn or as one JSON object, and writes its page."""
    context = await workspace.contexts.register(source=str(log), name=log.name)
    console = console_on(out)
    printer = RunPrinter(console)
    started = events[0]
    if isinstance(started, RunStarted) and not as_json:
        console.print(INTRODUCTION.format(model=escape_controls(started.models["root"]["name"])))
        printer.print_event(started)
    outcome, difference = await workspace.runs.replay_events(
        events, (context,), (lambda _: None) if as_json else printer.print_event
    )
    written = await _write_page(workspace, events, page)
    if as_json:
        out.write(json.dumps(_facts(outcome, difference, written), ensure_ascii=True, indent=1) + "\n")
        return difference is None
    console.print(Text(f"\n{_answer(outcome.answer)}", "bold"), soft_wrap=True)
    console.print(show_outcome(outcome))
    verdict = SAME if difference is None else DIFFERENT.format(difference=escape_controls(difference))
    console.print(f"\n{verdict}", soft_wrap=True)
    console.print(NEXT_STEPS.format(page=escape_controls(str(written))), soft_wrap=True)
    return difference is None


async def _write_page(workspace: Workspace, events: Sequence[Event], page: Path) -> Path | str:
    """The path of the page, or the reason why it was not written: the demo is useful without it."""
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

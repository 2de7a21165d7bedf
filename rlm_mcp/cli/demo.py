"""`rlm-mcp demo`: replays a recorded run of real models, so that it works on a machine with nothing configured.

Only the models' replies come from the record. Every block of code is executed again in the sandbox over the data that
ships with the package, every sub-call is matched by its prompt, and every citation is checked again. The page of the
run is kept in the cache directory.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
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
    "A recorded run, replayed. {models} Only the models' replies and their times come from the record; everything else"
    " happens now: the code runs in the sandbox on this machine, over {data} with rlm-mcp.\n"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A recorded run that ships with the package, and the files that it is about."""

    record: str
    sources: tuple[str, ...]
    models: str
    """a sentence that says which model replied"""
    data: str


DEMOS = {
    "support": Demo(
        record="support.jsonl",
        sources=("customers.csv", "messages.jsonl", "incident.txt"),
        models=(
            "The root model, of the run and of its child run, is a strong model, played through benchmarks/by_hand.py;"
            " Qwen2.5-Coder-1.5B, a small local model, answers the sub-calls."
        ),
        data="the files of a support desk that come",
    ),
    "small": Demo(
        record="small.jsonl",
        sources=("shop.log",),
        models="Qwen2.5-Coder-1.5B, a small local model, is the root model.",
        data="a log that comes",
    ),
}


class NoDemo(RlmError):
    """The package was built without the recorded runs."""


async def run_demo(settings: Settings, name: str, out: TextIO, *, as_json: bool) -> bool:
    """Plays a demo in a temporary data directory, so that nothing is added to the user's contexts and runs."""
    with TemporaryDirectory() as directory:
        async with open_workspace(replace(settings, data_dir=Path(directory))) as workspace:
            page = settings.cache_dir / "demo" / f"{name}.html"
            return await play_demo(workspace, DEMOS[name], out, as_json=as_json, page=page)


async def play_demo(workspace: Workspace, demo: Demo, out: TextIO, *, as_json: bool, page: Path) -> bool:
    """Replays a recorded run that ships with the package. True if the result is as recorded. Raises NoDemo."""
    with ExitStack() as opened:
        record, *sources = (opened.enter_context(_data(name)) for name in (demo.record, *demo.sources))
        if not as_json:
            console_on(out).print(INTRODUCTION.format(models=demo.models, data=demo.data))
        return await replay(workspace, list(read_events(record)), sources, out, as_json=as_json, page=page)


async def replay(
    workspace: Workspace, events: Sequence[Event], sources: Sequence[Path], out: TextIO, *, as_json: bool, page: Path
) -> bool:
    """Replays a recorded run over `sources`, prints it turn by turn or as one JSON object, and writes its page."""
    contexts = [await workspace.contexts.register(source=str(source), name=source.name) for source in sources]
    console = console_on(out)
    printer = RunPrinter(console)
    started = events[0]
    if isinstance(started, RunStarted) and not as_json:
        printer.print_event(started)
    outcome, difference = await workspace.replay(events, contexts, (lambda _: None) if as_json else printer.print_event)
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
    try:
        folder = files("rlm_mcp.cli.demo_data")
    except ModuleNotFoundError as error:
        raise NoDemo(
            "this build of rlm-mcp (such as the MCP bundle) has no recorded runs: install rlm-mcp with pip or uv to see"
            " one, or ask a question of your own with `rlm-mcp solve`"
        ) from error
    return as_file(folder.joinpath(name))


def _answer(answer: object) -> str:
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    part = excerpt(text, first=ANSWER_LINES)
    return "\n".join((*part.first, f"… {part.left_out} more lines" if part.left_out else "")).rstrip("\n")


def _facts(outcome: Outcome, difference: str | None, page: Path | str) -> dict[str, Any]:
    facts = asdict(outcome)
    facts["coverage"].pop("ranges", None)
    return {"replay": True, "difference": difference, "page": str(page), **facts}

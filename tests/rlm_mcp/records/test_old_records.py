"""Records that earlier versions wrote: they are still read, shown, resumed and replayed.

`tests/data/records` has runs of the first 0.1.0 over notes.log, written against a scripted model server: a plain run,
one with child runs and a failed sub-call, one that was killed in its second turn and resumed, one that a limit stopped.
What a terminal shows of each stands beside it.
"""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_mcp.cli.console.drawing import RunPrinter, StreamConsole
from rlm_mcp.cli.console.outcome import show_ended
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.records.events import NAMES, RootReply, event_from_json, name_of, to_json
from rlm_mcp.records.reading import read_events
from rlm_mcp.records.run import Run
from rlm_mcp.settings import Settings
from rlm_mcp.viewer.page import page_data
from rlm_mcp.viewer.passages import StoredTexts
from rlm_mcp.viewer.story import story_of
from rlm_mcp.workspace.launch import RunModels
from rlm_mcp.workspace.workspace import open_workspace

DATA = Path(__file__).parents[2] / "data" / "records"
RECORDS = ("plain", "children", "resumed", "limited")
FINAL = "```repl\nFINAL(len(errors))\n```"


def stored(directory: Path, name: str, *, lines: int | None = None) -> Run:
    """A record as a run of a data directory, up to so many lines."""
    text = (DATA / f"{name}.jsonl").read_text().splitlines(keepends=True)
    place = directory / "runs" / json.loads(text[0])["run_id"]
    place.mkdir(parents=True)
    (place / "events.jsonl").write_text("".join(text[:lines]))
    return Run(place)


@pytest.mark.parametrize("name", RECORDS)
def test_each_line_is_written_again_as_it_was(name: str) -> None:
    lines = (DATA / f"{name}.jsonl").read_text().splitlines()
    events = [event_from_json(json.loads(line)) for line in lines]
    assert [json.dumps(to_json(event), separators=(",", ":")) for event in events] == lines


def test_the_records_hold_every_event_that_the_first_version_recorded_but_one() -> None:
    found = {name_of(event) for name in RECORDS for event in read_events(DATA / f"{name}.jsonl")}
    assert set(NAMES.values()) - found == {"root_asked", "cell_begun", "sub_asked", "run_left"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", ("completed", "final", "FINAL", 2, "billing fails most often (payment)", 1, 1)),
        ("children", ("completed", "final", "FINAL", 3, '{"parts": 2}', 4, 0)),
        ("resumed", ("completed", "final", "FINAL", 3, "billing", 2, 2)),
        ("limited", ("completed", "iterations", "value", 2, "09:01 ERROR [billing] card refused for order 17", 0, 1)),
    ],
)
def test_the_state(tmp_path: Path, name: str, expected: tuple[object, ...]) -> None:
    state = stored(tmp_path, name).state()
    assert (
        *(state.status, state.stopped_by, state.answered_by, state.iterations, state.answer),
        *(state.usage.sub_calls, len(state.citations)),
    ) == expected
    assert (state.mode, state.depth, state.coverage.read_by_code) == ("rlm", 1, 177)
    assert [context["name"] for context in state.contexts] == ["notes.log"]


@pytest.mark.parametrize("name", RECORDS)
def test_the_page_shows_a_row_for_each_event_and_leaves_nothing_out(tmp_path: Path, name: str) -> None:
    events = list(stored(tmp_path, name).events())
    page = page_data(story_of(events), StoredTexts())
    assert len(page["rows"]) == len(events) - 1
    assert page["head"]["notes"] == []
    assert (page["head"]["status"], page["head"]["turns"]) == ("completed", 3 if name in {"children", "resumed"} else 2)


@pytest.mark.parametrize("name", RECORDS)
def test_a_terminal_shows_each_turn_and_the_end(tmp_path: Path, name: str) -> None:
    run, out = stored(tmp_path, name), io.StringIO()
    console = StreamConsole(file=out, width=100, markup=False, highlight=False, emoji=False)
    printer = RunPrinter(console)
    for event in run.events():
        printer.print_event(event)
    console.print(show_ended(run.state()))
    assert out.getvalue() == (DATA / f"{name}.txt").read_text()


@pytest.mark.anyio
@pytest.mark.parametrize("name", RECORDS)
async def test_a_replay_comes_out_as_recorded(tmp_path: Path, sandbox_cache: Path, name: str) -> None:
    settings = Settings(data_dir=tmp_path / "data", cache_dir=sandbox_cache, sub_call_cache=False)
    async with open_workspace(settings) as workspace:
        context = await workspace.contexts.register(source=str(_log(tmp_path)))
        # Prompts are worded otherwise now; everything else has to come out as it did.
        events = [
            replace(event, prompt_hash="") if isinstance(event, RootReply) else event
            for event in read_events(DATA / f"{name}.jsonl")
        ]
        outcome, difference = await workspace.replay(events, (context,), lambda _: None)
    assert difference is None
    assert outcome.answer == stored(tmp_path, name).state().answer


@pytest.mark.anyio
async def test_a_run_that_was_cut_off_is_resumed(tmp_path: Path, sandbox_cache: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", cache_dir=sandbox_cache, sub_call_cache=False)
    run = stored(settings.data_dir, "plain", lines=5)
    model = ScriptedModel([FINAL])

    async def choose(root: str | None, sub: str | None) -> RunModels:
        return RunModels(root=model, sub=model)

    async with open_workspace(settings, choose=choose) as workspace:
        await workspace.contexts.register(source=str(_log(tmp_path)))
        await workspace.runs.resume(run.run_id)
        async for _ in workspace.runs.follow(run.run_id):
            pass
        state = await workspace.runs.state(run.run_id)
    assert (state.status, state.answer, state.iterations, state.usage.root_calls) == ("completed", "2", 2, 2)


def _log(directory: Path) -> Path:
    """The text that the runs were about, under the name that it had."""
    return Path(shutil.copy(DATA / "notes.log", directory / "notes.log"))

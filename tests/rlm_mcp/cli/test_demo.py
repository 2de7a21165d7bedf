import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from rlm_mcp.cli.demo import DEMOS, play_demo, replay
from rlm_mcp.cli.demo_data import support
from rlm_mcp.cli.demo_data.shop import log_lines
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.records.events import DOUBT, Event, event_from_json
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.launch import RunModels, SolveRequest
from rlm_mcp.workspace.workspace import open_workspace

pytestmark = pytest.mark.anyio

DATA = Path(str(files("rlm_mcp.cli.demo_data")))
LOG = DATA / "shop.log"
LOOK = """```repl
from collections import Counter
errors = Counter(line.split("[")[1].split("]")[0] for line in context.splitlines() if " ERROR " in line)
print(errors, llm_query("Is this an error? " + search("ERROR", max_matches=1)[0].text))
```"""
END = "```repl\nFINAL(errors.most_common(1)[0])\n```"


@pytest.fixture
def settings(tmp_path: Path, sandbox_cache: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", cache_dir=sandbox_cache, sub_call_cache=False)


async def record(settings: Settings, replies: Sequence[str]) -> list[Event]:
    async def choose(root: str | None, sub: str | None) -> RunModels:
        return RunModels(root=ScriptedModel(replies, name="recorded"), sub=ScriptedModel(["yes"], name="sub"))

    async with open_workspace(settings, choose=choose) as workspace:
        await workspace.contexts.register(source=str(LOG), name="shop.log")
        question = "Which component logs the most errors?"
        run_id = await workspace.runs.start(SolveRequest(query=question, contexts=("shop.log",), mode="rlm"))
        async for _ in workspace.runs.follow(run_id):
            pass
        return [event_from_json(json.loads(line)) for line in (await workspace.runs.trace(run_id)).splitlines()]


async def test_a_replay_executes_the_code_again_and_prints_every_turn(settings: Settings) -> None:
    events = await record(settings, [LOOK, END])
    out = io.StringIO()
    async with open_workspace(settings) as workspace:
        assert await replay(workspace, events, [LOG], out, as_json=False, page=settings.cache_dir / "run.html")
    story = out.getvalue()
    assert "about    shop.log (3,098 lines" in story
    assert "Counter({'payments': 180, 'gateway': 90" in story
    assert "1 sub-call\n    Is this an error?" in story
    assert '\n["payments", 180]\n✓ answered' in story
    assert "The result is the same as in the record." in story
    assert str(settings.cache_dir / "run.html") in story
    assert "payments" in (settings.cache_dir / "run.html").read_text("utf-8")


async def test_a_replay_as_json_is_one_object(settings: Settings) -> None:
    events = await record(settings, [LOOK, END])
    out = io.StringIO()
    async with open_workspace(settings) as workspace:
        assert await replay(workspace, events, [LOG], out, as_json=True, page=settings.cache_dir / "run.html")
    told = json.loads(out.getvalue())
    assert (told["replay"], told["status"], told["difference"]) == (True, "completed", None)
    assert told["answer"] == '["payments", 180]'


async def test_a_replay_with_a_different_result_says_so(settings: Settings, tmp_path: Path) -> None:
    events = await record(settings, [LOOK, END])
    other = tmp_path / "shop.log"
    other.write_text("\n".join(line for line in log_lines() if "[gateway]" not in line) + "\n")
    out = io.StringIO()
    async with open_workspace(replace(settings, data_dir=tmp_path / "elsewhere")) as workspace:
        assert not await replay(workspace, events, [other], out, as_json=False, page=settings.cache_dir / "run.html")
    assert "The result differs from the record:" in out.getvalue()


def test_the_shipped_data_is_what_the_generators_write() -> None:
    assert LOG.read_text("utf-8") == "\n".join(log_lines()) + "\n"
    assert {name: (DATA / name).read_text("utf-8") for name in support.files()} == support.files()


@pytest.mark.parametrize("name", DEMOS)
async def test_a_shipped_recording_has_the_recorded_result(settings: Settings, name: str) -> None:
    out = io.StringIO()
    page = settings.cache_dir / "run.html"
    async with open_workspace(settings) as workspace:
        assert await play_demo(workspace, DEMOS[name], out, as_json=False, page=page), out.getvalue()
    assert out.getvalue().startswith(f"A recorded run, replayed. {DEMOS[name].models[:30]}")
    assert DOUBT not in out.getvalue() + page.read_text("utf-8")


def test_the_run_of_the_support_desk_shows_what_its_description_says() -> None:
    events = [json.loads(line) for line in (DATA / "support.jsonl").read_text("utf-8").splitlines()]
    ended = events[-1]
    judged = [event for event in events if event["event"] == "sub_reply" and event["kind"] == "llm"]
    labels = (DATA / "banking77.csv").read_text("utf-8").splitlines()
    intents = {row["text"]: row["category"] for row in csv.DictReader(labels)}
    texts = [event["prompt_head"].removeprefix("Text: ").partition("\n\n")[0] for event in judged]
    right = [
        event["value"].lower().startswith("yes") == (intents[text] == support.DECLINED)
        for event, text in zip(judged, texts, strict=True)
    ]
    assert (len(right), sum(right)) == (89, 85)
    assert len({event.get("path", "") for event in events} - {""}) == 1
    assert {event["model"] for event in events if event["event"] == "root_reply"} == {"strong-model-by-hand"}
    assert [citation["verified"] for citation in ended["citations"]] == [True] * 25
    incident, quotes = support.draw_incident(), "\n".join(citation["quote"] for citation in ended["citations"])
    assert incident.cause.proof in quotes
    assert incident.withdrawn.believed in quotes
    assert ended["answer"].startswith(f"Country: {incident.country}.")

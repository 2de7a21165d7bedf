import io
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from rlm_mcp.cli.demo import play_demo, replay
from rlm_mcp.cli.demo_data.generate import log_lines
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.records.events import Event, event_from_json
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.launch import RunModels, SolveRequest
from rlm_mcp.workspace.workspace import open_workspace

pytestmark = pytest.mark.anyio

LOG = Path(str(files("rlm_mcp.cli.demo_data") / "shop.log"))
RECORD = Path(str(files("rlm_mcp.cli.demo_data") / "run.jsonl"))
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
        assert await replay(workspace, events, LOG, out, as_json=False, page=settings.cache_dir / "run.html")
    story = out.getvalue()
    assert "about    shop.log (3,098 lines" in story
    assert "Counter({'payments': 180, 'gateway': 90" in story
    assert "1 sub-call\n    Is this an error?" in story
    assert '\n["payments", 180]\n✓ answered' in story
    assert "A recorded run of recorded, replayed." in story
    assert "The result is the same as in the record." in story
    assert str(settings.cache_dir / "run.html") in story
    assert "payments" in (settings.cache_dir / "run.html").read_text("utf-8")


async def test_a_replay_as_json_is_one_object(settings: Settings) -> None:
    events = await record(settings, [LOOK, END])
    out = io.StringIO()
    async with open_workspace(settings) as workspace:
        assert await replay(workspace, events, LOG, out, as_json=True, page=settings.cache_dir / "run.html")
    told = json.loads(out.getvalue())
    assert (told["replay"], told["status"], told["difference"]) == (True, "completed", None)
    assert told["answer"] == '["payments", 180]'


async def test_a_replay_with_a_different_result_says_so(settings: Settings, tmp_path: Path) -> None:
    events = await record(settings, [LOOK, END])
    other = tmp_path / "shop.log"
    other.write_text("\n".join(line for line in log_lines() if "[gateway]" not in line) + "\n")
    out = io.StringIO()
    async with open_workspace(replace(settings, data_dir=tmp_path / "elsewhere")) as workspace:
        assert not await replay(workspace, events, other, out, as_json=False, page=settings.cache_dir / "run.html")
    assert "The result differs from the record:" in out.getvalue()


def test_the_shipped_log_is_what_its_generator_writes() -> None:
    assert LOG.read_text("utf-8") == "\n".join(log_lines()) + "\n"


@pytest.mark.skipif(not RECORD.exists(), reason="no run has been recorded yet")
async def test_the_shipped_recording_has_the_recorded_result(settings: Settings) -> None:
    out = io.StringIO()
    async with open_workspace(settings) as workspace:
        assert await play_demo(workspace, out, as_json=False, page=settings.cache_dir / "run.html"), out.getvalue()

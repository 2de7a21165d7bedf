"""Long replies of one tenant's model are read beside the event loop, and nothing reads more than a bounded part."""

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.concurrency import background_task
from rlm_mcp.engine.budget import Ledger, paid_call
from rlm_mcp.engine.subcalls import SubCalls
from rlm_mcp.models.base import REPLY_MAX_CHARS, Message
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult, Final, GuestCalls
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.launch import RunModels, SolveRequest
from rlm_mcp.workspace.workspace import open_workspace

pytestmark = pytest.mark.anyio

FENCES = "```\n" * 100_000 + "```repl\nFINAL(1)\n```"


class Beat:
    """Counts turns of the event loop while something else is at work."""

    def __init__(self) -> None:
        self.turns = 0

    async def count(self) -> None:
        while True:
            self.turns += 1
            await anyio.sleep(0.001)


async def test_the_loop_turns_while_a_reply_full_of_fences_is_read(tmp_path: Path) -> None:
    beat, turns = Beat(), []

    def reply(_: object) -> str:
        turns.append(beat.turns)
        return FENCES

    async def run_cell(code: str, _: GuestCalls) -> CellResult:
        turns.append(beat.turns)
        return CellResult(code=code, final=Final(value="1"))

    model = ScriptedModel(reply)

    async def choose(_root: str | None, _sub: str | None) -> RunModels:
        return RunModels(root=model, sub=model)

    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    async with (
        open_workspace(settings, choose=choose, open_repl=ScriptedOpener(run_cell)) as workspace,
        background_task(beat.count),
    ):
        await workspace.contexts.register(text="a b c", name="abc")
        run_id = await workspace.runs.start(SolveRequest(query="q", contexts=("abc",), mode="rlm"))
        with anyio.fail_after(60):
            async for _ in workspace.runs.follow(run_id):
                pass
        assert (await workspace.runs.state(run_id)).status == "completed"
    assert turns[1] - turns[0] > 5  # a reply that is read on the loop lets it turn two or three times


async def turns_until_answered(prompt: str, reply: str) -> int:
    """The turns of the event loop until a sub-call is answered: always the same number if no thread is waited for."""
    turns, sub = 0, SubCalls({"m": ScriptedModel(lambda _: reply)})

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with background_task(count):
        assert await sub.ask(Ledger(None), prompt) == reply
        return turns


@pytest.mark.parametrize(("prompt", "reply"), [("q " * 50_000, "[1"), ("q", "[" * 900_000 + "1")])
async def test_the_loop_turns_while_a_long_prompt_or_reply_of_a_sub_call_is_read(prompt: str, reply: str) -> None:
    assert await turns_until_answered(prompt, reply) > await turns_until_answered("q", "[1")


async def test_a_reply_is_cut_at_a_bound() -> None:
    model = ScriptedModel(lambda _: "x" * (REPLY_MAX_CHARS + 1))
    completion = await paid_call(Ledger(None), model, [Message(role="user", content="q")], kind="root")
    assert (len(completion.text), completion.finish_reason) == (REPLY_MAX_CHARS, "length")

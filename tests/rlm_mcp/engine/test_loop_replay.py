"""A run on record is executed again without a model."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.loop import solve
from rlm_mcp.models.base import Profile
from rlm_mcp.models.scripted import ScriptedCall, ScriptedModel
from rlm_mcp.records.events import name_of
from rlm_mcp.records.run import Run
from rlm_mcp.records.tape import MemoryRecord, Tape
from rlm_mcp.records.types import Outcome
from rlm_mcp.repl.scripted import Play, ScriptedOpener
from rlm_mcp.repl.types import CellResult

from .loop_world import ANSWER, ASK, ASK_CHILD, COUNT, GOOD, LOOK, World, asking

pytestmark = pytest.mark.anyio


async def replayed(world: World, cells: Sequence[CellResult] | Play) -> tuple[Outcome, Tape, MemoryRecord]:
    assert isinstance(world.record, Run)
    tape, record = Tape(world.record.events(), strict=True), MemoryRecord()
    nobody = ScriptedModel([])
    outcome = await solve(world.spec(), world.deps(nobody, ScriptedOpener(cells), record, tape=tape), Ledger())
    assert nobody.calls == []
    return outcome, tape, record


async def test_a_replay_needs_no_model_and_ends_as_the_run_did(world: World) -> None:
    first = await world.solve([LOOK, COUNT, ANSWER])
    outcome, tape, record = await replayed(world, GOOD)

    assert tape.difference is None
    assert (outcome.answer, outcome.usage) == (first.answer, first.usage)
    assert isinstance(world.record, Run)
    done = [name_of(event) for event in world.record.events() if name_of(event) != "root_asked"]
    assert [name_of(event) for event in record.events] == done[1:]


async def test_a_replay_answers_sub_calls_from_the_record(world: World) -> None:
    await world.solve([ASK], asking(), sub=ScriptedModel(['{"value": "yes"}']))
    outcome, tape, _ = await replayed(world, asking())

    assert (outcome.answer, tape.difference) == ("yes", None)


async def test_a_replay_executes_the_code_of_children_too(world: World) -> None:
    def opener() -> ScriptedOpener:
        return ScriptedOpener(asking(), [GOOD[1], GOOD[2]])

    live = MemoryRecord()
    root, sub = ScriptedModel([ASK_CHILD]), ScriptedModel([COUNT, ANSWER])
    first = await solve(world.spec(), world.deps(root, opener(), live, sub=sub), Ledger())
    tape, repl, again, nobody = Tape(live.events, strict=True), opener(), MemoryRecord(), ScriptedModel([])
    outcome = await solve(world.spec(), world.deps(nobody, repl, again, tape=tape), Ledger())

    assert (outcome.answer, outcome.usage, tape.difference) == (first.answer, first.usage, None)
    assert [len(opened.ran) for opened in repl.opened] == [1, 2]
    assert {event.path for event in again.events} == {event.path for event in live.events}


async def test_a_replay_names_the_first_block_that_did_something_else(world: World) -> None:
    await world.solve([LOOK, COUNT, ANSWER])
    _, tape, _ = await replayed(world, [GOOD[0], replace(GOOD[1], stdout="428\n"), GOOD[2]])

    assert tape.difference == r"turn 2 block 1 printed '428\n' where the record has '429\n'"


async def test_a_replay_that_needs_a_reply_the_record_does_not_hold_ends_with_a_sentence(world: World) -> None:
    await world.solve([LOOK, COUNT, ANSWER])
    outcome, tape, _ = await replayed(world, [*GOOD[:2], CellResult(code="", stdout="no final")])

    assert outcome.status == "failed"
    assert tape.difference is not None
    assert "the replay needs a turn 4 that the record does not hold" in outcome.message


def summing_up(asked: ScriptedCall) -> str:
    """A root model that looks six times, and sums up where it is asked to."""
    if "Sum up for yourself" in asked.last:
        return "Five lines were looked at."
    looked = sum(message.content.startswith("```repl") for message in asked.messages)
    has_summed_up = any("Your own summary" in message.content for message in asked.messages)
    return ANSWER if has_summed_up else f"```repl\nprint({looked})\n```"


async def test_a_replay_has_the_summaries_of_the_run(world: World) -> None:
    profile = Profile(window_tokens=24_000, max_output_tokens=1_000)
    page = CellResult(code="", stdout="x" * 12_000, stdout_chars=12_000)
    spec = world.spec(summaries=True)
    first = await world.solve(summing_up, [*[page] * 5, GOOD[2]], spec=spec, profile=profile)
    assert isinstance(world.record, Run)
    summed = [event for event in world.events("decided") if event["why"] == "compact"]
    assert (first.answer, len(summed), first.iterations) == ("429", 1, 7)
    assert next(iter(world.events("run_started")))["summaries"] is True

    tape = Tape(world.record.events(), strict=True)
    nobody = ScriptedModel([], profile=profile)
    deps = world.deps(nobody, ScriptedOpener([*[page] * 5, GOOD[2]]), MemoryRecord(), tape=tape)
    outcome = await solve(spec, deps, Ledger())
    assert (outcome.answer, outcome.iterations, tape.difference) == ("429", 7, None)

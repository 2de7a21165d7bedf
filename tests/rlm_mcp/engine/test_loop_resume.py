"""A killed run goes on where it was, and pays nothing twice."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.loop import solve
from rlm_mcp.errors import KeyRefused
from rlm_mcp.models.scripted import ScriptedCall, ScriptedModel
from rlm_mcp.records.events import Event, RunResumed, name_of
from rlm_mcp.records.lease import EXPIRY_SECONDS, LeaseLost, MemoryLeases
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from rlm_mcp.records.tape import MemoryRecord, Tape
from rlm_mcp.records.unanswered import with_unanswered
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult, GuestCalls
from rlm_mcp.spending import RunLimits, Spent

from .loop_world import ANSWER, ASK, COUNT, GOOD, LOOK, World, asking

pytestmark = pytest.mark.anyio


class Killed(BaseException):
    """The process dies here."""


def dying(at: int, replies: Sequence[str]) -> Callable[[ScriptedCall], str]:
    """Replies from a list until the process dies before reply `at`."""
    left = list(replies)
    count = 0

    def reply(asked: ScriptedCall) -> str:
        nonlocal count
        if count == at:
            raise Killed
        count += 1
        return left.pop(0)

    return reply


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_killed_run_goes_on_from_its_last_finished_turn(world: World, at: int) -> None:
    spec, limits = world.spec(), RunLimits()
    with pytest.raises(Killed):
        await world.solve(dying(at, [LOOK, COUNT, ANSWER]))
    assert isinstance(world.record, Run)
    world.record.close()

    run = world.runs.get(world.record.run_id)
    root, repl = ScriptedModel([LOOK, COUNT, ANSWER][at:]), ScriptedOpener(GOOD[at:])
    spent = Spent.from_json({"root_calls": run.state().usage.root_calls})
    world.record = run
    run.append(RunResumed())
    deps = world.deps(root, repl, run, tape=Tape(run.events()))
    outcome = await solve(spec, deps, Ledger(limits, already=spent))

    assert (outcome.answer, outcome.iterations, outcome.usage.root_calls) == ("429", 3, 3)
    assert len(root.calls) == 3 - at
    assert len(repl.opened[0].ran) == 3 - at
    assert repl.opened[0].restored == ([b"1", b"2"][at - 1 : at] if at else [])
    assert len(world.events("root_reply")) == 3
    assert len(world.events("cell")) == 3
    assert run.state().status == "completed"


async def test_a_run_whose_checkpoint_another_version_made_goes_on_by_running_its_blocks_again(world: World) -> None:
    with pytest.raises(Killed):
        await world.solve(dying(2, [LOOK, COUNT, ANSWER]))
    assert isinstance(world.record, Run)
    world.record.save_checkpoint(2, (2).to_bytes(4, "little") + b"of another image")
    world.record.close()

    run = world.runs.get(world.record.run_id)
    root, repl = ScriptedModel([ANSWER]), ScriptedOpener(GOOD)
    world.record = run
    run.append(RunResumed())
    outcome = await solve(world.spec(), world.deps(root, repl, run, tape=Tape(run.events())), Ledger(RunLimits()))

    assert (outcome.answer, outcome.iterations, len(root.calls)) == ("429", 3, 1)
    assert (len(repl.opened[0].ran), repl.opened[0].restored) == (3, [])
    assert len(world.events("cell")) == 3


async def test_a_run_with_a_damaged_result_on_record_goes_on_by_running_its_blocks_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run = await killed_and_changed(world, '"variables":[{', '"variables":[7,{')
    root, repl = ScriptedModel([ANSWER]), ScriptedOpener(GOOD)
    outcome = await solve(world.spec(), world.deps(root, repl, run, tape=Tape(run.events())), Ledger(RunLimits()))

    assert (outcome.answer, outcome.iterations, len(root.calls)) == ("429", 3, 1)
    assert (len(repl.opened[0].ran), repl.opened[0].restored) == (3, [])
    assert "the record of turn 2 block 1 is damaged: the block is run again" in caplog.text


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_run_that_lost_the_result_of_a_block_in_its_checkpoint_does_not_run_it_over_what_it_left(
    world: World, lost: int
) -> None:
    run = await killed_and_changed(world, "", "")
    lines = run.events_path.read_text().splitlines(keepends=True)
    cells = [number for number, line in enumerate(lines) if line.startswith('{"event":"cell"')]
    del lines[cells[lost - 1]]
    run.events_path.write_text("".join(lines))
    root, repl = ScriptedModel([ANSWER]), ScriptedOpener(GOOD)
    outcome = await solve(world.spec(), world.deps(root, repl, run, tape=Tape(run.events())), Ledger(RunLimits()))

    assert (outcome.answer, outcome.iterations, len(root.calls)) == ("429", 3, 1)
    assert (len(repl.opened[0].ran), repl.opened[0].restored) == (3, [])
    assert len(world.events("cell")) == 3


async def test_a_run_with_a_damaged_reply_on_record_says_so(world: World) -> None:
    run = await killed_and_changed(world, '"left":{', '"left":{"eons":1,')
    deps = world.deps(ScriptedModel([]), ScriptedOpener([]), run, tape=Tape(run.events()))
    outcome = await solve(world.spec(), deps, Ledger(RunLimits()))

    assert outcome.status == "failed"
    assert outcome.message.startswith("the record of turn 1 is damaged, so the run cannot go on from there")


async def killed_and_changed(world: World, old: str, new: str) -> Run:
    """A run that was killed in its third turn, with a checkpoint, and whose record then got other text."""
    with pytest.raises(Killed):
        await world.solve(dying(2, [LOOK, COUNT, ANSWER]))
    assert isinstance(world.record, Run)
    world.record.close()
    text = world.record.events_path.read_text()
    assert old in text
    world.record.events_path.write_text(text.replace(old, new))
    world.record = world.runs.get(world.record.run_id)
    return world.record


async def test_a_resumed_run_asks_the_model_exactly_what_an_unbroken_one_would(world: World) -> None:
    await world.solve([LOOK, COUNT, ANSWER])
    unbroken = [event["prompt_hash"] for event in world.events("root_reply")]
    assert isinstance(world.record, Run)
    world.record.close()
    with pytest.raises(Killed):
        await world.solve(dying(2, [LOOK, COUNT, ANSWER]))
    assert isinstance(world.record, Run)
    world.record.close()
    run = world.record = world.runs.get(world.record.run_id)
    await solve(
        world.spec(),
        world.deps(ScriptedModel([ANSWER]), ScriptedOpener(GOOD[2:]), run, tape=Tape(run.events())),
        Ledger(),
    )

    assert [event["prompt_hash"] for event in world.events("root_reply")] == unbroken


async def test_a_sub_call_that_was_answered_before_the_kill_is_not_made_again(world: World) -> None:
    async def dies_after_the_call(code: str, calls: GuestCalls) -> CellResult:
        await calls.llm_query("Is 'disk full' an error?", schema="yes|no")
        raise Killed

    with pytest.raises(Killed):
        await world.solve([ASK], dies_after_the_call, sub=ScriptedModel(['{"value": "yes"}']))
    assert isinstance(world.record, Run)
    world.record.close()

    run = world.record = world.runs.get(world.record.run_id)
    sub = ScriptedModel([])
    deps = world.deps(ScriptedModel([]), ScriptedOpener(asking()), run, sub=sub, tape=Tape(run.events()))
    outcome = await solve(world.spec(), deps, Ledger())

    assert outcome.answer == "yes"
    assert sub.calls == []


class MortalRun(Run):
    """A record whose process dies right after its event number `last` is on disk."""

    last = 0

    def append(self, event: Event) -> None:
        super().append(event)
        self.last -= 1
        if self.last == 0:
            raise Killed


async def play_by_code(code: str, calls: GuestCalls) -> CellResult:
    """A REPL that needs no memory: what a block does depends on its code alone."""
    if "llm_query" in code:
        one = await calls.llm_query("Is 'disk full' an error?", schema="yes|no")
        other = await calls.llm_query("Is 'all is well' an error?", schema="yes|no")
        return CellResult(code="", stdout=f"{one} {other}\n")
    return {LOOK: GOOD[0], COUNT: GOOD[1], ANSWER: GOOD[2]}[f"```repl\n{code}\n```"]


@pytest.mark.parametrize("last", range(1, 22))
async def test_killed_after_any_event_a_run_goes_on_and_no_call_is_made_twice(world: World, last: int) -> None:
    replies = [LOOK, "```repl\nprint(llm_query('a'), llm_query('b'))\n```", COUNT, ANSWER]
    root, sub = ScriptedModel(replies), ScriptedModel(['{"value": "yes"}', '{"value": "no"}'])
    spec = world.spec()
    run = world.begin(spec, root, RunLimits())
    run.close()
    mortal = MortalRun(run.directory, writable=True)
    mortal.last = last
    deps = world.deps(root, ScriptedOpener(play_by_code), mortal, sub=sub)
    died = False
    try:
        await solve(spec, deps, Ledger())
    except Killed:
        died = True
    mortal.close()
    assert died == (last < 22)

    run = world.record = world.runs.get(run.run_id)
    deps = world.deps(root, ScriptedOpener(play_by_code), run, sub=sub, tape=Tape(run.events()))
    died_in = name_of(list(run.events())[-1])
    outcome = await solve(spec, deps, Ledger(already=with_unanswered(run.state().usage, run.events())))

    assert outcome.answer == "429"
    assert (len(root.calls), len(sub.calls)) == (4, 2)
    assert (outcome.usage.root_calls, outcome.usage.sub_calls) == (4, 2)
    in_flight = died_in in {"root_asked", "sub_asked"}  # it may have been sent, and be billed
    assert (outcome.usage.failed_calls, outcome.usage.unanswered_prompt_tokens > 0) == (int(in_flight), in_flight)
    assert [event["turn"] for event in world.events("root_reply")] == [1, 2, 3, 4]
    assert [event["turn"] for event in world.events("cell")] == [1, 2, 3, 4]
    assert len(world.events("sub_reply")) == 2


async def test_a_run_whose_lease_has_ended_asks_no_model_and_writes_nothing_any_more(world: World) -> None:
    now, asks = [0.0], "```repl\nprint(llm_query('a'))\n```"
    world.runs = Runs(world.runs.directory.parent, MemoryLeases(lambda: now[0]))

    async def stand_still_and_ask(_: str, calls: GuestCalls) -> CellResult:
        now[0] += EXPIRY_SECONDS
        return CellResult(code="", value=str(await calls.llm_query("a")))

    sub = ScriptedModel(["never"])
    with pytest.raises(LeaseLost, match=r"goes on with run-[0-9a-f]{12} no longer"):
        await world.solve([asks, ANSWER], stand_still_and_ask, sub=sub)
    assert (len(world.root.calls), sub.calls, len(world.events("run_ended"))) == (1, [], 0)


async def test_the_repl_is_saved_while_a_slow_model_is_asked_and_not_for_an_instant_one(world: World) -> None:
    for seconds, after, saved in [(0.0, 60, None), (0.05, 0.001, (2, (2).to_bytes(4, "little") + b"2"))]:
        root = ScriptedModel([LOOK, COUNT, ANSWER], seconds=seconds)
        run = world.begin(world.spec(), root, RunLimits())
        deps = replace(world.deps(root, ScriptedOpener(GOOD), run), save_after_seconds=after)
        outcome = await solve(world.spec(), deps, Ledger())

        assert (outcome.answer, run.checkpoint()) == ("429", saved)
        run.close()


async def test_a_model_that_fails_while_the_repl_is_saved_ends_the_run_in_its_own_words(world: World) -> None:
    root = ScriptedModel([LOOK, KeyRefused("the key was refused")], seconds=0.05)
    deps = replace(world.deps(root, ScriptedOpener(GOOD), MemoryRecord()), save_after_seconds=0.001)
    outcome = await solve(world.spec(), deps, Ledger())

    assert outcome.message.startswith("the key was refused")


async def test_a_turn_that_was_the_last_one_for_want_of_time_is_asked_again_once_there_is_time(world: World) -> None:
    limits, record = RunLimits(max_seconds=1000), MemoryRecord()
    world.record = record
    nearly_over = Ledger(limits, already=Spent(seconds=900))
    outcome = await solve(
        world.spec(), world.deps(ScriptedModel([LOOK]), ScriptedOpener(GOOD[:1]), record), nearly_over
    )
    assert (outcome.stopped_by, outcome.answer, outcome.iterations) == ("seconds", "100000", 1)
    assert world.events("root_reply")[0]["last"] == ["seconds", "the time is nearly used up"]

    record.append(RunResumed())
    root = ScriptedModel([LOOK, COUNT, ANSWER])
    deps = world.deps(root, ScriptedOpener(GOOD), record, tape=Tape(record.events))
    outcome = await solve(world.spec(), deps, Ledger(limits))
    assert (outcome.stopped_by, outcome.answer, outcome.iterations, len(root.calls)) == ("final", "429", 3, 3)

    tape = Tape(record.events, strict=True)
    deps = world.deps(ScriptedModel([]), ScriptedOpener(GOOD), MemoryRecord(), tape=tape)
    outcome = await solve(world.spec(), deps, Ledger())
    assert (outcome.answer, tape.difference) == ("429", None)

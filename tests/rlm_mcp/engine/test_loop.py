"""The loop with a scripted model and a scripted REPL: every way a run can go and end."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import LineRange
from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.loop import solve
from rlm_mcp.engine.types import RunSpec
from rlm_mcp.errors import KeyRefused, PromptOverWindow, ProviderFailed, SubCallFailed
from rlm_mcp.models.base import Profile
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.records.events import name_of, to_json
from rlm_mcp.records.run import Run
from rlm_mcp.records.tape import MemoryRecord, Tape
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult, Final, GuestCalls, RawCitation
from rlm_mcp.spending import RunLimits

from .loop_world import ANSWER, ASK, ASK_CHILD, COUNT, GOOD, LINES, LOOK, World, asking

pytestmark = pytest.mark.anyio


async def test_a_run_from_the_question_to_the_answer(world: World) -> None:
    cells = [*GOOD[:2], replace(GOOD[2], citations=(RawCitation(context="", path="", start_line=1, end_line=1),))]
    outcome = await world.solve([LOOK, COUNT, ANSWER], cells)

    assert (outcome.status, outcome.answer, outcome.stopped_by, outcome.answered_by) == (
        "completed",
        "429",
        "final",
        "FINAL",
    )
    assert (outcome.mode, outcome.depth, outcome.iterations) == ("rlm", 1, 3)
    assert outcome.usage.root_calls == 3
    assert [citation.verified for citation in outcome.citations] == [True]
    assert outcome.coverage.read_by_code == outcome.coverage.total_chars > 0
    assert isinstance(world.record, Run)
    assert [name_of(event) for event in world.record.events()] == [
        "run_started", "routed",
        *["root_asked", "root_reply", "cell", "decided"] * 3,
        "run_ended",
    ]  # fmt: skip
    state = world.record.state()
    assert (state.status, state.answer, state.iterations, state.mode) == ("completed", "429", 3, "rlm")
    assert world.record.answer() == "429"


async def test_replies_of_a_weak_model_end_with_the_block_or_at_400_tokens(world: World) -> None:
    outcome = await world.solve([COUNT, ANSWER], GOOD[1:], profile=Profile(strength="weak"))

    assert outcome.answer == "429"
    assert {(call.max_tokens, call.stop) for call in world.root.calls} == {(400, ("\n```\n\n",))}


async def test_what_begins_is_told_and_each_request_is_on_record_before_it_is_sent(world: World) -> None:
    told: list[str] = []
    root, sub, record = ScriptedModel([ASK]), ScriptedModel(["yes"]), MemoryRecord()
    deps = world.deps(root, ScriptedOpener(asking()), record, sub=sub)
    await solve(world.spec(), replace(deps, on_event=lambda event: told.append(name_of(event))), Ledger())

    assert told == [
        "routed", "root_asked", "root_reply", "cell_begun", "sub_asked", "sub_reply", "cell", "decided", "run_ended",
    ]  # fmt: skip
    assert [name_of(event) for event in record.events] == [name for name in told if name != "cell_begun"]
    tokens = [sum(message.tokens for message in model.calls[0].messages) for model in (root, sub)]
    asked = [to_json(event) for event in record.events if name_of(event).endswith("_asked")]
    assert [(event["request"], event["prompt_tokens"], event["turn"]) for event in asked] == [
        (1, tokens[0], 1),
        (1, tokens[1], 1),
    ]


async def test_the_context_is_never_in_a_prompt_beyond_its_samples(world: World) -> None:
    await world.solve([LOOK, COUNT, ANSWER])

    sent = "\n".join(message.content for call in world.root.calls for message in call.messages)
    assert sum(f"message {n}'" in sent for n in range(3000)) <= 4


async def test_an_easy_question_about_a_short_text_is_one_direct_call(world: World) -> None:
    note = world.store.register_text("The pump was built by Ada King in 1843.", name="note")
    spec = RunSpec(query="Who built the pump?", contexts=(note,))
    outcome = await world.solve(['Ada King: "The pump was built by Ada King".'], [], spec=spec)

    assert (outcome.mode, outcome.answered_by, outcome.status) == ("direct", "text", "completed")
    assert outcome.mode_reason.startswith("direct because")
    assert "The pump was built by Ada King in 1843." in world.root.calls[0].messages[-1].content
    assert [citation.verified for citation in outcome.citations] == [True]
    assert outcome.coverage.read_by_model == outcome.coverage.total_chars
    assert world.repl.opened == []


class CountingStore(Store):
    """Counts how often lines are read, as they are for a brief."""

    line_reads = 0

    def read_lines(self, *args: Any, **kwargs: Any) -> LineRange:
        self.line_reads += 1
        return super().read_lines(*args, **kwargs)


@pytest.mark.parametrize(("mode", "line_reads"), [("direct", 0), ("rlm", 1)])
async def test_only_the_loop_reads_the_contexts_for_a_brief(
    world: World, tmp_path: Path, mode: Literal["direct", "rlm"], line_reads: int
) -> None:
    with CountingStore(tmp_path / "counted") as store:
        log = store.register_text("\n".join(LINES[:40]), name="log")
        spec = RunSpec(query="Which disk?", contexts=(log,), mode=mode)
        deps = replace(world.deps(ScriptedModel([ANSWER]), ScriptedOpener(GOOD[2:]), MemoryRecord()), store=store)
        outcome = await solve(spec, deps, Ledger())

        assert (outcome.mode, store.line_reads) == (mode, line_reads)


async def test_a_direct_call_that_the_provider_finds_too_long_fails_in_its_words(world: World) -> None:
    outcome = await world.solve([PromptOverWindow("too long")], [], spec=world.spec(mode="direct"))

    assert (outcome.status, outcome.stopped_by, outcome.message) == ("failed", "error", "too long. There is no answer.")
    assert len(world.root.calls) == 1


async def test_a_direct_call_that_cannot_fit_the_model_is_refused_before_its_way_is_on_record(world: World) -> None:
    spec = world.spec(mode="direct")
    outcome = await world.solve([], [], spec=spec, profile=Profile(window_tokens=4_000))

    assert (outcome.status, outcome.mode, outcome.mode_reason) == ("failed", "rlm", "")
    assert outcome.message.startswith("mode='direct' needs about ")
    assert world.events("routed") == []


async def test_a_direct_answer_that_breaks_the_schema_is_asked_for_once_more(world: World) -> None:
    note = world.store.register_text("Built in 1843.", name="note")
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}
    spec = RunSpec(query="When?", contexts=(note,), output_schema=schema)
    outcome = await world.solve(['{"year": "then"}', '```json\n{"year": 1843}\n```'], [], spec=spec)

    assert outcome.answer == {"year": 1843}
    assert "'then' is not of type 'integer'" in world.root.calls[1].messages[-1].content


async def test_a_typed_answer_is_checked_and_sent_back(world: World) -> None:
    spec = world.spec(output_schema={"type": "integer"})
    cells = [GOOD[0], CellResult(code="", final=Final(value="many")), CellResult(code="", final=Final(value="429"))]
    outcome = await world.solve([LOOK, "```repl\nFINAL(guess())\n```", "```repl\nFINAL(str(n))\n```"], cells, spec=spec)

    assert outcome.answer == 429
    assert "'many' is not of type 'integer'" in world.root.calls[2].messages[-1].content


async def test_five_megabytes_come_back_byte_exact(world: World) -> None:
    answer = "ü\r\nx\x00" * 1_000_000
    outcome = await world.solve([LOOK, ANSWER], [GOOD[0], CellResult(code="", final=Final(value=answer))])

    assert outcome.answer == answer
    assert isinstance(world.record, Run)
    assert world.record.state().answer == answer
    assert world.events("run_ended")[0]["answer"] is None


# --- limits and failures


async def test_after_the_last_turn_the_best_answer_so_far_comes_back_marked(world: World) -> None:
    cells = [GOOD[0], GOOD[1], CellResult(code="", stdout="429\n")]
    outcome = await world.solve([LOOK, COUNT, COUNT], cells, limits=RunLimits(max_iterations=3))

    assert (outcome.status, outcome.answer, outcome.stopped_by) == ("completed", "429", "iterations")
    assert outcome.message == "This is the best answer so far, not a confirmed one: it is what the last block showed."
    assert "This is the last turn (turn 3 of 3)." in world.root.calls[2].messages[-1].content


async def test_when_the_dollars_run_short_the_last_turn_is_still_paid(world: World) -> None:
    limits = RunLimits(max_usd=0.05)
    big = Profile(usd_per_mtok_in=10.0, usd_per_mtok_out=40.0, max_output_tokens=200)
    outcome = await world.solve([LOOK, COUNT, LOOK, COUNT, ANSWER], [*GOOD[:2], *GOOD], limits=limits, profile=big)

    assert outcome.usage.cost_usd is not None
    assert outcome.usage.cost_usd <= 0.05
    assert any("the dollars are nearly used up" in call.messages[-1].content for call in world.root.calls)


async def test_a_budget_too_small_for_a_single_call_ends_with_a_sentence(world: World) -> None:
    outcome = await world.solve([LOOK], limits=RunLimits(max_tokens=100))

    assert (outcome.status, outcome.answer, outcome.stopped_by) == ("failed", None, "tokens")
    assert "max_tokens" in outcome.message
    assert world.root.calls == []


async def test_the_time_limit_ends_a_block_and_leaves_time_for_the_last_turn(world: World) -> None:
    async def play(code: str, calls: GuestCalls) -> CellResult:
        if "FINAL" not in code:
            await anyio.sleep_forever()
        return GOOD[2]

    # A loaded machine needs a while for the last turn, which gets about a seventh of these seconds.
    with anyio.fail_after(60):
        outcome = await world.solve([LOOK, ANSWER], play, limits=RunLimits(max_seconds=4.0))

    assert (outcome.answer, outcome.stopped_by) == ("429", "final")
    assert "stopped because it took longer" in world.root.calls[1].messages[-1].content
    assert "the time is nearly used up" in world.root.calls[1].messages[-1].content


async def test_a_model_that_hangs_is_ended_by_the_time_limit(world: World) -> None:
    root = ScriptedModel([LOOK], seconds=3600)
    with anyio.fail_after(60):
        outcome = await solve(
            world.spec(), world.deps(root, ScriptedOpener(GOOD), MemoryRecord()), Ledger(RunLimits(max_seconds=0.2))
        )

    assert (outcome.status, outcome.stopped_by) == ("failed", "seconds")


async def test_a_refused_key_ends_the_run_with_what_it_has(world: World) -> None:
    outcome = await world.solve([COUNT, KeyRefused("the provider refused the key: set RLM_MCP_API_KEY")], [GOOD[1]])

    assert (outcome.status, outcome.answer, outcome.stopped_by) == ("failed", "429", "error")
    assert outcome.message.startswith("the provider refused the key: set RLM_MCP_API_KEY")


async def test_a_prompt_that_the_provider_finds_too_long_is_shortened_and_sent_again(world: World) -> None:
    replies = [LOOK, PromptOverWindow("too long"), COUNT, ANSWER]
    outcome = await world.solve(replies, GOOD)

    assert outcome.answer == "429"
    assert [event["shrinks"] for event in world.events("root_reply")] == [0, 1, 0]


async def test_cancelling_records_the_end_and_the_best_answer(world: World) -> None:
    async def play(code: str, calls: GuestCalls) -> CellResult:
        if "count" in code:
            return GOOD[1]
        scope.cancel()
        await anyio.sleep_forever()
        raise AssertionError

    with anyio.fail_after(60), anyio.CancelScope() as scope:
        await world.solve([COUNT, LOOK], play)

    assert scope.cancelled_caught
    assert isinstance(world.record, Run)
    state = world.record.state()
    assert (state.status, state.stopped_by, state.answer) == ("cancelled", "cancelled", "429")


async def test_what_is_under_way_when_a_run_is_cancelled_is_settled_before_its_end_is_on_record(world: World) -> None:
    sub = ScriptedModel(["late"], seconds=3600)

    async def play(code: str, calls: GuestCalls) -> CellResult:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(calls.llm_query, "Is it?")
            while not sub.calls:
                await anyio.lowlevel.checkpoint()
            scope.cancel()
        raise AssertionError

    with anyio.fail_after(60), anyio.CancelScope() as scope:
        await world.solve([ASK], play, sub=sub)

    assert isinstance(world.record, Run)
    events = list(world.record.events())
    assert [name_of(event) for event in events][-2:] == ["sub_failed", "run_ended"]
    replied, failed = to_json(events[3]), to_json(events[-2])
    usage = world.record.state().usage
    assert (usage.sub_calls, usage.failed_calls, usage.prompt_tokens - replied["usage"]["prompt_tokens"]) == (1, 1, 0)
    assert usage.unanswered_prompt_tokens == failed["usage"]["unanswered_prompt_tokens"] > 0


async def test_usage_on_record_is_that_of_the_whole_tree_while_a_child_runs(world: World) -> None:
    sub = ScriptedModel([COUNT, ANSWER])
    world.record = MemoryRecord()
    repl = ScriptedOpener(asking(), [GOOD[1], GOOD[2]])
    await solve(world.spec(), world.deps(ScriptedModel([ASK_CHILD]), repl, world.record, sub=sub), Ledger())

    spent = [
        (event["path"] != "", event["spent"]["root_calls"], event["spent"]["sub_calls"])
        for event in world.events("root_reply")
    ]
    assert spent == [(False, 1, 0), (True, 1, 1), (True, 1, 2)]


# --- sub-calls and children


async def test_a_sub_call_is_counted_recorded_and_answered(world: World) -> None:
    sub = ScriptedModel(['{"value": "yes"}'])
    outcome = await world.solve([ASK], asking(), sub=sub)

    assert outcome.answer == "yes"
    assert (outcome.usage.root_calls, outcome.usage.sub_calls) == (1, 1)
    (event,) = world.events("sub_reply")
    assert (event["value"], event["prompt_head"], event["turn"]) == ("yes", "Is 'disk full' an error?", 1)


async def test_a_failed_sub_call_is_an_exception_in_the_block_and_on_record(world: World) -> None:
    sub = ScriptedModel([KeyRefused("no such key")])
    outcome = await world.solve([ASK, ANSWER], asking(), sub=sub, limits=RunLimits(max_iterations=1))

    assert outcome.status == "failed"
    assert world.events("sub_failed")[0]["error"] == "no such key"


WEAK = Profile(strength="weak", window_tokens=16_384)


async def test_a_strong_root_model_leads_the_children_of_a_run_whose_sub_model_is_weak(world: World) -> None:
    root, sub = ScriptedModel([ASK_CHILD, COUNT, ANSWER], name="root"), ScriptedModel([], name="sub", profile=WEAK)
    repl = ScriptedOpener(asking(), [GOOD[1], GOOD[2]])
    world.record = MemoryRecord()
    outcome = await solve(world.spec(), world.deps(root, repl, world.record, sub=sub), Ledger())

    assert (outcome.status, outcome.answer) == ("completed", "429")
    assert [event["model"] for event in world.events("routed")[1:]] == ["root"]
    assert sub.calls == []


async def test_a_child_is_led_by_the_model_that_is_on_record(world: World) -> None:
    """As in records of a version in which the sub-model always led children."""
    root, sub = ScriptedModel([ASK_CHILD], name="root"), ScriptedModel([COUNT, ANSWER], name="sub")
    live = MemoryRecord()
    opener = ScriptedOpener(asking(), [GOOD[1], GOOD[2]])
    await solve(world.spec(), world.deps(root, opener, live, sub=sub), Ledger())
    [routed] = [number for number, event in enumerate(live.events) if event.path and name_of(event) == "routed"]
    begun = live.events[: routed + 1]

    root, sub = ScriptedModel([], name="root"), ScriptedModel([COUNT, ANSWER], name="sub", profile=WEAK)
    opener = ScriptedOpener(asking(), [GOOD[1], GOOD[2]])
    outcome = await solve(world.spec(), world.deps(root, opener, MemoryRecord(), sub=sub, tape=Tape(begun)), Ledger())
    assert (outcome.answer, len(sub.calls)) == ("429", 2)


async def test_a_child_is_a_whole_run_with_its_own_place_in_the_record(world: World) -> None:
    sub = ScriptedModel([COUNT, ANSWER])
    root = ScriptedModel([ASK_CHILD])
    repl = ScriptedOpener(asking(), [GOOD[1], GOOD[2]])
    world.record = MemoryRecord()
    outcome = await solve(world.spec(), world.deps(root, repl, world.record, sub=sub), Ledger())

    assert outcome.answer == "429"
    assert repl.values == [None, "disk\n" * 9_000]
    assert (outcome.usage.root_calls, outcome.usage.sub_calls) == (1, 2)
    children = {event["path"] for event in world.events("root_reply")} - {""}
    assert len(children) == 1
    assert [event["path"] for event in world.events("run_ended")] == [*children, ""]
    routed = world.events("routed")[1]
    assert {name: routed[name] for name in ("path", "query", "chars", "model")} == {
        "path": children.pop(),
        "query": "How many disks?",
        "chars": 45_000,
        "model": "scripted",
    }


async def test_a_sub_call_on_record_says_who_answered_and_for_how_much(world: World) -> None:
    sub = ScriptedModel(["yes", ProviderFailed("no luck", failed_requests=3, unanswered_requests=1)], name="small")
    two = "```repl\nllm_query('Is it?')\nFINAL(1)\n```"

    async def play(code: str, calls: GuestCalls) -> CellResult:
        for prompt in ("Is it?", "Is it?", "Was it?"):
            with suppress(SubCallFailed):
                await calls.llm_query(prompt)
        return CellResult(code="", final=Final(value=1))

    await world.solve([two], play, sub=sub)
    first, again = world.events("sub_reply")
    (failed,) = world.events("sub_failed")
    assert [event["model"] for event in (first, again, failed)] == ["small"] * 3
    assert [event["cached"] for event in (first, again, failed)] == [False, True, False]
    assert first["usage"]["prompt_tokens"] > 0
    assert again["usage"]["prompt_tokens"] == 0
    assert (failed["usage"]["failed_requests"], failed["usage"]["unanswered_requests"]) == (3, 1)
    assert all({"at", "seconds", "key", "spent"} <= event.keys() for event in (first, again, failed))


async def test_at_the_last_depth_a_child_is_a_plain_call_with_the_text_as_material(world: World) -> None:
    sub = ScriptedModel(["9000"])
    root = ScriptedModel([ASK_CHILD])
    spec = world.spec(max_depth=0)
    outcome = await solve(spec, world.deps(root, ScriptedOpener(asking()), MemoryRecord(), sub=sub), Ledger())

    assert outcome.answer == "9000"
    assert "disk\ndisk" in sub.calls[0].last

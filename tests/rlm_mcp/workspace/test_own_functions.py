"""Functions of the caller in the REPL: called by name, bounded, counted, on record, and failing in words."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import pytest

import rlm_mcp
from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.coverage import Reading
from rlm_mcp.engine.guest_calls import RunCalls
from rlm_mcp.errors import RlmError, SettingsError, SubCallFailed
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.records.events import Event, RunStarted, SubFailed, SubReply, event_from_json
from rlm_mcp.records.tape import Tape
from rlm_mcp.records.types import RunState
from rlm_mcp.repl.guest_functions import ANSWER_CHARS, functions_of
from rlm_mcp.settings import Settings
from rlm_mcp.spending import RunLimits
from rlm_mcp.workspace.launch import RunModels

pytestmark = pytest.mark.anyio

STOCK = {"apple": 3, "pear": 0}


def lookup(word: str, *, default: int = -1) -> dict[str, object]:
    """How many are in stock.

    Not for the prompt.
    """
    return {"word": word, "count": STOCK.get(word, default)}


async def fail(reason: str) -> None:
    raise ValueError(f"it may not be: {reason} sk-abcdef123456")


def run_calls(
    calls: Mapping[str, Callable[..., object]],
    *,
    limits: RunLimits | None = None,
    tape: Tape | None = None,
    record: list[Event] | None = None,
    place: list[str] | None = None,
) -> RunCalls:
    async def nothing() -> None:
        pass

    events, at = [] if record is None else record, place or ["turn 1"]
    return RunCalls(
        ask=None,  # type: ignore[arg-type] # nothing is asked
        child=None,
        ledger=Ledger(limits or RunLimits()),
        tape=tape or Tape(),
        reading=Reading(),
        profiles={},
        record=events.append,
        settled=nothing,
        own=functions_of(calls),
        place=lambda: at[0],
    )


async def solve_with(code: str, tmp_path: Path, cache: Path, **options: object) -> tuple[RunState, ScriptedModel]:
    settings = Settings(data_dir=tmp_path / "data", cache_dir=cache, sub_call_cache=False)
    model = ScriptedModel([f"```repl\n{code}\n```", "```repl\nFINAL(n)\n```"])

    async def choose(_root: str | None, _sub: str | None) -> RunModels:
        return RunModels(root=model, sub=model)

    options |= {"settings": settings, "choose": choose, "calls": {"lookup": lookup, "fail": fail}}
    return await rlm_mcp.solve("How many apples?", {"list": "apple pear"}, **options), model  # type: ignore[arg-type] # by name


async def test_code_calls_functions_of_the_caller_and_replay_answers_from_the_record(
    tmp_path: Path, sandbox_cache: Path
) -> None:
    code = """
n = [lookup(word)["count"] for word in context.split()] + [lookup("plum", default=7)["count"]]
try:
    fail("today")
except Exception as error:
    n.append(str(error))
"""
    state, model = await solve_with(code, tmp_path, sandbox_cache)
    assert state.answer == '[3, 0, 7, "fail failed: ValueError: it may not be: today [key]"]'
    assert (state.usage.sub_calls, state.usage.root_calls, state.mode) == (4, 2, "rlm")
    prompt = model.calls[0].messages[0].content
    assert "- lookup(word: str, *, default: int = -1) -> dict[str, object]: How many are in stock.\n" in prompt
    assert "Not for the prompt" not in prompt

    settings = Settings(data_dir=tmp_path / "data", cache_dir=sandbox_cache)
    async with rlm_mcp.open_workspace(settings) as workspace:
        events = [event_from_json(json.loads(line)) for line in (await workspace.runs.trace(state.run_id)).splitlines()]
        assert [e.prompt_head for e in events if isinstance(e, SubReply) and e.kind == "tool"] == [
            'lookup("apple")',
            'lookup("pear")',
            'lookup("plum", default=7)',
        ]
        (started,) = (event for event in events if isinstance(event, RunStarted))
        assert [row["name"] for row in started.functions or ()] == ["lookup", "fail"]
        outcome, difference = await workspace.replay(events, None, lambda _: None)
        assert (outcome.answer, difference) == (state.answer, None)


async def test_the_same_call_is_answered_anew_in_a_run_and_from_the_record_when_it_is_resumed() -> None:
    asked: list[str] = []

    def count(word: str) -> int:
        asked.append(word)
        return len(asked)

    record: list[Event] = []
    first = run_calls({"count": count}, record=record)
    assert [await first.call_function("count", ["a"], {}) for _ in range(2)] == [1, 2]
    resumed = run_calls({"count": count}, tape=Tape(record))
    assert [await resumed.call_function("count", ["a"], {}) for _ in range(3)] == [1, 2, 3]
    later = run_calls({"count": count}, tape=Tape(record), place=["turn 2"])
    assert await later.call_function("count", ["a"], {}) == 4


async def test_a_replay_calls_nothing() -> None:
    strict = run_calls({"lookup": lookup}, tape=Tape(strict=True))
    with pytest.raises(SubCallFailed, match="its record holds no reply"):
        await strict.call_function("lookup", ["apple"], {})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("x" * ANSWER_CHARS, "answered with 1,000,002 characters"),
        ({1, 2}, "set is not JSON serializable"),
        (float("nan"), "Out of range float values"),
    ],
)
async def test_an_answer_that_is_too_long_or_not_json_fails_in_words(answer: object, words: str) -> None:
    record: list[Event] = []
    calls = run_calls({"give": lambda: answer}, record=record)
    with pytest.raises(SubCallFailed, match=words):
        await calls.call_function("give", [], {})
    (failed,) = record
    assert isinstance(failed, SubFailed)
    assert words in failed.error


async def test_arguments_and_names_are_checked_before_anything_is_called() -> None:
    calls = run_calls({"lookup": lookup})
    with pytest.raises(SubCallFailed, match=r"takes 200,000 characters, not 300,002"):
        await calls.call_function("lookup", ["x" * 300_000], {})
    with pytest.raises(SubCallFailed, match=r"no function 'other' here; there are: lookup"):
        await calls.call_function("other", [], {})
    with pytest.raises(SubCallFailed, match=r"^lookup failed: TypeError: lookup\(\) got an unexpected keyword"):
        await calls.call_function("lookup", ["a"], {"colour": "red"})


async def test_calls_beyond_the_budget_are_refused() -> None:
    calls = run_calls({"lookup": lookup}, limits=RunLimits(max_sub_calls=1, max_usd=0.1))
    await calls.call_function("lookup", ["apple"], {})
    with pytest.raises(RlmError, match="all 1 sub-calls are used"):
        await calls.call_function("lookup", ["apple"], {})
    assert calls.budget()["usd"] == 0.1


async def test_a_function_that_takes_longer_than_the_run_may_is_left() -> None:
    calls = run_calls({"wait": anyio.sleep_forever}, limits=RunLimits(max_seconds=1))
    words = r"^wait took longer than the (1|0\.\d+) s that the run had left: give what you have$"
    with anyio.fail_after(10), pytest.raises(SubCallFailed, match=words):
        await calls.call_function("wait", [], {})


async def test_a_time_out_of_the_function_itself_is_told_as_its_own() -> None:
    async def fetch() -> None:
        raise TimeoutError("no answer from the stock after 2 s")

    words = "^fetch failed: TimeoutError: no answer from the stock after 2 s$"
    with pytest.raises(SubCallFailed, match=words):
        await run_calls({"fetch": fetch}).call_function("fetch", [], {})


class Leave(BaseException):
    """No Exception, like SystemExit."""


@pytest.mark.parametrize("error", [SystemExit("3"), Leave("3"), StopIteration("3"), asyncio.CancelledError("3")])
async def test_a_function_that_would_end_its_program_fails_in_words(error: BaseException) -> None:
    def leave() -> None:
        raise error

    async def leave_later() -> None:
        raise error

    calls = run_calls({"leave": leave, "leave_later": leave_later})
    for name in ("leave", "leave_later"):
        with anyio.fail_after(10), pytest.raises(SubCallFailed, match=f"^{name} failed: "):
            await calls.call_function(name, [], {})


@pytest.mark.parametrize("name", ["1st", "a.b", "class", "llm_query", "tools", "a b", "", "x" * 70])
def test_names_that_are_taken_or_no_names_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="no free name in Python"):
        functions_of({name: lookup})

"""Calls of the guest that the run answers: classification within the budget, and child runs."""

from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import anyio
import pytest

from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.coverage import Reading
from rlm_mcp.engine.guest_calls import ChildQuery, RunCalls
from rlm_mcp.engine.subcalls import SubCalls
from rlm_mcp.errors import SubCallFailed
from rlm_mcp.models.base import Profile
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.records.tape import Tape
from rlm_mcp.repl.types import ExpectedQuery
from rlm_mcp.spending import RunLimits

pytestmark = pytest.mark.anyio


def run_calls(
    model: ScriptedModel, limits: RunLimits, child: Callable[[ChildQuery, str], Awaitable[object]] | None = None
) -> RunCalls:
    return RunCalls(
        ask=SubCalls({model.name: model}).ask,
        child=child,
        ledger=Ledger(limits),
        tape=Tape(),
        reading=Reading(),
        profiles={model.name: model.profile},
        record=lambda _: None,
    )


async def test_a_strong_model_is_asked_in_packs_and_a_weak_one_with_a_key_for_each_text() -> None:
    strong = ScriptedModel(['{"labels": "1y2n3n"}'], name="strong")
    judged = await run_calls(strong, RunLimits()).classify(["a", "b", "c"], "Is it a?", ["yes", "no"])
    assert judged == {"labels": ["yes", "no", "no"], "failed": [], "uncertain": [], "calls": 1, "size": 32}

    weak = ScriptedModel(['{"1": "yes", "2": "no"}'], name="weak", profile=Profile(strength="weak"))
    assert (await run_calls(weak, RunLimits()).classify(["a", "b"], "Is it a?", ["yes", "no"]))["size"] == 8


async def test_classification_beyond_the_budget_is_refused_before_anything_is_sent() -> None:
    model = ScriptedModel([])
    with pytest.raises(SubCallFailed) as refused:
        await run_calls(model, RunLimits(max_sub_calls=10)).classify(
            [f"text {n}" for n in range(2_400)], "Is it a?", ["yes", "no"]
        )
    assert str(refused.value) == (
        "classify over 2,400 items takes about 12 sub-calls and 17,960 tokens, and 10 sub-calls are left, so nothing"
        " was sent: filter the items with code first (dates, words, regexes), or classify a part of them"
    )
    assert model.calls == []


class Children:
    """Child runs that answer once they may."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = anyio.Event()

    async def __call__(self, asked: ChildQuery, _: str) -> object:
        self.asked.append(asked.query)
        await self.may_answer.wait()
        return f"answer to {asked.query}"


async def test_a_child_that_was_stopped_is_run_again_for_who_waits_and_for_who_asks_later() -> None:
    children, said = Children(), list[object]()
    calls = run_calls(ScriptedModel([]), RunLimits(), children)

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            said.append(await calls.rlm_query("Who?", "a text"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            first, second = anyio.CancelScope(), anyio.CancelScope()
            for scope in (first, second):
                tasks.start_soon(ask, scope)
            await anyio.wait_all_tasks_blocked()
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            assert children.asked == ["Who?", "Who?"]
            second.cancel()
        children.may_answer.set()
        assert await calls.rlm_query("Who?", "a text") == "answer to Who?"
    assert (said, len(children.asked)) == ([], 3)


async def test_a_query_as_long_as_a_text_is_refused() -> None:
    calls = run_calls(ScriptedModel([]), RunLimits(), children := Children())
    with pytest.raises(SubCallFailed, match="takes a query of 100,000 characters, not 100,001: pass text as context"):
        await calls.rlm_query("q" * 100_001, "a text")
    assert children.asked == []


async def test_equal_calls_share_the_child_that_was_run_ahead_of_them() -> None:
    children, said = Children(), list[object]()
    calls = run_calls(ScriptedModel([]), RunLimits(), children)
    arguments = {"query": "Who?", "context": "a text", "notes": False}
    expected = ExpectedQuery(
        function="rlm_query", arguments=arguments, is_certain=True, is_conditional=False, answer=Future()
    )

    async def ask() -> None:
        said.append(await calls.rlm_query("Who?", "a text"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:

            async def run(call: Callable[[], Awaitable[object]]) -> None:
                await call()

            calls.expect([expected], lambda call: tasks.start_soon(run, call))
            for _ in range(3):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            children.may_answer.set()
    assert (said, children.asked) == (["answer to Who?"] * 3, ["Who?"])

"""How much is asked ahead of code: within concurrency, the budget and what may be in vain."""

from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from rlm_mcp.engine.ahead_calls import AheadCalls
from rlm_mcp.engine.budget import Ledger
from rlm_mcp.errors import BudgetExceeded, SubCallFailed
from rlm_mcp.models.base import Profile
from rlm_mcp.repl.types import ExpectedQuery
from rlm_mcp.spending import RunLimits, Spent

pytestmark = pytest.mark.anyio

PRICED = Profile(usd_per_mtok_in=1.0, usd_per_mtok_out=1.0, max_output_tokens=1_000)


class Asking:
    """Ahead calls whose answers come when `let_answer` is called; `asked` holds the prompts."""

    def __init__(self, tasks: TaskGroup, limits: RunLimits, already: Spent | None) -> None:
        self.ledger = Ledger(limits, already=already)
        self.ahead = AheadCalls(
            self.ledger, {"m": PRICED}, ask=self._ask, key=lambda query: str(query.arguments["prompt"])
        )
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.error: Exception | None = None
        self._tasks = tasks
        self._may_answer = anyio.Event()

    async def _ask(self, query: ExpectedQuery) -> object:
        prompt = str(query.arguments["prompt"])
        self.asked.append(prompt)
        try:
            await self._may_answer.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(prompt)
            raise
        if self.error is not None:
            raise self.error
        return prompt.upper()

    async def expect(self, *queries: ExpectedQuery) -> None:
        self.ahead.expect(queries, lambda run: self._tasks.start_soon(as_coroutine, run))
        await settled()

    async def let_answer(self) -> None:
        self._may_answer.set()
        await settled()

    async def take(self, prompt: str) -> object:
        answer = self.ahead.take(prompt)
        await settled()
        return None if answer is None or not await answer.was_asked() else await answer.value()


async def as_coroutine(run: Callable[[], Awaitable[object]]) -> None:
    await run()


async def settled() -> None:
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def asking(already: Spent | None = None, **limits: Any) -> AsyncIterator[Asking]:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            yield Asking(tasks, RunLimits(**limits), already)
            tasks.cancel_scope.cancel()


def query(
    prompt: str,
    *,
    certain: bool = True,
    conditional: bool = False,
    function: Literal["llm_query", "rlm_query"] = "llm_query",
) -> ExpectedQuery:
    return ExpectedQuery(
        function=function,
        arguments={"prompt": prompt},
        is_certain=certain,
        is_conditional=conditional,
        answer=Future(),
    )


def queries(n: int, *, conditional: bool = False) -> list[ExpectedQuery]:
    return [query(f"q{i}", conditional=conditional) for i in range(n)]


async def test_one_less_than_the_run_allows_is_in_flight_and_the_rest_follows() -> None:
    async with asking(concurrency=4) as it:
        await it.expect(*queries(12))
        assert it.asked == ["q0", "q1", "q2"]
        await it.let_answer()
        assert it.asked == [f"q{i}" for i in range(4)]  # no more wait for code
        assert await it.take("q0") == "Q0"
        assert it.asked[4:] == ["q4"]
        assert it.ledger.spent().calls_in_vain == 4


async def test_what_code_has_asked_itself_is_not_asked_again() -> None:
    async with asking() as it:
        assert await it.take("q1") is None
        await it.expect(*queries(3))
        assert it.asked == ["q0", "q2"]


async def test_what_an_answer_may_prevent_is_asked_only_so_that_one_call_in_ten_may_be_in_vain() -> None:
    async with asking() as it:
        await it.let_answer()
        await it.expect(*queries(100, conditional=True))
        ahead = []
        for i in range(64):
            await it.take(f"q{i}")
            ahead.append(it.ledger.spent().calls_in_vain)
        assert ahead[:9] == [0] * 9
        assert all(10 * in_vain <= calls for calls, in_vain in enumerate(ahead, 1))
        assert ahead[63] == 6


async def test_after_more_than_one_call_in_ten_in_vain_all_calls_are_asked_that_carefully() -> None:
    async with asking() as it:
        await it.let_answer()
        await it.expect(*queries(6))
        await it.expect()
        await it.expect(*[query(f"new {i}") for i in range(6)])
        assert it.asked == [f"q{i}" for i in range(6)]
        assert await it.take("q5") == "Q5"
        assert it.ledger.spent().calls_in_vain == 5


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        ({"max_sub_calls": 5}, ["q0", "q1"]),
        ({"max_tokens": 11_000}, ["q0", "q1"]),
        ({"max_usd": 0.011}, ["q0", "q1"]),
        ({}, ["q0", "q1", "q2"]),
    ],
)
async def test_the_budget_must_pay_for_all_calls_in_between_too(limits: dict[str, Any], asked: list[str]) -> None:
    async with asking(**limits) as it:
        between = [query(f"unknown {i}", certain=False) for i in range(6)]
        await it.expect(between[0], query("q0"), between[1], query("q1"), *between[2:], query("q2"))
        assert it.asked == asked


async def test_a_large_call_that_may_come_before_is_left_its_budget() -> None:
    for before in ("x" * 40_000, ""):
        async with asking(max_tokens=20_000) as it:
            await it.expect(query(before, certain=False), query("q0"))
            assert it.asked == ([] if before else ["q0"])
        async with asking(max_tokens=20_000) as it:
            with it.ahead.by_code(before):
                await it.expect(query("q0"))
            assert it.asked == ([] if before else ["q0"])


async def test_a_call_that_the_budget_refused_is_left_to_code() -> None:
    async with asking() as it:
        it.error = SubCallFailed("too dear")
        it.error.__cause__ = BudgetExceeded("too dear", which="usd")
        await it.let_answer()
        await it.expect(query("q0"))
        assert it.ledger.spent().calls_in_vain == 0
        assert await it.take("q0") is None


async def test_a_failed_call_fails_for_code_too() -> None:
    async with asking() as it:
        it.error = SubCallFailed("the provider is down")
        await it.let_answer()
        await it.expect(query("q0"))
        with pytest.raises(SubCallFailed, match="the provider is down"):
            await it.take("q0")


async def test_child_runs_are_few_and_end_with_the_block() -> None:
    async with asking() as it:
        await it.expect(*[query(f"q{i}", function="rlm_query") for i in range(9)])
        assert it.asked == ["q0", "q1", "q2"]
        await it.expect()
        assert sorted(it.cancelled) == ["q0", "q1", "q2"]
        assert it.ledger.spent().calls_in_vain == 0


async def test_a_child_run_is_asked_ahead_only_if_the_budget_pays_twice_what_one_has_cost() -> None:
    already = Spent(sub_calls=20, root_calls=0)
    async with asking(already, max_sub_calls=130) as it:
        it.ahead.count_child()
        await it.expect(*[query(f"q{i}", function="rlm_query") for i in range(9)])
        assert it.asked == ["q0", "q1"]

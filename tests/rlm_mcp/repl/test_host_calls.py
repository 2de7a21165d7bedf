"""Calls of code in the REPL that the host answers: how many at once, in which order, and what cancellation does."""

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.repl.host_calls import CALLS_AT_ONCE
from tests.rlm_mcp.repl.opener import PATH, Opener, Sub, value_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "code",
    [
        "llm_query_batched([f'q{i}' for i in range(30)])",
        "import asyncio\nawait asyncio.gather(*[llm_query_async(f'q{i}') for i in range(30)])",
        "import concurrent.futures as f\nlist(f.ThreadPoolExecutor(30).map(llm_query, [f'q{i}' for i in range(30)]))",
    ],
)
async def test_sub_calls_are_in_flight_together(opened: Opener, code: str) -> None:
    repl = await opened.text(sub=Sub(together=30))
    with anyio.fail_after(60):
        assert await value_of(repl, code) == repr([f"answer to q{i}" for i in range(30)])


async def test_cancelling_takes_back_the_sub_calls_in_flight(opened: Opener) -> None:
    sub = Sub(together=1_000)
    repl = await opened.text(sub=sub)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(repl.run, "llm_query_batched(['a', 'b', 'c'])")
            while len(sub.prompts) < 3:
                await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        while sub.cancelled < 3:  # the cell may end before its calls have
            await anyio.wait_all_tasks_blocked()
    assert sub.cancelled == 3
    assert await value_of(repl, "1 + 1") == "2"


async def test_a_large_batch_is_under_way_in_part_and_answered_whole(opened: Opener) -> None:
    sub = Sub(together=CALLS_AT_ONCE)
    repl = await opened.text(sub=sub)
    with anyio.fail_after(60):
        assert await value_of(repl, "len(set(llm_query_batched([str(i) for i in range(600)])))") == "600"
    assert len(sub.prompts) == 600


async def test_of_a_batch_that_is_cancelled_what_had_not_begun_never_does(opened: Opener) -> None:
    sub = Sub(together=1_000)
    repl = await opened.text(sub=sub)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(repl.run, "llm_query_batched([str(i) for i in range(600)])")
            while len(sub.prompts) < CALLS_AT_ONCE:
                await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        while sub.cancelled < CALLS_AT_ONCE:  # the cell may end before its calls have
            await anyio.wait_all_tasks_blocked()
    assert len(sub.prompts) == sub.cancelled == CALLS_AT_ONCE
    assert await value_of(repl, "1 + 1") == "2"


async def test_calls_that_are_answered_at_once_leave_the_loop_to_others_in_between(opened: Opener) -> None:
    class Cached(Sub):
        answered_in_a_row = 0

        async def llm_query(self, prompt: str, **_: object) -> object:
            self.answered_in_a_row += 1
            return prompt

    sub, most = Cached(), 0

    async def look() -> None:
        nonlocal most
        while True:
            most, sub.answered_in_a_row = max(most, sub.answered_in_a_row), 0
            await anyio.lowlevel.checkpoint()

    repl = await opened.text(sub=sub)
    submit = "import host\nlen(host.wait(host.submit_all('llm_query', [((str(i),), {}) for i in range(2_000)])))"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        assert await value_of(repl, submit) == "2000"
        tasks.cancel_scope.cancel()
    assert 0 < most < 500


async def test_the_calls_of_one_repl_do_not_wait_for_those_of_another(opened: Opener) -> None:
    crowd = await opened.text(sub=Sub(together=1_000))
    other = await opened.text()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(crowd.run, "llm_query_batched([str(i) for i in range(600)])")
            assert await value_of(other, "llm_query('a question')") == "'answer to a question'"
            tasks.cancel_scope.cancel()


async def test_child_runs_that_wait_for_sub_calls_of_their_own_do_not_take_their_places(opened: Opener) -> None:
    repl = await opened.text(sub=Sub(together=1))
    code = f"len(rlm_query_batched(['q'] * {2 * CALLS_AT_ONCE}, ['c'] * {2 * CALLS_AT_ONCE})), llm_query('x')"
    with anyio.fail_after(60):
        assert await value_of(repl, code) == f"({2 * CALLS_AT_ONCE}, 'answer to x')"


async def test_search_runs_on_the_host(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("m = search('line 99[0-4] ERROR'); [(x.line, x.text) for x in m], m.total, m[0]['path']")
    assert cell.value == f"([(991, 'line 990 ERROR'), (994, 'line 993 ERROR')], 2, {PATH!r})"

"""How long a question to the client's model waits, and for whom."""

from collections.abc import Callable

import anyio
import pytest

from rlm_mcp.errors import ProviderFailed
from rlm_mcp.models.sampling import Sampled
from rlm_mcp.models.sampling_queue import ANSWER_SECONDS, MOST_TAKEN, PATIENCE_SECONDS, Desk

pytestmark = pytest.mark.anyio


async def asked(desk: Desk, then: Callable[[str], None] = lambda _: None) -> Sampled:
    """One question on the desk, what happens to it there, and its answer."""
    answers: list[Sampled | ProviderFailed] = []

    async def ask() -> None:
        try:
            answers.append(await desk([("user", "how many?")], system="", max_tokens=10, temperature=None))
        except ProviderFailed as error:
            answers.append(error)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            for name in desk.questions():
                then(name)
    (answer,) = answers
    if isinstance(answer, ProviderFailed):
        raise answer
    return answer


async def test_a_question_that_nobody_takes_ends_with_who_could() -> None:
    with pytest.raises(ProviderFailed, match=r"^no client answered a question .* within 0 s: keep calling rlm_result"):
        await asked(Desk(patience_seconds=0.01))


async def test_a_question_that_was_taken_has_a_time_of_its_own() -> None:
    desk = Desk(answer_seconds=lambda _: 0.01)
    with pytest.raises(ProviderFailed, match=r"within 0 s: its user may have declined; .*RLM_MCP_MODEL.*be_the_root"):
        await asked(desk, lambda name: desk.take([name]))
    assert ANSWER_SECONDS < PATIENCE_SECONDS


async def test_who_comes_in_time_with_the_answer_is_heard_however_often_it_was_taken() -> None:
    desk = Desk(patience_seconds=0.01)

    def taken_and_answered(name: str) -> None:
        for _ in range(MOST_TAKEN):
            desk.take([name])
        desk.answer(name, Sampled(text="60"))
        desk.expect_no_more()

    assert (await asked(desk, taken_and_answered)).text == "60"


async def test_the_time_for_an_answer_depends_on_how_many_were_taken_with_it() -> None:
    together: list[int] = []

    def soon(number: int) -> float:
        together.append(number)
        return 0.01

    desk = Desk(answer_seconds=soon)
    with pytest.raises(ProviderFailed, match="its user may have declined"):
        await asked(desk, lambda name: desk.take([name, name, name]))
    assert set(together) == {3}


async def test_a_question_that_was_shown_is_not_taken_by_being_looked_at_again() -> None:
    desk = Desk(answer_seconds=lambda _: 0.01)

    def looked_at(name: str) -> None:
        for _ in range(MOST_TAKEN + 1):
            desk.take(desk.untaken([name]))
        desk.expect_no_more()
        assert list(desk.questions()) == [name]

    with pytest.raises(ProviderFailed, match="within 0 s"):
        await asked(desk, looked_at)

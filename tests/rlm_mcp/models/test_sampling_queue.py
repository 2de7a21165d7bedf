"""What every SamplingQueue has to do: how long a request waits, and for which client. A new one is added to QUEUES."""

from collections.abc import Callable

import anyio
import pytest

from rlm_mcp.errors import ProviderFailed
from rlm_mcp.models.sampling import Sampled
from rlm_mcp.models.sampling_queue import (
    ANSWER_SECONDS,
    MOST_SENT,
    PICKUP_SECONDS,
    HandlerGone,
    LocalSamplingQueue,
    SamplingQueue,
    SamplingRequest,
)

pytestmark = pytest.mark.anyio

OpenQueue = Callable[..., SamplingQueue]
"""Opens the queue of a run; takes `pickup_seconds` and `answer_seconds`."""

QUEUES = {"local": LocalSamplingQueue}


@pytest.fixture(params=QUEUES)
def opened(request: pytest.FixtureRequest) -> OpenQueue:
    return QUEUES[request.param]


async def asked(queue: SamplingQueue, then: Callable[[str], None] = lambda _: None) -> Sampled:
    """The answer to one request; `then` is called with its name while it waits."""
    answers: list[Sampled | ProviderFailed] = []

    async def ask() -> None:
        try:
            answers.append(await queue([("user", "how many?")], system="", max_tokens=10, temperature=None))
        except ProviderFailed as error:
            answers.append(error)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            for name in queue.unanswered():
                then(name)
    (answer,) = answers
    if isinstance(answer, ProviderFailed):
        raise answer
    return answer


async def test_a_request_that_no_client_picks_up_fails_and_says_what_to_do(opened: OpenQueue) -> None:
    with pytest.raises(ProviderFailed, match=r"^no client answered a question .* within 0 s: keep calling rlm_result"):
        await asked(opened(pickup_seconds=0.01))


async def test_a_request_that_was_sent_has_its_own_time_limit(opened: OpenQueue) -> None:
    queue = opened(answer_seconds=lambda _: 0.01)
    with pytest.raises(ProviderFailed, match=r"within 0 s: its user may have declined; .*RLM_MCP_MODEL.*be_the_root"):
        await asked(queue, lambda name: queue.mark_sent([name]))
    assert ANSWER_SECONDS < PICKUP_SECONDS


async def test_an_answer_in_time_counts_however_often_its_request_was_sent(opened: OpenQueue) -> None:
    queue = opened(pickup_seconds=0.01)

    def sent_and_answered(name: str) -> None:
        for _ in range(MOST_SENT):
            queue.mark_sent([name])
        queue.answer(name, Sampled(text="60"))
        queue.fail_unanswered()

    assert (await asked(queue, sent_and_answered)).text == "60"


async def test_the_time_limit_depends_on_how_many_requests_were_sent_together(opened: OpenQueue) -> None:
    together: list[int] = []

    def soon(number: int) -> float:
        together.append(number)
        return 0.01

    queue = opened(answer_seconds=soon)
    with pytest.raises(ProviderFailed, match="its user may have declined"):
        await asked(queue, lambda name: queue.mark_sent([name, name, name]))
    assert set(together) == {3}


async def test_a_request_that_was_sent_is_not_sent_again_by_polling(opened: OpenQueue) -> None:
    queue = opened(answer_seconds=lambda _: 0.01)

    def polled(name: str) -> None:
        for _ in range(MOST_SENT + 1):
            queue.mark_sent(queue.unsent([name]))
        queue.fail_unanswered()
        assert list(queue.unanswered()) == [name]

    with pytest.raises(ProviderFailed, match="within 0 s"):
        await asked(queue, polled)


async def test_the_first_of_two_answers_counts_and_one_to_nothing_is_ignored(opened: OpenQueue) -> None:
    queue = opened()

    def answered_from_two_sides(name: str) -> None:
        queue.answer("of another run", Sampled(text="0"))
        queue.answer(name, Sampled(text="60"))
        queue.answer(name, Sampled(text="61"))
        queue.fail_unanswered()

    assert (await asked(queue, answered_from_two_sides)).text == "60"
    queue.answer("late", Sampled(text="62"))
    assert queue.unanswered() == {}


async def test_a_request_whose_client_dies_stays_open_for_the_next_one(opened: OpenQueue) -> None:
    queue = opened()
    tried: list[str] = []

    async def dying(request: SamplingRequest) -> Sampled:
        tried.append(request.turns[0][1])
        raise HandlerGone

    async def living(request: SamplingRequest) -> Sampled:
        tried.append(request.turns[0][1])
        return Sampled(text="60")

    queue.attach(dying)
    assert (await asked(queue, lambda _: queue.attach(living))).text == "60"
    assert (await asked(queue)).text == "60"
    assert tried == ["how many?"] * 3


async def test_whoever_gives_up_leaves_no_request_and_no_queue_knows_those_of_another(opened: OpenQueue) -> None:
    queue, other = opened(), opened()
    waits: list[str] = []
    queue.on_request = lambda: waits.append("one more")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for each in (queue, other):
                tasks.start_soon(asked, each)
            await anyio.wait_all_tasks_blocked()
            assert (len(queue.unanswered()), len(other.unanswered()), waits) == (1, 1, ["one more"])
            assert queue.unanswered().keys().isdisjoint(other.unanswered())
            tasks.cancel_scope.cancel()
    assert (dict(queue.unanswered()), dict(other.unanswered())) == ({}, {})

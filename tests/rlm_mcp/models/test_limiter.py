import anyio
import pytest

from rlm_mcp.models.limiter import Concurrency, Limiter


def run_round(concurrency: Concurrency, seconds: float) -> None:
    """As many calls at once as are allowed, each answered after `seconds`."""
    calls = int(concurrency.limit)
    for _ in range(calls):
        concurrency.began()
    for _ in range(calls):
        concurrency.answered(seconds)


def test_it_starts_at_eight_and_doubles_while_latency_holds() -> None:
    concurrency = Concurrency()
    limits = []
    for _ in range(6):
        limits.append(int(concurrency.limit))
        run_round(concurrency, 0.1)
    assert limits == [8, 16, 32, 64, 128, 256]
    run_round(concurrency, 0.1)
    assert int(concurrency.limit) == 256


def test_it_stops_growing_when_calls_get_slower() -> None:
    concurrency = Concurrency()
    run_round(concurrency, 1.0)
    run_round(concurrency, 1.8)
    assert int(concurrency.limit) == 16
    run_round(concurrency, 1.0)
    assert int(concurrency.limit) == 17  # no longer doubling


def test_it_does_not_grow_while_it_is_not_reached() -> None:
    concurrency = Concurrency()
    for _ in range(100):
        concurrency.began()
        concurrency.answered(0.1)
    assert int(concurrency.limit) == 8


def test_a_429_halves_once_for_all_calls_that_were_in_flight_together() -> None:
    concurrency = Concurrency()
    for _ in range(8):
        concurrency.began()
    for _ in range(8):
        concurrency.refused(now=10.0, began=9.0, retry_after=None)
    assert concurrency.limit == 4
    concurrency.began()
    concurrency.refused(now=12.0, began=11.0, retry_after=None)
    assert concurrency.limit == 2


def test_it_never_falls_below_one() -> None:
    concurrency = Concurrency(start=1)
    concurrency.began()
    concurrency.refused(now=1.0, began=0.5, retry_after=None)
    assert (concurrency.limit, concurrency.wait_seconds(2.0)) == (1.0, 0.0)


def test_retry_after_holds_all_requests_back_with_jitter() -> None:
    concurrency = Concurrency(jitter=lambda: 0.5)
    concurrency.began()
    concurrency.refused(now=100.0, began=99.0, retry_after=20.0)
    assert concurrency.wait_seconds(100.0) == pytest.approx(21.0)
    assert concurrency.wait_seconds(121.5) == 0.0


def test_at_the_limit_a_request_waits_for_another_to_end() -> None:
    concurrency = Concurrency(start=1)
    assert concurrency.wait_seconds(0.0) == 0.0
    concurrency.began()
    assert concurrency.wait_seconds(0.0) is None


@pytest.mark.anyio
async def test_the_limiter_lets_requests_go_in_order_and_never_more_than_allowed() -> None:
    limiter = Limiter(Concurrency(start=3, most=3))
    order: list[int] = []
    most = 0

    async def request(number: int) -> None:
        nonlocal most
        async with limiter.slot() as slot:
            order.append(number)
            most = max(most, limiter.concurrency.in_flight)
            await anyio.lowlevel.checkpoint()
            slot.answered()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(request, number)
    assert (order, most, limiter.concurrency.in_flight) == (list(range(40)), 3, 0)


@pytest.mark.anyio
async def test_a_cancelled_request_gives_its_slot_back() -> None:
    limiter = Limiter(Concurrency(start=1))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def hang() -> None:
                async with limiter.slot():
                    await anyio.sleep_forever()

            group.start_soon(hang)
            group.start_soon(hang)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        async with limiter.slot() as slot:
            slot.answered()
    assert limiter.concurrency.in_flight == 0

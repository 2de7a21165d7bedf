"""What every TenantLimits has to do, wherever it counts. A new implementation is added to `opened`."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress

import anyio
import pytest

from rlm_mcp.workspace.tenant_limits import (
    BURST,
    REQUESTS_PER_SECOND,
    Holding,
    LimitReached,
    LocalLimits,
    TenantLimits,
)
from tests.peers.cluster import open_limits

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


OpenLimits = Callable[[Clock, Mapping[Holding, int], int | None], TenantLimits]


def local(clock: Clock, most: Mapping[Holding, int], most_runs: int | None) -> LocalLimits:
    return LocalLimits(most, most_runs=most_runs, clock=clock)


@pytest.fixture(params=["local", pytest.param("postgres", marks=pytest.mark.cluster)])
def opened(request: pytest.FixtureRequest) -> OpenLimits:
    if request.param == "local":
        return local
    admission = open_limits(request)
    return lambda clock, most, most_runs: admission(local(clock, most, most_runs))


async def test_a_flood_of_requests_is_refused_until_time_has_passed(opened: OpenLimits) -> None:
    clock = Clock()
    limits = opened(clock, {}, None)
    for _ in range(int(BURST)):
        limits.charge("ann")
    for _ in range(3):
        with pytest.raises(LimitReached, match="requests a second") as refused:
            limits.charge("ann")
    limits.charge("bob")
    clock.now = refused.value.seconds
    limits.charge("ann")


async def test_rates_that_are_full_again_are_forgotten() -> None:
    clock = Clock()
    limits = LocalLimits(clock=clock)
    limits.charge("ann")
    limits.charge("bob")
    assert repr(limits) == "<LocalLimits, 2 rates, 0 held>"
    clock.now = 60.0
    limits.charge("ann")
    assert repr(limits) == "<LocalLimits, 1 rates, 0 held>"


async def test_a_client_that_asks_too_often_all_the_time_is_served_as_often_as_it_may(opened: OpenLimits) -> None:
    clock = Clock()
    limits = opened(clock, {}, None)
    served = 0
    for number in range(2_000):  # a hundred a second for 20 s
        clock.now = number / 100
        with suppress(LimitReached):
            limits.charge("ann")
            served += 1
    assert served == int(BURST + 20 * REQUESTS_PER_SECOND - 1)


async def test_what_one_tenant_holds_is_bounded_by_kind_and_no_other_tenant_is_refused(opened: OpenLimits) -> None:
    limits = opened(Clock(), {"stream": 2, "answered": 1}, None)
    with ExitStack() as held:
        held.enter_context(limits.hold("ann", "stream"))
        held.enter_context(limits.hold("ann", "stream"))
        with pytest.raises(LimitReached, match="2 streams of notifications are open"):
            held.enter_context(limits.hold("ann", "stream"))
        with limits.hold("ann", "answered"), limits.hold("bob", "stream"), limits.hold("ann", "sent"):
            pass
    with limits.hold("ann", "stream"):
        pass


async def test_a_refused_or_a_failed_one_leaves_its_place(opened: OpenLimits) -> None:
    limits = opened(Clock(), {"open": 1}, 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limits.hold("ann", "open"):
            raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            async with limits.admit_run("ann"):
                raise ZeroDivisionError
    async with limits.admit_run("ann"):
        for _ in range(3):
            with pytest.raises(LimitReached, match="1 runs are going on"):
                await limits.admit_run("ann").__aenter__()
    assert await limits.runs_left("ann") == 1


async def test_of_many_runs_that_begin_together_only_as_many_begin_as_may(opened: OpenLimits) -> None:
    limits = opened(Clock(), {}, 8)
    begun: list[int] = []
    refused: list[int] = []
    go, are_decided = anyio.Event(), anyio.Event()

    def note(number: int, where: list[int]) -> None:
        where.append(number)
        if len(begun) + len(refused) == 64:
            are_decided.set()

    async def begin(number: int) -> None:
        try:
            async with limits.admit_run("ann"):
                note(number, begun)
                await go.wait()
        except LimitReached:
            note(number, refused)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(64):
                tasks.start_soon(begin, number)
            await are_decided.wait()
            assert (len(begun), await limits.runs_left("ann"), await limits.runs_left("bob")) == (8, 0, 8)
            go.set()
    assert await limits.runs_left("ann") == 8


async def test_without_a_limit_nothing_is_refused(opened: OpenLimits) -> None:
    limits = opened(Clock(), {}, None)
    async with AsyncExitStack() as held:
        for _ in range(100):
            held.enter_context(limits.hold("ann", "open"))
            await held.enter_async_context(limits.admit_run("ann"))
        assert await limits.runs_left("ann") is None

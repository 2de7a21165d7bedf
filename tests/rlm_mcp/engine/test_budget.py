from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.engine.budget import Ledger, Reservation, paid_call
from rlm_mcp.errors import BudgetExceeded, PriceUnknown, PromptOverWindow, ProviderFailed
from rlm_mcp.models.base import Completion, Message, Profile, Usage
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.spending import RunLimits, Spent

PRICED = Profile(usd_per_mtok_in=1.0, usd_per_mtok_out=10.0)
UNPRICED = Profile()
FAILED = Usage(failed_requests=1)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_settled_call_counts_what_the_provider_said() -> None:
    clock = Clock(100.0)
    ledger = Ledger(clock=clock)
    room = ledger.try_reserve("root", prompt_tokens=500, max_tokens=100, profile=PRICED)
    assert room is not None
    room.settle(Usage(prompt_tokens=400, completion_tokens=20, cost_usd=0.0006))
    clock.now = 102.5
    assert ledger.spent() == Spent(root_calls=1, prompt_tokens=400, completion_tokens=20, cost_usd=0.0006, seconds=2.5)


def test_cost_is_none_once_one_call_has_no_price() -> None:
    ledger = Ledger()
    for cost in (0.5, None):
        room = ledger.try_reserve("sub", prompt_tokens=1, max_tokens=1, profile=UNPRICED)
        assert room is not None
        room.settle(Usage(prompt_tokens=1, completion_tokens=1, cost_usd=cost))
    assert ledger.spent().cost_usd is None


def test_what_an_earlier_process_was_not_answered_counts_against_the_dollars_and_not_as_cost() -> None:
    already = Spent(root_calls=1, failed_calls=1, unanswered_prompt_tokens=400_000)
    ledger = Ledger(RunLimits(max_usd=1.0, max_tokens=1_000_000), already=already, unanswered_usd=0.4)
    assert (ledger.left().usd, ledger.left().tokens, ledger.spent().cost_usd) == (0.6, 600_000, None)
    room = ledger.try_reserve("root", prompt_tokens=10, max_tokens=10, profile=PRICED)
    assert room is not None
    room.settle(Usage(prompt_tokens=10, completion_tokens=1, cost_usd=0.1))
    assert (ledger.left().usd, ledger.spent().cost_usd) == (0.5, 0.1)


def test_a_dollar_limit_without_a_price_is_refused_at_the_start() -> None:
    ledger = Ledger(RunLimits(max_usd=1.0))
    with pytest.raises(
        PriceUnknown, match=r"max_usd=1 cannot be kept: no price is known for model 'tiny'; set RLM_MCP"
    ):
        ledger.require_prices([ScriptedModel([], name="tiny")])
    ledger.require_prices([ScriptedModel([], profile=PRICED)])


def test_a_reservation_waits_for_calls_in_flight_and_is_refused_when_alone() -> None:
    ledger = Ledger(RunLimits(max_tokens=1000))
    first = ledger.try_reserve("sub", prompt_tokens=500, max_tokens=400, profile=UNPRICED)
    assert first is not None
    assert ledger.try_reserve("sub", prompt_tokens=500, max_tokens=400, profile=UNPRICED) is None
    first.settle(Usage(prompt_tokens=450, completion_tokens=10))
    with pytest.raises(
        BudgetExceeded, match=r"a prompt of up to 500 tokens .* 540 tokens that are left of 1000"
    ) as error:
        ledger.try_reserve("sub", prompt_tokens=500, max_tokens=400, profile=UNPRICED)
    assert error.value.which == "tokens"


def test_a_reply_is_shortened_to_what_is_left() -> None:
    ledger = Ledger(RunLimits(max_tokens=1000))
    room = ledger.try_reserve("root", prompt_tokens=800, max_tokens=4096, profile=UNPRICED)
    assert room is not None
    assert room.max_tokens == 200


def test_dollars_shorten_the_reply_too() -> None:
    ledger = Ledger(RunLimits(max_usd=0.01))
    room = ledger.try_reserve("root", prompt_tokens=1000, max_tokens=4096, profile=PRICED)
    assert room is not None
    assert room.max_tokens == 900  # $0.009 at $10 a million


def test_sub_calls_in_flight_count_and_failed_ones_too() -> None:
    ledger = Ledger(RunLimits(max_sub_calls=2))
    first = ledger.try_reserve("sub", prompt_tokens=1, max_tokens=1, profile=UNPRICED)
    second = ledger.try_reserve("sub", prompt_tokens=1, max_tokens=1, profile=UNPRICED)
    assert first is not None
    assert second is not None
    first.settle(FAILED)
    with pytest.raises(BudgetExceeded, match="all 2 sub-calls are used"):
        ledger.try_reserve("sub", prompt_tokens=1, max_tokens=1, profile=UNPRICED)
    assert ledger.try_reserve("root", prompt_tokens=1, max_tokens=1, profile=UNPRICED) is not None


def test_unanswered_requests_count_against_the_limits_but_not_in_the_usage() -> None:
    ledger = Ledger(RunLimits(max_tokens=1000))
    room = ledger.try_reserve("sub", prompt_tokens=300, max_tokens=100, profile=UNPRICED)
    assert room is not None
    room.settle(Usage(failed_requests=2, unanswered_requests=1))
    assert (ledger.spent().prompt_tokens, ledger.spent().failed_calls, ledger.left().tokens) == (0, 2, 700)


def test_settling_twice_counts_once() -> None:
    ledger = Ledger()
    room = ledger.try_reserve("sub", prompt_tokens=1, max_tokens=1, profile=UNPRICED)
    assert room is not None
    room.settle(Usage(prompt_tokens=5))
    room.settle(FAILED)
    assert (ledger.spent().prompt_tokens, ledger.spent().sub_calls) == (5, 1)


def test_a_child_gets_a_share_and_its_calls_count_as_sub_calls_of_its_parents() -> None:
    parent = Ledger(RunLimits(max_tokens=10_000, max_sub_calls=10))
    child = parent.child(share=0.5)
    grandchild = child.child(share=0.5)
    assert (child.limits.max_tokens, grandchild.limits.max_tokens, child.limits.max_sub_calls) == (5000, 2500, 5)
    room = grandchild.try_reserve("root", prompt_tokens=100, max_tokens=100, profile=UNPRICED)
    assert room is not None
    assert parent.left().tokens == 9800
    room.settle(Usage(prompt_tokens=90, completion_tokens=10))
    assert (grandchild.spent().root_calls, grandchild.spent().sub_calls) == (1, 0)
    assert (parent.spent().root_calls, parent.spent().sub_calls, parent.spent().prompt_tokens) == (0, 1, 90)


def test_a_child_cannot_spend_what_its_parent_no_longer_has() -> None:
    parent = Ledger(RunLimits(max_tokens=1000))
    child = parent.child(share=0.9)
    room = parent.try_reserve("root", prompt_tokens=500, max_tokens=100, profile=UNPRICED)
    assert room is not None
    room.settle(Usage(prompt_tokens=900, completion_tokens=50))
    assert child.left().tokens == 50
    with pytest.raises(BudgetExceeded):
        child.try_reserve("root", prompt_tokens=60, max_tokens=100, profile=UNPRICED)


def test_iterations_are_counted_up_to_the_limit() -> None:
    ledger = Ledger(RunLimits(max_iterations=2))
    assert [ledger.count_iteration(), ledger.count_iteration()] == [1, 2]
    assert ledger.left().iterations == 0
    with pytest.raises(BudgetExceeded, match="all 2 iterations are used"):
        ledger.count_iteration()


def test_seconds_end_a_run_and_those_of_an_earlier_process_count() -> None:
    clock = Clock()
    ledger = Ledger(RunLimits(max_seconds=60), clock=clock, already=Spent(seconds=50, sub_calls=3, prompt_tokens=7))
    assert ledger.exceeded() is None
    assert ledger.left().seconds == 10
    clock.now = 10
    error = ledger.exceeded()
    assert error is not None
    assert (error.which, ledger.spent().sub_calls, ledger.spent().cost_usd) == ("seconds", 3, None)


@pytest.mark.anyio
async def test_calls_wait_for_concurrency_in_order_of_arrival() -> None:
    ledger = Ledger(RunLimits(concurrency=2))
    peak = Peak()
    model = ScriptedModel(lambda asked: asked.last)

    async def call(number: int) -> None:
        room = await ledger.reserve("sub", prompt_tokens=1, max_tokens=1, profile=model.profile)
        with peak:
            peak.order.append(number)
            await anyio.lowlevel.checkpoint()
        room.settle(Usage())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(call, number)
    assert (peak.most, peak.order) == (2, list(range(50)))


@pytest.mark.anyio
async def test_a_cancelled_waiter_leaves_the_queue_and_a_cancelled_call_gives_its_room_back() -> None:
    ledger = Ledger(RunLimits(concurrency=1))
    model = ScriptedModel(lambda asked: "never", seconds=3600)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(lambda: paid_call(ledger, model, [Message(role="user", content="hi")], kind="sub"))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        room = await ledger.reserve("sub", prompt_tokens=1, max_tokens=1, profile=UNPRICED)
        room.settle(Usage())
    assert (ledger.spent().sub_calls, ledger.spent().failed_calls) == (2, 1)


@pytest.mark.anyio
async def test_a_held_ledger_lets_calls_in_flight_settle_and_begins_none_not_even_of_a_child() -> None:
    ledger = Ledger()
    in_flight = ledger.try_reserve("sub", prompt_tokens=1, max_tokens=1, profile=UNPRICED)
    assert in_flight is not None
    ledger.hold()
    begun: list[str] = []

    async def call(name: str, of: Ledger) -> None:
        (await of.reserve("root", prompt_tokens=1, max_tokens=1, profile=UNPRICED)).settle(Usage())
        begun.append(name)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(call, "run", ledger)
            group.start_soon(call, "child", ledger.child(share=0.5))
            await anyio.wait_all_tasks_blocked()
            in_flight.settle(Usage(prompt_tokens=1))
            await anyio.wait_all_tasks_blocked()
            assert (begun, ledger.spent().sub_calls) == ([], 1)
            ledger.release()
    assert begun == ["run", "child"]


@pytest.mark.anyio
async def test_a_call_that_is_cancelled_before_it_is_sent_is_not_counted() -> None:
    class Held(ScriptedModel):
        async def complete(self, *_: object, **__: object) -> Completion:
            await anyio.sleep_forever()  # as in the queue of a limiter
            raise AssertionError

    ledger = Ledger(RunLimits(max_sub_calls=3))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: paid_call(ledger, Held([]), [Message(role="user", content="hi")], kind="sub"))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert (ledger.spent().sub_calls, ledger.left().sub_calls) == (0, 3)


@pytest.mark.anyio
async def test_paid_call_asks_for_no_more_than_is_left() -> None:
    ledger = Ledger(RunLimits(max_tokens=300))
    model = ScriptedModel(["ok"])
    await paid_call(ledger, model, [Message(role="user", content="x" * 200)], kind="root")
    assert model.calls[0].max_tokens == 300 - 101 - 8


@pytest.mark.anyio
async def test_a_prompt_over_the_window_is_refused_before_anything_is_reserved() -> None:
    ledger = Ledger()
    model = ScriptedModel(["ok"], profile=Profile(window_tokens=1000))
    with pytest.raises(PromptOverWindow) as error:
        await paid_call(ledger, model, [Message(role="user", content="x" * 40_000)], kind="sub")
    assert str(error.value) == (
        "the prompt of 40,000 characters, about 10,008 tokens, is over the window of model 'scripted', 1,000 tokens:"
        " send at most about 3,000 characters at once"
    )
    assert (model.calls, ledger.spent().sub_calls) == ([], 0)


@pytest.mark.anyio
async def test_a_failed_call_is_counted_and_raised() -> None:
    ledger = Ledger()
    model = ScriptedModel([ProviderFailed("down", failed_requests=4, unanswered_requests=1)])
    with pytest.raises(ProviderFailed):
        await paid_call(ledger, model, [Message(role="user", content="hi")], kind="sub")
    assert (ledger.spent().sub_calls, ledger.spent().failed_calls) == (1, 4)


@dataclass
class Peak:
    now: int = 0
    most: int = 0
    order: list[int] = field(default_factory=list)

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


@pytest.mark.anyio
async def test_a_call_does_not_outlast_the_run() -> None:
    ledger = Ledger(RunLimits(max_seconds=0.05))
    model = ScriptedModel(["late"], seconds=3600)
    with (
        anyio.fail_after(60),
        pytest.raises(BudgetExceeded, match="time was over before model 'scripted' had") as error,
    ):
        await paid_call(ledger, model, [Message(role="user", content="hi")], kind="sub")
    assert (error.value.which, ledger.spent().failed_calls) == ("seconds", 1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "release", "child"]),
        st.integers(min_value=0, max_value=5),
        st.integers(min_value=1, max_value=400),
        st.integers(min_value=1, max_value=400),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_order_of_calls_in_a_tree_of_runs_passes_a_limit(steps: list[tuple[str, int, int, int]]) -> None:
    limits = RunLimits(max_tokens=3000, max_usd=0.01, max_sub_calls=12, concurrency=4)
    tree = [Ledger(limits, clock=Clock())]
    flying: list[Reservation] = []
    for step, index, prompt, completion in steps:
        ledger = tree[index % len(tree)]
        if step == "child":
            tree.append(ledger.child(share=0.5))
        elif step == "reserve":
            try:
                room = ledger.try_reserve("root", prompt_tokens=prompt, max_tokens=completion, profile=PRICED)
            except BudgetExceeded:
                continue
            flying += [room] if room is not None else []
        elif flying:
            room = flying.pop(index % len(flying))
            if step == "release":
                room.settle(Usage(failed_requests=1, unanswered_requests=index % 2))
            else:
                used = Usage(
                    prompt_tokens=room.prompt_tokens,
                    completion_tokens=min(completion, room.max_tokens),
                    cost_usd=PRICED.cost_usd(room.prompt_tokens, min(completion, room.max_tokens)),
                )
                room.settle(used)
        for one in tree:
            spent = one.spent()
            assert spent.prompt_tokens + spent.completion_tokens <= (one.limits.max_tokens or 0)
            assert (spent.cost_usd or 0.0) <= (one.limits.max_usd or 0.0) + 1e-12
            assert spent.sub_calls <= 12
        assert len(flying) <= 4
    for room in flying:
        room.settle(FAILED)
    reserved = tree[0].accounts[0]
    assert (reserved.in_flight, reserved.reserved_tokens, reserved.reserved_usd) == (0, 0, 0.0)

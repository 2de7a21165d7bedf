"""How items are distributed to copies of a guest. The copies here are fakes."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Self, cast

import pytest

from wasm_runtime.channel import AHEAD_CALLS_OF_ALL, CallLog, ItemSource
from wasm_runtime.parallel import ITEMS_AT_MOST, OUTCOME_BYTES, ParallelCopies
from wasm_runtime.pending_calls import CANCELLED, CallAnswer

Work = Callable[["Copy", dict[str, Any]], dict[str, object]]


class Copy:
    """A fake of a forked session: it calls `work` for each item until there are no more, or until it is stopped."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.stopped_by: str | None = None
        self.seconds_left = 0.0
        self.call_log: CallLog = []
        self.interrupted = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def interrupt(self) -> None:
        self.interrupted.set()

    def take_output(self) -> str:
        return "printed"

    def work_on_items(self, items: ItemSource, seconds: float) -> str | None:
        self.seconds_left = seconds
        while (order := items.next_item()) is not None:
            outcome = self._work(self, order)
            if self.stopped_by is not None:
                return self.stopped_by
            items.finish_item(cast("int", order["index"]), outcome)
        return None


def run(
    work: Work, *, count: int, workers: int = 3, ahead: bool = False, seconds: float = 10.0
) -> tuple[object, list[Copy]]:
    """Return the answer and the copies that were made."""
    copies: list[Copy] = []

    def copy() -> Copy:
        copies.append(Copy(work))
        return copies[-1]

    parallel = ParallelCopies(copy, count=count, ahead=ahead, seconds=seconds)
    never: Future[None] = Future()
    with ThreadPoolExecutor(8) as threads:
        return parallel.work_on_all(threads, workers, never), copies


def test_every_item_is_worked_on_once_and_outcomes_come_in_order() -> None:
    answer, copies = run(lambda _, order: {"value": str(order["index"])}, count=10)
    assert answer == {"ok": [{"value": str(n), "stdout": "printed"} for n in range(10)]}
    assert len(copies) <= 3


def test_each_item_has_fresh_entropy_unless_it_runs_ahead() -> None:
    seen: list[str | None] = []

    def work(_: Copy, order: dict[str, Any]) -> dict[str, object]:
        seen.append(order["entropy"])
        return {}

    run(work, count=5)
    assert len(set(seen)) == 5
    seen.clear()
    answer, _ = run(work, count=2, ahead=True)
    assert (seen, answer) == ([None, None], {"ok": []})


@pytest.mark.parametrize("count", [0, -1, ITEMS_AT_MOST + 1, 10**12])
def test_too_many_items_or_none_are_refused(count: int) -> None:
    answer, copies = run(lambda *_: {}, count=count)
    assert answer == {"refused": f"{count} items cannot be worked on in parallel: give from 1 to {ITEMS_AT_MOST}"}
    assert copies == []


def test_a_copy_that_is_lost_to_an_item_is_replaced() -> None:
    class Lost(Copy):
        def work_on_items(self, items: ItemSource, seconds: float) -> str | None:
            self.seconds_left = seconds
            while (order := items.next_item()) is not None:
                if order["index"] == 1:
                    return "trap"
                items.finish_item(cast("int", order["index"]), {"value": "v"})
            return None

    parallel = ParallelCopies(lambda: Lost(lambda *_: {}), count=4, ahead=False, seconds=10)
    with ThreadPoolExecutor(1) as threads:
        answer = parallel.work_on_all(threads, 1, Future())
    done = {"value": "v", "stdout": "printed"}
    assert answer == {"ok": [done, {"error": "the work on this item was stopped: trap"}, done, done]}


def test_a_worker_whose_time_is_over_starts_no_other_item() -> None:
    def work(copy: Copy, _: dict[str, Any]) -> dict[str, object]:
        copy.stopped_by = "deadline"
        return {}

    answer, copies = run(work, count=1000, workers=3)
    assert len(copies) == 3
    stopped = {"error": "the work on this item was stopped: deadline"}
    assert answer == {"ok": [stopped] * 3 + [{"error": "this item was not worked on"}] * 997}


def test_values_longer_than_fits_are_left_out() -> None:
    large = "x" * (OUTCOME_BYTES // 2)
    answer, _ = run(lambda *_: {"value": large}, count=3, workers=1)
    assert isinstance(answer, dict)
    told = [list(outcome) for outcome in answer["ok"]]
    assert told == [["value", "stdout"], ["error"], ["error"]]


class NoThreads(Executor):
    """An executor that is busy with the work of others for ever."""

    def submit(self, fn: Callable[..., object], /, *args: object, **kwargs: object) -> Future[object]:  # type: ignore[override] # the executor protocol has only this much here
        return Future()


def test_answers_of_more_calls_than_are_kept_for_all_tasks_are_left_to_the_guest() -> None:
    half = AHEAD_CALLS_OF_ALL // 2 + 1

    def work(copy: Copy, order: dict[str, Any]) -> dict[str, object]:
        copy.call_log = [(f"call {number} of {order['index']}", CallAnswer("said")) for number in range(half)]
        copy.call_log.append(("cancelled", CallAnswer(CANCELLED)))
        copy.call_log.append(("not answered", CallAnswer()))
        return {}

    parallel = ParallelCopies(lambda: Copy(work), count=3, ahead=True, seconds=10)
    with ThreadPoolExecutor(1) as threads:
        assert parallel.work_on_all(threads, 1, Future()) == {"ok": []}
    assert list(parallel.logs) == [0]
    assert parallel.logs[0] == [(f"call {number} of 0", "said") for number in range(half)]
    assert parallel.held_bytes > half * len("call 0 of 0said")


def test_tasks_that_find_no_thread_to_run_ahead_are_left_to_the_guest() -> None:
    def copy() -> Copy:
        raise AssertionError("a copy was made")

    parallel = ParallelCopies(copy, count=3, ahead=True, seconds=10)
    assert parallel.work_on_all(NoThreads(), 3, Future()) == {"ok": []}


def test_time_spent_on_making_copies_is_time_of_the_work() -> None:
    made = 0

    def copy() -> Copy:
        nonlocal made
        made += 1
        threading.Event().wait(0.02)
        return Copy(lambda *_: {})

    parallel = ParallelCopies(copy, count=100, ahead=False, seconds=0.01)
    with ThreadPoolExecutor(1) as threads:
        answer = parallel.work_on_all(threads, 1, Future())
    assert (made, answer) == (1, {"ok": [{"error": "this item was not worked on"}] * 100})
    assert parallel.longest_seconds == 0.01


def test_outcomes_are_reserved_in_the_memory_of_the_session_and_only_their_texts_are_kept() -> None:
    class Memory:
        def __init__(self) -> None:
            self.left = 100_000

        def reserve(self, n: int) -> bool:
            if n > self.left:
                return False
            self.left -= n
            return True

        def release(self, n: int) -> None:
            self.left += n

    outcomes: list[dict[str, object]] = [{"value": "x" * 60_000}, {"value": ["y" * 60_000]}, {"value": "z" * 200_000}]
    memory = Memory()
    parallel = ParallelCopies(
        lambda: Copy(lambda _, order: outcomes[order["index"]]), count=3, ahead=False, seconds=10, memory=memory
    )
    with ThreadPoolExecutor(1) as threads:
        answer = parallel.work_on_all(threads, 1, Future())
    told = cast("list[dict[str, object]]", answer["ok"])
    fields = [list(outcome) for outcome in told]
    assert fields == [["value", "stdout"], ["stdout"], ["error"]]
    assert parallel.held_bytes == 100_000 - memory.left


def test_an_interrupt_stops_the_copies_and_says_so() -> None:
    interrupted: Future[None] = Future()
    made: list[Copy] = []

    def work(copy: Copy, _: dict[str, Any]) -> dict[str, object]:
        if not interrupted.done():
            interrupted.set_result(None)
        assert copy.interrupted.wait(10)
        copy.stopped_by = "interrupt"
        return {}

    def copy() -> Copy:
        made.append(Copy(work))
        return made[-1]

    parallel = ParallelCopies(copy, count=50, ahead=False, seconds=10)
    with ThreadPoolExecutor(4) as threads:
        assert parallel.work_on_all(threads, 2, interrupted) == {"interrupted": True}
    assert len(made) <= 2


def test_a_failure_to_make_copies_is_reported() -> None:
    def copy() -> Copy:
        raise MemoryError("no room")

    parallel = ParallelCopies(copy, count=2, ahead=False, seconds=10)
    with ThreadPoolExecutor(2) as threads:
        assert parallel.work_on_all(threads, 2, Future()) == {"refused": "the copies could not be made: no room"}

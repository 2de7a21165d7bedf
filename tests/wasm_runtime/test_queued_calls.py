"""Calls that wait for their turn: their order, how many are made at once, and what cancelling leaves behind."""

from wasm_runtime.queued_calls import QueuedCalls


def take_all(queue: QueuedCalls) -> list[tuple[int, str]]:
    taken = []
    while (call := queue.take()) is not None:
        taken.append(call)
    return taken


def test_calls_are_taken_in_their_order_and_those_that_are_forgotten_leave_at_once() -> None:
    queue = QueuedCalls(at_once=1)
    assert queue.add({ticket: f"call {ticket}" for ticket in range(100)}) == 1
    queue.forget([*range(1, 98), 4_711])
    assert queue.waiting_count == 3
    assert take_all(queue) == [(0, "call 0"), (98, "call 98"), (99, "call 99")]
    assert queue.add({100: "another"}) == 1
    assert take_all(queue) == [(100, "another")]


def test_no_more_turns_begin_than_there_are_calls_or_than_are_free() -> None:
    queue = QueuedCalls(at_once=3)
    assert [queue.add({1: "a"}), queue.add({2: "b", 3: "c", 4: "d"}), queue.add({5: "e"})] == [1, 2, 0]
    assert len(take_all(queue)) == 5
    assert [queue.add({6: "f", 7: "g"}), queue.add({8: "h"})] == [1, 0]


def test_a_call_begins_at_once_only_if_a_turn_is_free_and_none_waits() -> None:
    queue = QueuedCalls(at_once=1)
    assert [queue.begins_now(), queue.begins_now()] == [True, False]
    assert queue.add({1: "waits"}) == 0
    assert queue.take() == (1, "waits")
    assert queue.take() is None
    assert queue.begins_now()

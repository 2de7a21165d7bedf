"""Shares of owners in the memory of a Runtime."""

from concurrent.futures import ThreadPoolExecutor

from wasm_runtime.budget import MemoryBudget, SessionMemory


def filled(budget: MemoryBudget, owner: str | None, step: int = 1) -> int:
    """Reserve for an owner until it is refused; -> how much that was."""
    taken = 0
    while budget.reserve(step, owner):
        taken += step
    return taken


def test_sessions_without_an_owner_may_take_everything() -> None:
    assert filled(MemoryBudget(1000), None) == 1000


def test_a_named_owner_leaves_as_much_free_as_he_holds_and_so_does_the_next() -> None:
    budget = MemoryBudget(1000)
    assert [filled(budget, owner) for owner in ("ann", "bob", "cyd")] == [500, 250, 125]
    assert (budget.available(), budget.available("dan"), budget.available("ann")) == (125, 62, 0)


def test_memory_that_an_owner_returns_is_there_for_others() -> None:
    budget = MemoryBudget(1000)
    budget.release(filled(budget, "ann"), "ann")
    assert (budget.available(), budget.available("bob")) == (1000, 500)
    assert repr(budget) == "<MemoryBudget 0 MiB of 0 MiB>"


def test_a_session_reserves_and_returns_on_any_thread_in_the_share_of_its_owner() -> None:
    budget = MemoryBudget(1 << 20)
    memory = SessionMemory(1 << 20, 0, budget, "ann")
    assert memory.available() == 1 << 19

    def use(_: int) -> None:
        for _ in range(200):
            assert memory.reserve(10)
            memory.release(10)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    assert memory.reserve(1 << 19)
    assert not memory.reserve(1)
    memory.close()
    assert budget.available() == 1 << 20

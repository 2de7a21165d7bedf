"""Which REPLs of `inspect_context` stay open."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.repl.sandbox import open_sandbox
from rlm_mcp.repl.scripted import ScriptedRepl
from rlm_mcp.repl.types import CellResult, GuestCalls
from rlm_mcp.workspace.inspect_repls import InspectRepls, NoCalls, ReplPool

pytestmark = pytest.mark.anyio


class Opener:
    """Opens REPLs whose cells wait for `go`; `closed` has the contexts of those that were closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.began = anyio.Event()
        self.go = anyio.Event()

    def __call__(
        self, contexts: Sequence[Context], calls: GuestCalls, *, value: object = None
    ) -> AbstractAsyncContextManager[ScriptedRepl]:
        return self._open(contexts[0].context_id, calls)

    @asynccontextmanager
    async def _open(self, context_id: str, calls: GuestCalls) -> AsyncIterator[ScriptedRepl]:
        async def play(code: str, _: GuestCalls) -> CellResult:
            if code == "wait":
                self.began.set()
                await self.go.wait()
            return CellResult(code=code)

        yield ScriptedRepl(play, calls)
        self.closed.append(context_id)


@pytest.fixture
def opener() -> Opener:
    return Opener()


def context(name: str) -> Context:
    return Context(
        context_id=name, name=name, kind="text", bytes=1, chars=1, lines=1, files=1, created_at="", source="text"
    )


async def run(repls: InspectRepls, name: str, code: str = "1") -> None:
    await repls.run_code(context(name), code, seconds=1)


async def test_the_repl_that_was_used_longest_ago_makes_room(opener: Opener) -> None:
    repls = InspectRepls(opener, ReplPool(most_of_one=2))
    for name in ("a", "b", "a", "c"):
        await run(repls, name)
    assert opener.closed == ["b"]


async def test_repls_of_all_owners_together_are_bounded(opener: Opener) -> None:
    pool = ReplPool(most=2)
    ann, bob = InspectRepls(opener, pool), InspectRepls(opener, pool)
    await run(ann, "of ann")
    await run(bob, "of bob")
    await run(bob, "another of bob")
    assert (opener.closed, repr(ann), repr(bob)) == (["of ann"], "0 REPLs", "2 REPLs")
    await bob.close_all()
    assert repr(pool) == "<ReplPool 0 REPLs>"


async def test_a_repl_that_runs_a_cell_stays(opener: Opener) -> None:
    repls = InspectRepls(opener, ReplPool(most_of_one=1))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, repls, "busy", "wait")
            await opener.began.wait()
            await run(repls, "next")
            assert opener.closed == []
            opener.go.set()
    await run(repls, "last")
    assert opener.closed == ["busy", "next"]


class Memory:
    """Has places for so many REPLs; they hold theirs until they are closed."""

    def __init__(self, opener: Opener, places: int) -> None:
        self._opener = opener
        self._places = places

    def has_room(self) -> bool:
        return self._places > 0

    @asynccontextmanager
    async def __call__(
        self, contexts: Sequence[Context], calls: GuestCalls, *, value: object = None
    ) -> AsyncIterator[ScriptedRepl]:
        self._places -= 1
        async with self._opener(contexts, calls, value=value) as repl:
            yield repl
        self._places += 1


async def test_where_memory_is_short_idle_repls_are_closed_the_one_used_longest_ago_first(opener: Opener) -> None:
    memory = Memory(opener, places=3)
    pool = ReplPool(has_room=memory.has_room)
    open_repl = pool.evicting_opener(memory)
    ann, bob = InspectRepls(open_repl, pool), InspectRepls(open_repl, pool)
    await run(ann, "a")
    await run(bob, "b")
    await run(ann, "a")
    await run(ann, "c")
    assert opener.closed == ["b"]
    async with open_repl((context("of a run"),), NoCalls()), open_repl((context("of another"),), NoCalls()):
        assert opener.closed == ["b", "a"]


async def test_where_the_share_of_an_owner_is_used_up_only_his_idle_repls_are_closed(opener: Opener) -> None:
    anns, bobs = Memory(opener, places=2), Memory(opener, places=2)
    shares = {"ann": anns, "bob": bobs}
    pool = ReplPool(owner_has_room=lambda owner: shares[owner].has_room())
    ann = InspectRepls(pool.evicting_opener(anns, "ann"), pool, "ann")
    bob = InspectRepls(pool.evicting_opener(bobs, "bob"), pool, "bob")
    await run(bob, "b")
    for context_id in ("a", "c", "d"):
        await run(ann, context_id)
    assert (opener.closed, repr(bob)) == (["a", "c"], "1 REPLs")


async def test_where_memory_is_short_a_repl_that_runs_a_cell_stays(opener: Opener) -> None:
    memory = Memory(opener, places=1)
    pool = ReplPool(has_room=memory.has_room)
    repls = InspectRepls(pool.evicting_opener(memory), pool)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, repls, "busy", "wait")
            await opener.began.wait()
            await run(repls, "next")
            assert opener.closed == []
            opener.go.set()


async def test_what_idle_repls_hold_is_given_to_the_cell_that_runs(sandbox_cache: Path, tmp_path: Path) -> None:
    """A real sandbox, whose memory one REPL has used up."""
    hold = "held = []\nwhile True:\n    held.append(bytearray(1 << 20))"
    with Store(tmp_path / "data") as store:
        first = await run_in_thread(store.register_text, "first")
        second = await run_in_thread(store.register_text, "second")
        async with open_sandbox(sandbox_cache, memory_bytes=64 << 20) as sandbox:
            pool = ReplPool(has_room=sandbox.has_room)
            repls = InspectRepls(pool.evicting_opener(partial(sandbox.open_repl, store)), pool)
            assert (await repls.run_code(second, "context", seconds=20)).value == "'second'"
            full = await repls.run_code(first, hold, seconds=20)
            large = await repls.run_code(second, "len(bytearray(40 << 20))", seconds=20)
            left = repr(repls)
            await repls.close_all()
    assert full.error is not None
    assert (full.error.type, large.value, left) == ("MemoryError", str(40 << 20), "1 REPLs")

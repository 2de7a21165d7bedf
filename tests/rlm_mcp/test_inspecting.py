"""Which REPLs of `inspect_context` stay open."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from rlm_mcp.cells import CellResult, GuestCalls
from rlm_mcp.contexts.context import Context
from rlm_mcp.inspecting import InspectRepls, Shelf
from rlm_mcp.scripted_repl import ScriptedRepl

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
    await repls.run(context(name), code, seconds=1)


async def test_the_repl_that_was_used_longest_ago_makes_room(opener: Opener) -> None:
    repls = InspectRepls(opener, Shelf(most_of_one=2))
    for name in ("a", "b", "a", "c"):
        await run(repls, name)
    assert opener.closed == ["b"]


async def test_repls_of_all_owners_together_are_bounded(opener: Opener) -> None:
    shelf = Shelf(most=2)
    ann, bob = InspectRepls(opener, shelf), InspectRepls(opener, shelf)
    await run(ann, "of ann")
    await run(bob, "of bob")
    await run(bob, "another of bob")
    assert (opener.closed, repr(ann), repr(bob)) == (["of ann"], "0 REPLs", "2 REPLs")
    await bob.close_all()
    assert repr(shelf) == "<Shelf 0 REPLs>"


async def test_a_repl_that_runs_a_cell_stays(opener: Opener) -> None:
    repls = InspectRepls(opener, Shelf(most_of_one=1))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, repls, "busy", "wait")
            await opener.began.wait()
            await run(repls, "next")
            assert opener.closed == []
            opener.go.set()
    await run(repls, "last")
    assert opener.closed == ["busy", "next"]

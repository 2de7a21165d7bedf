"""The REPLs of `inspect_context`: one per context, kept open between calls, within bounds of number and memory."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.types import OpenRepl
from rlm_mcp.errors import RlmError
from rlm_mcp.repl.types import CellResult, GuestCalls, Repl
from rlm_mcp.workspace.kept_repl import KeptRepl
from rlm_mcp.workspace.repl_states import ReplStates, StateNotKept

INSPECT_REPLS, ALL_REPLS = 8, 32
"""REPLs kept open for one owner, and in a process that serves many owners; one holds 1 to 500 MB."""


NO_CALLS = "inspect_context has no sub-model: print the passages and judge them, or use rlm_solve."


class NoCallsHere(RlmError):
    """Code in an inspect REPL called a model."""


class NoCalls:
    """GuestCalls of a REPL without models: refuses every call with what to do instead."""

    async def llm_query(self, *_: object, **__: object) -> object:
        """Refuses."""
        raise NoCallsHere(NO_CALLS)

    rlm_query = call_function = llm_query
    functions: Sequence[str] = ()

    async def classify(self, *_: object, **__: object) -> dict[str, object]:
        """Refuses."""
        raise NoCallsHere(NO_CALLS)

    def expect(self, *_: object) -> None:
        """Asks nothing."""

    def budget(self) -> dict[str, object]:
        """There is nothing to spend."""
        return {}


@dataclass(slots=True, kw_only=True)
class _PooledRepl:
    """An open REPL, with the lock that its cells queue for."""

    repl: Repl
    exit: AsyncExitStack
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    kept: KeptRepl | None = None
    """saves its variables, where they are kept"""


class ReplPool:
    """An LRU pool of the open REPLs of a process, by owner and context.

    A REPL in which a cell runs or waits is never evicted.
    """

    def __init__(
        self,
        *,
        most: int = ALL_REPLS,
        most_of_one: int = INSPECT_REPLS,
        has_room: Callable[[], bool] = lambda: True,
        owner_has_room: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`has_room` says whether there is memory for another REPL, `owner_has_room` whether a named owner has some."""
        self._has_room = has_room
        self._owner_has_room = owner_has_room
        self._most = most
        self._most_of_one = most_of_one
        self._opened: OrderedDict[tuple[InspectRepls, str], _PooledRepl] = OrderedDict()

    def __repr__(self) -> str:
        return f"<ReplPool {len(self._opened)} REPLs>"

    def contexts_of(self, owner: "InspectRepls") -> list[str]:
        """The contexts for which an owner has a REPL."""
        return [context_id for whose, context_id in self._opened if whose is owner]

    def get(self, owner: "InspectRepls", context_id: str) -> _PooledRepl | None:
        """An open REPL, which counts as used now."""
        opened = self._opened.get((owner, context_id))
        if opened is not None:
            self._opened.move_to_end((owner, context_id))
        return opened

    async def add(self, owner: "InspectRepls", context_id: str, opened: _PooledRepl) -> None:
        """Adds a REPL, and evicts those that exceed the bounds then."""
        self._opened[owner, context_id] = opened
        for (whose, which), other in list(self._opened.items()):
            one_has_too_many = whose is owner and len(self.contexts_of(owner)) > self._most_of_one
            is_idle = not other.lock.locked() and other is not opened
            if is_idle and (one_has_too_many or len(self._opened) > self._most):
                await self.close(whose, which)

    def evicting_opener(self, open_repl: OpenRepl, owner: str | None = None) -> OpenRepl:
        """An opener that first evicts idle REPLs where memory is short. REPLs of runs are opened by it, too."""

        @asynccontextmanager
        async def opening(
            contexts: Sequence[Context], calls: GuestCalls, *, value: object = None
        ) -> AsyncIterator[Repl]:
            await self.evict_for_room(owner)
            async with open_repl(contexts, calls, value=value) as repl:
                yield repl

        return opening

    async def evict_for_room(self, owner: str | None = None) -> None:
        """Closes idle REPLs, the least recently used first, until there is memory or none is left."""
        while not self._has_room() and await self._evict(lambda _: True):
            pass
        while owner and not self._owner_has_room(owner) and await self._evict(lambda whose: whose.owner == owner):
            pass

    async def _evict(self, may_evict: "Callable[[InspectRepls], bool]") -> bool:
        """Closes one idle REPL; False if there is none."""
        for (whose, which), opened in self._opened.items():
            if may_evict(whose) and not opened.lock.locked():
                await self.close(whose, which)
                return True
        return False

    async def close(self, owner: "InspectRepls", context_id: str) -> None:
        """Closes the REPL of a context. A running cell is interrupted, and told so."""
        if (opened := self._opened.pop((owner, context_id), None)) is not None:
            await opened.exit.aclose()


class InspectRepls:
    """The REPLs of one owner's contexts, each opened on first use.

    With `tasks`, in which they are saved, their variables are kept in `states` and come back when a REPL is opened.
    """

    def __init__(
        self,
        open_repl: OpenRepl,
        pool: ReplPool | None = None,
        owner: str | None = None,
        *,
        states: ReplStates | None = None,
        tasks: TaskGroup | None = None,
    ) -> None:
        """`states` without `tasks` are those that are dropped when a context is removed."""
        self.owner = owner
        self._open_repl = open_repl
        self._pool = pool or ReplPool()
        self._states = states
        self._tasks = tasks
        self._opening: dict[str, anyio.Event] = {}
        self._closing: dict[str, anyio.Event] = {}

    def __repr__(self) -> str:
        return f"{len(self._pool.contexts_of(self))} REPLs"

    async def run_code(
        self, context: Context, code: str, *, seconds: float, reset: bool = False, calls: GuestCalls | None = None
    ) -> CellResult:
        """Runs a cell in this context's REPL, which is opened on first use. Cells of one context queue up.

        The `calls` of the cell that opens the REPL decide what code may ask of models; by default, nothing.
        """
        if reset:
            await self.forget(context.context_id)
        while True:
            opened = await self._get(context, calls)
            async with opened.lock:
                await self._pool.evict_for_room(self.owner)
                if opened.kept is None:
                    return await opened.repl.run(code, seconds=seconds)
                if await opened.kept.begin_cell():
                    return await self._run_kept(opened.repl, opened.kept, code, seconds)
            await self._close(context.context_id, opened)  # unless it was for another cell

    async def _run_kept(self, repl: Repl, kept: KeptRepl, code: str, seconds: float) -> CellResult:
        try:
            return kept.told(await repl.run(code, seconds=seconds))
        finally:
            kept.end_cell()

    async def complete(self, context: Context, text: str, *, calls: GuestCalls | None = None) -> tuple[str, ...]:
        """Completions of the name at the end of `text`."""
        opened = await self._get(context, calls)
        async with opened.lock:
            return await opened.repl.complete(text)

    async def forget(self, context_id: str) -> None:
        """Closes the REPL of a context and forgets its variables. A running cell is interrupted, and told so."""
        if self._states is not None:
            with suppress(StateNotKept):  # where nothing can be deleted, nothing was saved either
                await run_in_thread(self._states.drop, context_id)
        opened = self._pool.get(self, context_id)
        if opened is not None and opened.kept is not None:
            opened.kept.abandon()
        await self._pool.close(self, context_id)

    async def forget_all_but(self, exists: Callable[[str], Awaitable[bool]]) -> None:
        """Forgets the kept variables of contexts that do not exist any more."""
        if self._states is None:
            return
        with suppress(StateNotKept):
            for context_id in await run_in_thread(self._states.context_ids):
                if not await exists(context_id):
                    await self.forget(context_id)

    async def close_all(self) -> None:
        """Closes every REPL; the variables are kept where they are saved."""
        for context_id in self._pool.contexts_of(self):
            await self._pool.close(self, context_id)

    async def _get(self, context: Context, calls: GuestCalls | None) -> _PooledRepl:
        return self._pool.get(self, context.context_id) or await self._open(context, calls or NoCalls())

    async def _open(self, context: Context, calls: GuestCalls) -> _PooledRepl:
        context_id = context.context_id
        # One that is being closed may be saving the variables that this one begins with.
        while (changing := self._closing.get(context_id) or self._opening.get(context_id)) is not None:
            await changing.wait()
            if (others := self._pool.get(self, context_id)) is not None:
                return others
        opening = self._opening[context_id] = anyio.Event()
        try:
            opened = await self._opened(context_id, self._open_repl((context,), calls))
            if opened.kept is None:
                await self._pool.add(self, context_id, opened)
                return opened
            opened.lock.acquire_nowait()  # no cell runs before the variables are there
            try:
                await self._pool.add(self, context_id, opened)
                await opened.kept.restore()
            except BaseException:  # cancellation too: nobody knows in which state the REPL is
                opened.kept.abandon()
                with anyio.CancelScope(shield=True):
                    await self._pool.close(self, context_id)
                raise
            finally:
                opened.lock.release()
            return opened
        finally:
            del self._opening[context_id]
            opening.set()

    async def _opened(self, context_id: str, opening: AbstractAsyncContextManager[Repl]) -> _PooledRepl:
        exit_stack = AsyncExitStack()
        opened = _PooledRepl(repl=await exit_stack.enter_async_context(opening), exit=exit_stack)
        if self._states is not None and self._tasks is not None:
            states, tasks = self._states, self._tasks
            close = partial(self._close, context_id, opened)
            opened.kept = KeptRepl(
                opened.repl, opened.lock, context_id=context_id, states=states, tasks=tasks, close=close
            )
            exit_stack.enter_context(states.listening(context_id, opened.kept.hear))
            exit_stack.push_async_callback(self._save_before_closing, context_id, opened.kept)
        return opened

    async def _close(self, context_id: str, opened: _PooledRepl) -> None:
        """Closes this REPL, if it is still open."""
        if self._pool.get(self, context_id) is opened:
            await self._pool.close(self, context_id)

    async def _save_before_closing(self, context_id: str, kept: KeptRepl) -> None:
        closed = self._closing[context_id] = anyio.Event()
        try:
            with anyio.CancelScope(shield=True):
                await kept.close()
        finally:
            del self._closing[context_id]
            closed.set()

"""The REPLs of `inspect_context`: one a context, kept open between calls, as many as memory should be spent on."""

from collections import OrderedDict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import anyio

from rlm_mcp.cells import CellResult, GuestCalls, Repl
from rlm_mcp.contexts.context import Context
from rlm_mcp.engine import OpenRepl
from rlm_mcp.errors import RlmError

INSPECT_REPLS = 8
"""REPLs of `inspect_context` kept open; the one that was used longest ago makes room."""


class NoCallsHere(RlmError):
    """Code in an inspect REPL asked for a model."""


class NoCalls:
    """What code in an inspect REPL may ask of a model: nothing, and here is what to do instead."""

    async def llm_query(self, *_: object, **__: object) -> object:
        """Refuses."""
        raise NoCallsHere("inspect_context has no sub-model: print the passages and judge them, or use rlm_solve.")

    rlm_query = llm_query

    def budget(self) -> dict[str, object]:
        """Nothing to spend."""
        return {}


@dataclass(slots=True, kw_only=True)
class _Opened:
    """A REPL, and the order in which cells enter it."""

    repl: Repl
    exit: AsyncExitStack
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class InspectRepls:
    """Opens a context's REPL when it is first used; the one that was used longest ago makes room."""

    def __init__(self, open_repl: OpenRepl) -> None:
        self._open_repl = open_repl
        self._opened: OrderedDict[str, _Opened] = OrderedDict()

    def __repr__(self) -> str:
        return f"{len(self._opened)} REPLs"

    async def run(self, context: Context, code: str, *, seconds: float, calls: GuestCalls | None = None) -> CellResult:
        """Runs a cell. Cells of one context queue up. `calls` counts when the REPL is opened."""
        opened = await self._get(context, calls)
        async with opened.lock:
            return await opened.repl.run(code, seconds=seconds)

    async def complete(self, context: Context, text: str, *, calls: GuestCalls | None = None) -> tuple[str, ...]:
        """What a name that was begun can become."""
        opened = await self._get(context, calls)
        async with opened.lock:
            return await opened.repl.complete(text)

    async def close(self, context_id: str) -> None:
        """Forgets the variables of a context. A cell that still runs is interrupted, and told so."""
        if (opened := self._opened.pop(context_id, None)) is not None:
            await opened.exit.aclose()

    async def close_all(self) -> None:
        """Closes every REPL."""
        for context_id in list(self._opened):
            await self.close(context_id)

    async def _get(self, context: Context, calls: GuestCalls | None) -> _Opened:
        opened = self._opened.get(context.context_id) or await self._open(context, calls or NoCalls())
        self._opened.move_to_end(context.context_id)
        return opened

    async def _open(self, context: Context, calls: GuestCalls) -> _Opened:
        exit_stack = AsyncExitStack()
        repl = await exit_stack.enter_async_context(self._open_repl((context,), calls))
        if (raced := self._opened.get(context.context_id)) is not None:
            await exit_stack.aclose()
            return raced
        self._opened[context.context_id] = opened = _Opened(repl=repl, exit=exit_stack)
        for idle in [key for key, other in self._opened.items() if not other.lock.locked() and other is not opened]:
            if len(self._opened) <= INSPECT_REPLS:
                break
            await self.close(idle)
        return opened

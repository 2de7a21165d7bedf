"""A REPL that answers from a list or a function, for tests without a sandbox.

It ships with the package, as the scripted model does, so that tests of the loop need not patch anything.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from rlm_mcp.repl.types import CellResult, GuestCalls, PackCheckpoint, Variable

Play = Callable[[str, GuestCalls], Awaitable[CellResult]]
"""Computes the result of a block of code, whose calls the second argument answers."""


class ScriptedRepl:
    """Answers each block with the next result, or with what `results` returns if it is a function.

    `ran` holds the code of all blocks, `restored` all checkpoints that were restored. A checkpoint is the number of
    blocks that have run.
    """

    def __init__(self, results: Sequence[CellResult] | Play, calls: GuestCalls) -> None:
        self.image = "scripted"
        self.ran: list[str] = []
        self.restored: list[bytes] = []
        self._results = results
        self._calls = calls
        self._last: CellResult | None = None

    def __repr__(self) -> str:
        return f"<ScriptedRepl, {len(self.ran)} blocks run>"

    async def run(self, code: str, *, seconds: float | None = None) -> CellResult:  # noqa: ARG002 - the Repl protocol
        """The next scripted result, with `code` in it. Raises IndexError when the script is too short."""
        index = len(self.ran)
        self.ran.append(code)
        if callable(self._results):
            result = await self._results(code, self._calls)
        else:
            result = self._results[index]
        self._last = replace(result, code=code, stdout_chars=result.stdout_chars or len(result.stdout))
        return self._last

    async def variables(self) -> tuple[Variable, ...]:
        """The variables of the last result."""
        return self._last.variables if self._last else ()

    async def complete(self, text: str) -> tuple[str, ...]:
        """The variables of the last result that begin with `text`."""
        return tuple(variable.name for variable in await self.variables() if variable.name.startswith(text))

    async def checkpoint(self) -> PackCheckpoint:
        """The number of blocks that have run."""
        return str(len(self.ran)).encode

    async def restore(self, data: bytes) -> bool:
        """Keeps the checkpoint in `restored`, unless it is of another image."""
        if not data.isdigit():
            return False
        self.restored.append(data)
        return True


class ScriptedOpener:
    """Opens ScriptedRepls and keeps them in `opened`; `values` holds the contexts of child runs."""

    def __init__(self, *scripts: Sequence[CellResult] | Play) -> None:
        self.opened: list[ScriptedRepl] = []
        self.values: list[object] = []
        self._scripts = scripts

    def __call__(
        self,
        contexts: Sequence[object],  # noqa: ARG002 - the OpenRepl protocol
        calls: GuestCalls,
        *,
        value: object = None,
    ) -> AbstractAsyncContextManager[ScriptedRepl]:
        """A REPL with the next script; the last script is used for all further REPLs."""
        return self._open(calls, value)

    @asynccontextmanager
    async def _open(self, calls: GuestCalls, value: object) -> AsyncIterator[ScriptedRepl]:
        repl = ScriptedRepl(self._scripts[min(len(self.opened), len(self._scripts) - 1)], calls)
        self.opened.append(repl)
        self.values.append(value)
        yield repl

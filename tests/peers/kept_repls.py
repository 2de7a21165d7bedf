"""Processes whose clients run cells in REPLs that are kept, in this process and with a scripted sandbox."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.contexts.types import Context
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult, GuestCalls
from rlm_mcp.workspace.inspect_repls import InspectRepls, ReplPool
from rlm_mcp.workspace.repl_states import ReplStates, TakenState

RESTORED = "The variables of the earlier cells were restored."


class Process:
    """A process that keeps its REPLs in `states`; a cell `wait` waits for `go`."""

    def __init__(self, states: ReplStates, tasks: TaskGroup, *, most: int = 8) -> None:
        self.opener = ScriptedOpener(self._play)
        self.repls = InspectRepls(self.opener, ReplPool(most_of_one=most), states=states, tasks=tasks)
        self.began, self.go = anyio.Event(), anyio.Event()

    async def _play(self, code: str, _: GuestCalls) -> CellResult:
        if code == "wait":
            self.began.set()
            await self.go.wait()
        return CellResult(code=code)

    async def run(self, name: str = "a", code: str = "1", *, reset: bool = False) -> tuple[str, ...]:
        """Runs a cell; what its client is told."""
        return (await self.repls.run_code(context(name), code, seconds=1, reset=reset)).notes

    @property
    def restored(self) -> list[list[bytes]]:
        """What each REPL was restored from; a checkpoint is the number of cells that have run in it."""
        return [repl.restored for repl in self.opener.opened]


@asynccontextmanager
async def process(states: ReplStates, *, most: int = 8) -> AsyncIterator[Process]:
    """A process that closes its REPLs when it ends."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            opened = Process(states, tasks, most=most)
            yield opened
            await opened.repls.close_all()


def context(name: str) -> Context:
    return Context(
        context_id=name, name=name, kind="text", bytes=1, chars=1, lines=1, files=1, created_at="", source="text"
    )


def taken(states: ReplStates, context_id: str, image: str) -> TakenState:
    """Takes a REPL, also if its holder has to let it go first."""
    for _ in range(600):
        if (state := states.take(context_id, image)) is not None:
            return state
        time.sleep(0.05)
    raise TimeoutError(f"{states} did not give the REPL of {context_id} within 30 s")

"""The threads on which the blocking calls of sandbox sessions run."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import anyio

from rlm_mcp.repl.call_queue import CallSoon

THREADS = 4_096
"""More than there is memory for sessions: a cell that waits for sub-calls or child runs holds its thread, and those may
wait for cells of their own. How many cells compute at once is limited by the sandbox."""

_T = TypeVar("_T")


def _compute_behind_others() -> None:
    from wasm_runtime.priority import compute_behind_others  # imports the sandbox, which a server does after its start

    compute_behind_others()


class SandboxThreads:
    """A pool of threads. Its `shutdown` waits for the calls that run."""

    def __init__(self, call_soon: CallSoon) -> None:
        self._call_soon = call_soon
        self._owners: dict[str, SandboxThreads] = {}
        self._pool = ThreadPoolExecutor(THREADS, "sandbox", _compute_behind_others)

    def __repr__(self) -> str:
        return f"<SandboxThreads {THREADS} at most>"

    def of(self, owner: str | None) -> "SandboxThreads":
        """The threads of one owner's sessions: as many again, so that nobody waits for another's cells."""
        if owner is None:
            return self
        return self._owners.setdefault(owner, SandboxThreads(self._call_soon))

    def shutdown(self) -> None:
        """Waits for the calls that run, and ends the threads."""
        for threads in self._owners.values():
            threads.shutdown()
        self._pool.shutdown()

    def submit(self, function: Callable[..., _T], *args: Any) -> tuple[Future[_T], anyio.Event]:
        """Starts a blocking call; gives its future, and an event of the event loop that is set when it is done."""
        done = anyio.Event()
        future = self._pool.submit(function, *args)
        future.add_done_callback(lambda _: self._call_soon(done.set))
        return future, done

    async def run(self, function: Callable[..., _T], *args: Any) -> _T:
        """Makes a blocking call and waits for its end, which cancellation does not interrupt."""
        future, done = self.submit(function, *args)
        with anyio.CancelScope(shield=True):
            await done.wait()
        return future.result()

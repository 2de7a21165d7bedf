"""A thread of each process that deletes, once an hour, what nothing in the cluster needs any more."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rlm_mcp.errors import StorageUnreachable

SWEEP_SECONDS = 3600.0

log = logging.getLogger(__name__)


class Sweeper:
    """Calls `sweeps` one after the other. One that cannot reach the storage is tried again an hour later."""

    def __init__(self, *sweeps: Callable[[], object]) -> None:
        self._sweeps = sweeps
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep_sweeping, name="sweeper", daemon=True)

    def __repr__(self) -> str:
        return f"<Sweeper of {len(self._sweeps)} sweeps>"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()

    def _keep_sweeping(self) -> None:
        while not self._ending.wait(SWEEP_SECONDS):
            for sweep in self._sweeps:
                try:
                    sweep()
                except StorageUnreachable as error:
                    log.debug("what nothing needs any more is deleted later: %s", error)

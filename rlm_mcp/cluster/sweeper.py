"""A thread of each process that deletes, once an hour, what nothing in the cluster needs any more."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

from rlm_mcp.concurrency import background_thread
from rlm_mcp.errors import StorageUnreachable

SWEEP_SECONDS = 3600.0

log = logging.getLogger(__name__)


def sweeping(*sweeps: Callable[[], object]) -> AbstractContextManager[None]:
    """Calls `sweeps` one after the other during a block. One that cannot reach the storage is tried an hour later."""
    return background_thread("sweeper", partial(_keep_sweeping, sweeps))


def _keep_sweeping(sweeps: Sequence[Callable[[], object]], ending: threading.Event) -> None:
    while not ending.wait(SWEEP_SECONDS):
        for sweep in sweeps:
            try:
                sweep()
            except StorageUnreachable as error:
                log.debug("what nothing needs any more is deleted later: %s", error)

"""Telling the log once that the storage of a cluster cannot be used, and not at each trial."""

import logging

from rlm_mcp.errors import StorageUnreachable


class Outage:
    """Whether the storage is away. Used from any thread; at worst, two of them tell the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._is_known = False

    def note(self, error: StorageUnreachable) -> None:
        """Tells the log the reason, unless it was told since the storage was last used."""
        if not self._is_known:
            self._log.warning("%s", error.reason)
        self._is_known = True

    def end(self) -> None:
        """The storage was used."""
        self._is_known = False

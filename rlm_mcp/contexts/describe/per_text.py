"""What was found out about texts, cached for those that were used last."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

from rlm_mcp.contexts.types import FileEntry

_T = TypeVar("_T")


class PerText(Generic[_T]):
    """A cache of what `find` gives for a text. Any thread may use it; two may look for the same at once."""

    def __init__(self, find: Callable[[FileEntry], _T], *, most: int) -> None:
        self._find = find
        self._most = most
        self._found: OrderedDict[FileEntry, _T] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<PerText {len(self._found)} of {self._most}>"

    def __call__(self, entry: FileEntry) -> _T:
        """Raises SourceChanged or StoreDamaged for a text that cannot be read any more."""
        entry.read(0, 0)
        key = replace(entry, locate=_nowhere, read=_nothing)  # an entry keeps its file where it is
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        found = self._find(entry)
        with self._lock:
            self._found[key] = found
            while len(self._found) > self._most:
                self._found.popitem(last=False)
        return found


def _nowhere() -> Path:
    raise LookupError


def _nothing(start: int, end: int) -> bytes:  # noqa: ARG001 - the signature of `read`
    raise LookupError

"""Watching a source: when its files change, it is registered again as the next version of its name.

Runs that use the older version keep it, because they refer to it by id.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from rlm_mcp.contexts.sources.address import is_address
from rlm_mcp.contexts.sources.directory import NOT_WORTH_READING
from rlm_mcp.contexts.sources.pattern import fixed_part
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.text.globs import is_glob
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import ContextError, RlmError, SourceRefused, StorageUnreachable

SETTLE_MS = 400
"""Changes within this time of each other are handled together: a build writes many files at once."""


def watch(
    store: Store,
    ref: str,
    *,
    stop: threading.Event,
    on_version: Callable[[Context], None],
    on_error: Callable[[RlmError], None],
) -> None:
    """Registers a context's source again whenever it changes, until `stop` is set. Blocks: give it a thread.

    `on_version` is called with every new version. `on_error` is called with the error if one cannot be registered, and
    the watch goes on.
    Raises UnknownContext, SourceRefused.
    """
    context = store.get(ref)
    for _ in _changes(_watched(context), stop):
        try:
            latest = store.refresh(context.name)
        except (ContextError, StorageUnreachable) as error:
            on_error(error)
            continue
        if latest.context_id != context.context_id:
            context = latest
            on_version(latest)


def _watched(context: Context) -> Path:
    """The directory to watch; for a file it is the parent, because editors replace files."""
    if is_address(context.source):
        raise SourceRefused(
            f"{context.source} is on another machine and cannot be watched: "
            f"`rlm-mcp contexts refresh {context.name}` fetches it again"
        )
    source = Path(context.source)
    if source.is_file():
        return source.parent
    if source.is_dir():
        return source
    if is_glob(context.source) and fixed_part(context.source).is_dir():
        return fixed_part(context.source)
    raise SourceRefused(f"{context.name} comes from {context.source}, which cannot change or is gone: nothing to watch")


def _changes(path: Path, stop: threading.Event) -> Iterator[None]:
    try:
        from watchfiles import watch as changes
    except ImportError as error:
        raise SourceRefused(
            "watching needs watchfiles, which is not installed: `pip install 'rlm-mcp[watch]'`"
        ) from error

    def matters(_: object, changed: str) -> bool:
        """Ignores what registering ignores: a commit or a compiled file changes nothing."""
        below = Path(changed).relative_to(path) if Path(changed).is_relative_to(path) else Path(changed)
        return not NOT_WORTH_READING.keys() & set(below.parts)

    for batch in changes(path, watch_filter=matters, stop_event=stop, debounce=SETTLE_MS, raise_interrupt=False):
        if batch:
            yield

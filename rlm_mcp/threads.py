"""Blocking calls off the event loop."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread

_T = TypeVar("_T")


async def in_thread(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """A blocking call on a worker thread. It is not interrupted; whoever waits for it may be."""
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)

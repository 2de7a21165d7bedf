"""One thing that is done while another goes on."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio


@asynccontextmanager
async def beside(work: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> AsyncIterator[None]:
    """Does `work` for as long as the block takes, then cancels it. What the block raises comes out as it is."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, *args)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised below, where the group does not wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure

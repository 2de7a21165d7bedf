"""Changes are delivered soon, and equal ones once."""

import anyio
import pytest

from rlm_mcp.workspace.change_feed import ChangeFeed, ResourceChange

pytestmark = pytest.mark.anyio


async def test_what_came_while_listeners_were_busy_is_told_once_each() -> None:
    changes, told = ChangeFeed(), list[ResourceChange]()
    registered, ended = ResourceChange(), ResourceChange(uri="rlm://runs/run-1")

    async def listen(change: ResourceChange) -> None:
        told.append(change)
        if len(told) == 1:
            for later in (registered, ended, registered, registered):
                changes.add(later)
            changes.close()

    changes.listen(listen)
    changes.add(registered)
    with anyio.fail_after(60):
        await changes.deliver()
    assert told == [registered, registered, ended]


async def test_a_change_after_the_end_is_dropped() -> None:
    changes = ChangeFeed()
    changes.close()
    changes.add(ResourceChange())
    with anyio.fail_after(60):
        await changes.deliver()

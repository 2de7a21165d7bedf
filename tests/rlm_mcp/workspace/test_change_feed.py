"""What every Bulletin has to do: changes are delivered soon, and equal ones once. A new one is added to BULLETINS."""

from collections.abc import Callable

import anyio
import pytest

from rlm_mcp.workspace.change_feed import Bulletin, ChangeFeed, ResourceChange
from tests.peers.cluster import open_changes

pytestmark = pytest.mark.anyio

OpenBulletin = Callable[[], Bulletin]
"""Opens the bulletin of one owner as another process would."""


def one_process(_: pytest.FixtureRequest) -> OpenBulletin:
    return ChangeFeed


BULLETINS: dict[str, Callable[[pytest.FixtureRequest], OpenBulletin]] = {
    "one process": one_process,
    "postgres": open_changes,
}


@pytest.fixture(params=["one process", pytest.param("postgres", marks=pytest.mark.cluster)])
def reopen(request: pytest.FixtureRequest) -> OpenBulletin:
    return BULLETINS[request.param](request)


async def test_what_came_while_listeners_were_busy_is_told_once_each(reopen: OpenBulletin) -> None:
    changes, told = reopen(), list[ResourceChange]()
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


async def test_a_change_after_the_end_is_dropped(reopen: OpenBulletin) -> None:
    changes = reopen()
    changes.close()
    changes.add(ResourceChange())
    with anyio.fail_after(60):
        await changes.deliver()

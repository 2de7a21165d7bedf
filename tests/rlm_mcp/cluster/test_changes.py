"""Changes that one process of a cluster announces are told to the listeners of the others."""

from collections import defaultdict

import anyio
import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.workspace.change_feed import Bulletin, ResourceChange
from tests.peers.cluster import open_changes

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]


class Listener:
    """Notes the resources of which a process is told."""

    def __init__(self, changes: Bulletin) -> None:
        self.changes = changes
        self.told: list[str | None] = []
        self._events: defaultdict[str | None, anyio.Event] = defaultdict(anyio.Event)
        changes.listen(self._note)

    async def _note(self, change: ResourceChange) -> None:
        self.told.append(change.uri)
        self._events[change.uri].set()

    async def hear(self, uri: str) -> None:
        """Returns once it was told of this resource."""
        await self._events[uri].wait()


async def test_a_change_is_told_to_other_processes_of_its_owner_and_once_to_its_own(
    request: pytest.FixtureRequest,
) -> None:
    reopen = open_changes(request)
    first, second, stranger = Listener(reopen()), Listener(reopen()), Listener(open_changes(request)())
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for one in (first, second, stranger):
                tasks.start_soon(one.changes.deliver)
            for one, other in ((first, second), (second, first)):
                uri, is_heard = f"at {id(other)}", False
                while not is_heard:  # until the connection listens
                    one.changes.add(ResourceChange(uri=uri))
                    with anyio.move_on_after(0.3):
                        await other.hear(uri)
                        is_heard = True
            first.changes.add(ResourceChange(uri="question"))
            await second.hear("question")
            second.changes.add(ResourceChange(uri="answer"))
            await first.hear("answer")
            for one in (first, second, stranger):
                one.changes.close()
    assert [uri for uri in first.told if uri in {"question", "answer"}] == ["question", "answer"]
    assert [uri for uri in second.told if uri in {"question", "answer"}] == ["question", "answer"]
    assert {*stranger.told} <= {None}

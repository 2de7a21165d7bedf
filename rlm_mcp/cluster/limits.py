"""The number of runs of a tenant, counted over all machines of a cluster; requests are counted in each process.

A run counts while a process plays it, or it waits for one, as its row says (leases.py). Before there is a row, a
reservation counts, which is made under a lock of the tenant. One whose process dies counts for RESERVED_SECONDS. For a
moment a run has both, so nobody is refused because of reservations before these have been seen for DOUBLE_SECONDS.
"""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress

import anyio

from rlm_mcp.cluster.database import Cursor, Database, DatabaseUnusable, execute
from rlm_mcp.cluster.leases import SWEEPING_SECONDS
from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.workspace.tenant_limits import Holding, LocalLimits, runs_are_going_on

RESERVED_SECONDS = 30.0
DOUBLE_SECONDS = 2.0
_AGAIN_SECONDS = 0.05

_LOCK = 0x726C6F
"""The first half of the keys of tenants' locks, as in catalogue.py."""

_GOING_ON = """
SELECT (SELECT count(*) FROM rlm_runs WHERE owner = %(owner)s AND NOT ended AND (attempt IS NOT NULL
        OR held_until > clock_timestamp() - CASE WHEN portable THEN %(sweeping)s ELSE 0 END * interval '1 second')),
    (SELECT count(*) FROM rlm_admitted WHERE owner = %(owner)s AND token <> %(token)s AND until > clock_timestamp())
"""


class RowLimits:
    """The limits of all tenants, of which `here` are those of this process."""

    def __init__(self, here: LocalLimits, database: Database) -> None:
        self._here = here
        self._database = database

    def __repr__(self) -> str:
        return f"<RowLimits in {self._database!r}, {self._here!r}>"

    def charge(self, tenant: str) -> None:
        """Takes one request from the tenant's bucket in this process."""
        self._here.charge(tenant)

    def hold(self, tenant: str, what: Holding) -> AbstractContextManager[None]:
        """Counts one more in this process during a block."""
        return self._here.hold(tenant, what)

    @asynccontextmanager
    async def admit_run(self, tenant: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Counts one more run during a block, or until the function that it gives is called: its row counts then.

        Raises LimitReached, DatabaseUnusable.
        """
        token = secrets.token_hex(8)
        if self._here.most_runs is not None:
            await run_in_thread(self._reserve, tenant, token, self._here.most_runs)

        async def release() -> None:
            if self._here.most_runs is not None:
                query = "DELETE FROM rlm_admitted WHERE token = %s OR until < clock_timestamp()"
                with anyio.CancelScope(shield=True), suppress(DatabaseUnusable):  # it ends by itself
                    await run_in_thread(self._database.rows, query, (token,), patience=0)

        try:
            yield release
        finally:
            await release()

    async def runs_left(self, tenant: str) -> int | None:
        """How many more runs the tenant may begin now."""
        most = self._here.most_runs
        if most is None:
            return None
        ((runs, reserved),) = await run_in_thread(self._database.rows, _GOING_ON, _key(tenant, ""))
        return max(0, most - int(runs) - int(reserved))

    def _reserve(self, tenant: str, token: str, most: int) -> None:
        def reserve(cursor: Cursor) -> bool:
            execute(cursor, "SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, tenant))
            ((runs, reserved),) = execute(cursor, _GOING_ON, _key(tenant, token)).fetchall()
            if runs >= most:
                raise runs_are_going_on(most)
            if runs + reserved >= most:
                return False
            execute(
                cursor,
                "INSERT INTO rlm_admitted VALUES (%s, %s, clock_timestamp() + %s * interval '1 second')"
                " ON CONFLICT DO NOTHING",
                (token, tenant, RESERVED_SECONDS),
            )
            return True

        gives_up = time.monotonic() + DOUBLE_SECONDS
        while not self._database.run(reserve):
            if time.monotonic() > gives_up:
                raise runs_are_going_on(most)
            time.sleep(_AGAIN_SECONDS)


def _key(tenant: str, token: str) -> dict[str, object]:
    return {"owner": tenant, "token": token, "sweeping": SWEEPING_SECONDS}

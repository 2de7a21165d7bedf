"""Connections to the Postgres of a cluster: transactions that are tried again, its errors as sentences, and its clock.

Theory of operation. A server that restarts, or a connection that breaks, is no reason to fail: `run` begins a
transaction anew until `patience` is over. So the work that it is given has to be idempotent, also where a commit
succeeded whose confirmation was lost. All methods block; they are called on worker threads.

Neither side waits for the other one for long. A process that is cut off from the database would otherwise hang in
connections that nothing answers. And the database would keep the locks of a process that is cut off or stands still:
it ends transactions that stand, and connections whose process has vanished.

Machines do not agree on the time. `now` is the time of the database, extrapolated by the monotonic clock of this
machine, so that a clock that is wrong or is set anew changes nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeAlias, TypeVar

import psycopg
from psycopg import errors, sql
from psycopg_pool import ConnectionPool, PoolTimeout

from rlm_mcp.cluster.addresses import DatabaseAddress
from rlm_mcp.cluster.outage import Outage
from rlm_mcp.errors import StorageUnreachable

T = TypeVar("T")
Cursor: TypeAlias = "psycopg.Cursor[tuple[Any, ...]]"
Parameters = Sequence[Any] | Mapping[str, Any]

PATIENCE_SECONDS = 60.0
"""How long work waits for a database that is restarted, or that another one replaces."""

OPENING_SECONDS = 10.0
"""How long a starting process waits for it: its operator looks on."""

RETRY_SECONDS = 0.1

_POOL_SECONDS, _CONNECTING_SECONDS = 1.0, 0.2
"""How long the pool waits for a free connection, and tries to make one that failed: both briefly, because `run` tries
again, and the pool would wait longer and longer between two trials."""

MOST_CONNECTIONS = 10
"""Connections of one process; a server of Postgres accepts 100 by default."""

_CONNECTION: dict[str, Any] = {
    "connect_timeout": 5,
    "application_name": "rlm-mcp",
    "client_encoding": "UTF8",
    # A machine that vanished answers nothing: its connections are given up after some seconds, not after two hours.
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 6_000,
}

STANDING_SECONDS = 2
"""The database ends a transaction that waits this long for its process: sooner than a lease expires, so that its locks
keep nobody from taking over what it had."""

_SESSION = {
    "idle_in_transaction_session_timeout": STANDING_SECONDS * 1_000,
    "tcp_keepalives_idle": 3,
    "tcp_keepalives_interval": 1,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 6_000,
}


_UNUSABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.InsufficientPrivilege,
    errors.IdleInTransactionSessionTimeout,
)

log = logging.getLogger(__name__)


class DatabaseUnusable(StorageUnreachable):
    """The database of a cluster cannot be reached, or refuses what it is asked."""


def connection_options(address: DatabaseAddress) -> dict[str, Any]:
    """What a connection of a cluster has beside the URL, on this side and on that of the database."""
    ours = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    return _CONNECTION | {"options": f"{ours} {address.options}"}


class Database:
    """The connections of one process to one database. Any thread may use them."""

    def __init__(self, address: DatabaseAddress, *, most_connections: int = MOST_CONNECTIONS) -> None:
        self.address = address
        self._pool: ConnectionPool[psycopg.Connection[tuple[Any, ...]]] = ConnectionPool(
            address.url.reveal(),
            kwargs=connection_options(address),
            min_size=0,
            max_size=most_connections,
            timeout=_POOL_SECONDS,
            reconnect_timeout=_CONNECTING_SECONDS,
            check=ConnectionPool.check_connection,
            open=False,
            name="rlm-mcp",
        )
        self._clock = threading.Lock()
        self._ahead: timedelta | None = None
        self._outage = Outage(log)

    def __repr__(self) -> str:
        return f"<Database {self.address.shown}>"

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Connects once, so that a wrong address or password is known now, and reads the clock."""
        try:
            # Not by the pool, which would go on trying and then not tell why it could not connect.
            psycopg.connect(self.address.url.reveal(), **connection_options(self.address)).close()
        except psycopg.Error as error:
            raise self._unusable(error) from None
        self._pool.open()
        self.now()

    def close(self) -> None:
        """Closes the connections. Idempotent."""
        self._pool.close()

    def run(self, work: Callable[[Cursor], T], *, patience: float = PATIENCE_SECONDS) -> T:
        """Calls `work`, which has to be idempotent, in a transaction of its own, which is committed when it returns.

        Raises DatabaseUnusable when the database has been away for `patience` seconds.
        """
        gives_up = time.monotonic() + patience
        while True:
            try:
                with self.transaction() as cursor:
                    return work(cursor)
            except DatabaseUnusable as error:
                if not _is_passing(error.__cause__) or time.monotonic() >= gives_up:
                    raise
            time.sleep(RETRY_SECONDS)

    def rows(
        self, query: str | sql.Composed, parameters: Parameters = (), *, patience: float = PATIENCE_SECONDS
    ) -> list[tuple[Any, ...]]:
        """The rows that one statement gives, if it gives any; tried again like `run`."""

        def read(cursor: Cursor) -> list[tuple[Any, ...]]:
            execute(cursor, query, parameters)
            return cursor.fetchall() if cursor.description is not None else []

        return self.run(read, patience=patience)

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """A transaction that is committed at the end, once; for what is not idempotent. Raises DatabaseUnusable."""
        try:
            with self._pool.connection() as connection, connection.cursor() as cursor:
                yield cursor
        except _UNUSABLE as error:
            unusable = self._unusable(error)
            self._outage.note(unusable)
            raise unusable from error
        self._outage.end()

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of its own in autocommit mode, to listen on. Raises DatabaseUnusable."""
        try:
            return psycopg.connect(self.address.url.reveal(), **connection_options(self.address), autocommit=True)
        except psycopg.Error as error:
            raise self._unusable(error) from error

    def now(self) -> datetime:
        """The time of the database."""
        with self._clock:
            if self._ahead is None:
                before = time.monotonic()
                ((told,),) = self.rows("SELECT clock_timestamp()")
                middle = (before + time.monotonic()) / 2
                self._ahead = told.astimezone(UTC) - datetime.fromtimestamp(middle, UTC)
            return datetime.fromtimestamp(time.monotonic(), UTC) + self._ahead

    def _unusable(self, error: psycopg.Error) -> DatabaseUnusable:
        reason = self.address.scrub(_reason(error))
        return DatabaseUnusable(
            "the database of the server cannot be used now: try again later; its operator finds the reason in the log",
            reason=f"the database at {self.address.shown} cannot be used ({reason}): check that Postgres runs there,"
            " and the address, user and password in RLM_MCP_STORE",
        )


def execute(cursor: Cursor, query: str | sql.Composed, parameters: Parameters = ()) -> Cursor:
    """Executes a statement that consists of constants of this program; values are parameters."""
    text = query.encode() if isinstance(query, str) else query
    return cursor.execute(text, parameters or None)


def _is_passing(error: BaseException | None) -> bool:
    """Whether the database may do later what it did not do now."""
    lasting = (errors.InsufficientPrivilege, errors.InvalidPassword, errors.InvalidCatalogName)
    return isinstance(error, psycopg.Error) and not isinstance(error, lasting)


def _reason(error: psycopg.Error) -> str:
    """The first line of a text of the driver, which names the address once more."""
    if isinstance(error, PoolTimeout):
        return "it has no free connection, or does not answer"
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return first.rpartition("failed: ")[2].removeprefix("FATAL:").strip() or type(error).__name__

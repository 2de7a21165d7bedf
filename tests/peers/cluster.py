"""The parts of a cluster, started on this machine: a Postgres server, and an object store that speaks S3."""

import atexit
import functools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rlm_mcp.cluster.changes import SharedChanges
    from rlm_mcp.cluster.limits import RowLimits
    from rlm_mcp.cluster.queue import RowRunQueue
    from rlm_mcp.cluster.repls import RowReplStates
    from rlm_mcp.cluster.runs import RowRuns
    from rlm_mcp.contexts.store.protocols import StoreParts
    from rlm_mcp.workspace.tenant_limits import LocalLimits

USER, PASSWORD = "rlm", "pass-Word-17"
LOOPBACK = "127.0.0.1"
BUCKET = "texts"


def server_directory() -> Path | None:
    """Where Debian's package has `initdb` and `postgres`, which are not on the path."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


@dataclass(slots=True)
class PostgresServer:
    """A server with its data in a temporary directory, which is gone when it is closed."""

    programs: Path
    directory: Path
    port: int
    address: str = LOOPBACK
    is_durable: bool = False
    process: "subprocess.Popen[bytes] | None" = None
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Of the database that exists in every server."""
        return f"postgresql://{USER}:{PASSWORD}@{self.address}:{self.port}/postgres"

    def start(self) -> None:
        """Starts it, and returns when it answers."""
        # What is committed outlives the server, though not the machine.
        fast = [] if self.is_durable else ["-F", "-c", "full_page_writes=off"]
        options = ["-D", str(self.directory / "data"), "-h", self.address, "-p", str(self.port), *fast]
        log = (self.directory / "log").open("ab")
        with log:
            self.process = subprocess.Popen(  # noqa: S603 - a program of Debian's package
                [str(self.programs / "postgres"), *options, "-k", str(self.directory)],
                stdout=log, stderr=log, cwd=self.directory, **self.account,
            )  # fmt: skip
        is_ready = (str(self.programs / "pg_isready"), "-q", "-h", self.address, "-p", str(self.port))
        for _ in range(600):
            assert self.process.poll() is None, (self.directory / "log").read_text()
            if subprocess.run(is_ready, check=False, stdout=subprocess.DEVNULL).returncode == 0:  # noqa: S603 - likewise
                return
            time.sleep(0.02)
        raise TimeoutError("postgres did not start within 12 s")

    def stop(self) -> None:
        """Ends it at once, as a crash would; connections break."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: immediate shutdown
            self.process.wait(20)
            self.process = None


@contextmanager
def postgres_server(programs: Path, *, address: str = LOOPBACK, is_durable: bool = False) -> Iterator[PostgresServer]:
    """Starts a server of its own; as the user `postgres` if the tests run as root, which it refuses."""
    directory = _new_directory(in_memory=not is_durable)
    server = PostgresServer(
        programs, directory, _free_port(address), address=address, is_durable=is_durable, account=_account()
    )
    try:
        subprocess.run(["cp", "-a", _new_data(programs), directory / "data"], check=True, **_account())  # noqa: S603, S607 - what was made below
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _account() -> dict[str, Any]:
    is_root = sys.platform != "win32" and os.getuid() == 0
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if is_root else {}


def _new_directory(*, in_memory: bool) -> Path:
    """A directory of the account; in memory if the temporary files of tests are, see tests/conftest.py."""
    directory = tempfile.mkdtemp(prefix="rlm-pg-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT") if in_memory else None)
    if _account():
        shutil.chown(directory, "postgres", "postgres")
    return Path(directory)


@functools.cache
def _new_data(programs: Path) -> Path:
    """The data of a new server, which is copied for each: `initdb` takes most of the time of a start."""
    directory = _new_directory(in_memory=True)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "password").write_text(PASSWORD)
    (directory / "password").chmod(0o644)
    options = ["-U", USER, "--pwfile", str(directory / "password"), "-A", "scram-sha-256", "-E", "UTF8"]
    subprocess.run(  # noqa: S603 - a program of Debian's package
        [str(programs / "initdb"), "-D", str(directory / "data"), *options, "--no-locale", "--no-sync"],
        check=True, capture_output=True, cwd=directory, **_account(),
    )  # fmt: skip
    with (directory / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all samenet scram-sha-256\n")
    return directory / "data"


class _ObjectServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints a traceback, except where a client has broken its connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def object_store(
    directory: Path, port: int = 0, is_away: Callable[[], bool] = lambda: False, *, address: str = LOOPBACK
) -> Iterator[str]:
    """Serves the folders in a directory as buckets; gives the endpoint. While it `is_away`, connections break."""
    import localbucket

    class Handler(localbucket.S3Handler):  # type: ignore[misc] # the package has no annotations
        data_root = directory.resolve()

        def parse_request(self) -> bool:
            """False where a request is not answered."""
            self.close_connection = True
            return not is_away() and bool(super().parse_request())

    (directory / BUCKET).mkdir(parents=True, exist_ok=True)
    # Head and body of an answer go out separately: without this, each waits 40 ms for the acknowledgement of the other.
    options = {"data_root": directory.resolve(), "disable_nagle_algorithm": True}
    handler = type("Handler", (localbucket.S3Handler,), options)
    with _ObjectServer((address, port), handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        serving.start()
        try:
            yield f"http://{address}:{server.server_address[1]}"
        finally:
            server.shutdown()
            serving.join()


def open_runs(request: pytest.FixtureRequest, directory: Path, *, is_beating: bool = True) -> "Callable[[], RowRuns]":
    """Opens the runs of one owner, whom no other test has, as another node would."""
    from rlm_mcp.cluster.leases import Heartbeats
    from rlm_mcp.cluster.runs import RowRuns

    database, objects = request.getfixturevalue("database"), request.getfixturevalue("objects")
    owner = secrets.token_hex(6)
    closing = ExitStack()
    request.addfinalizer(closing.close)

    def opened() -> RowRuns:
        heartbeats = closing.enter_context(Heartbeats(database, is_beating=is_beating))
        return RowRuns(database, objects, heartbeats, owner=owner, directory=directory / "runs")

    return opened


def open_queues(
    request: pytest.FixtureRequest, directory: Path, *, is_beating: bool = True
) -> "Callable[[], tuple[RowRuns, RowRunQueue]]":
    """Opens the runs and the queue of one owner, whom no other test has, as another node would."""
    from rlm_mcp.cluster.notices import Notices
    from rlm_mcp.cluster.queue import RowRunQueue

    reopen = open_runs(request, directory, is_beating=is_beating)
    closing = ExitStack()
    request.addfinalizer(closing.close)

    def opened() -> "tuple[RowRuns, RowRunQueue]":
        runs = reopen()
        return runs, RowRunQueue(runs, closing.enter_context(Notices(runs.database)))

    return opened


def open_store_parts(
    request: pytest.FixtureRequest, directory: Path, *, cache_bytes: int | None = None
) -> "Callable[[], StoreParts]":
    """Opens the contexts of one owner, whom no other test has, as another node would."""
    from rlm_mcp.cluster.blobs import ObjectBlobs
    from rlm_mcp.cluster.catalogue import RowCatalogue, RunUses
    from rlm_mcp.contexts.store.protocols import StoreParts
    from rlm_mcp.contexts.store.text_cache import TextCache

    reopen = open_runs(request, directory, is_beating=False)
    closing = ExitStack()
    request.addfinalizer(closing.close)

    def opened() -> "StoreParts":
        runs = reopen()
        catalogue = RowCatalogue(runs.database, runs.owner)
        cache = closing.enter_context(TextCache(directory / "texts", most_bytes=cache_bytes))
        blobs = ObjectBlobs(catalogue, runs.objects, cache)
        return StoreParts(catalogue=catalogue, blobs=blobs, uses=RunUses(runs))

    return opened


def open_changes(request: pytest.FixtureRequest) -> "Callable[[], SharedChanges]":
    """Opens the feed of changes of one owner, whom no other test has, as another node would."""
    from rlm_mcp.cluster.changes import SharedChanges
    from rlm_mcp.cluster.notices import Notices

    database, owner = request.getfixturevalue("database"), secrets.token_hex(6)
    closing = ExitStack()
    request.addfinalizer(closing.close)
    return lambda: SharedChanges(database, closing.enter_context(Notices(database)), owner)


def open_repl_states(request: pytest.FixtureRequest, *, lives: bool = False) -> "Callable[..., RowReplStates]":
    """Opens the states of one owner, whom no other test has, as another node would.

    One that `lives` renews its leases and hears notices. It takes `lives` too, and what RowReplStates takes.
    """
    from rlm_mcp.cluster.leases import Heartbeats
    from rlm_mcp.cluster.notices import Notices
    from rlm_mcp.cluster.repls import HeldRepls, RowReplStates

    database, objects = request.getfixturevalue("database"), request.getfixturevalue("objects")
    owner, lives_usually = secrets.token_hex(6), lives
    closing = ExitStack()
    request.addfinalizer(closing.close)

    def opened(*, lives: bool = lives_usually, held: HeldRepls | None = None, **options: Any) -> "RowReplStates":
        held = held or HeldRepls()
        heartbeats, notices = Heartbeats(database, renewals=[held.renew]), Notices(database)
        if lives:
            closing.enter_context(heartbeats)
            closing.enter_context(notices)
        options = {"objects": objects, "owner": owner} | options
        return RowReplStates(database, notices=notices, held=held, node=heartbeats.node, **options)

    return opened


def open_limits(request: pytest.FixtureRequest) -> "Callable[[LocalLimits], RowLimits]":
    """Opens the limits of all tenants as another node, with limits of its own, would."""
    from rlm_mcp.cluster.limits import RowLimits

    database = request.getfixturevalue("database")
    return lambda here: RowLimits(here, database)


def object_store_variables(endpoint: str) -> dict[str, str]:
    """The environment of a client of `object_store`, which accepts any key."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
    }


def access_to(endpoint: str) -> dict[str, str]:
    """The same as settings of the client."""
    return {"endpoint": endpoint, "region": "us-east-1", "access_key_id": "any", "secret_access_key": "any"}


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port

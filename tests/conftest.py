"""Fixtures shared by all tests."""

import contextlib
import gc
import importlib
import os
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rlm_mcp.cluster.database import Database
    from rlm_mcp.cluster.objects import Objects
    from tests.peers.cluster import PostgresServer

# Collecting tests makes a million objects and hardly any garbage; looking for it would take a sixth of that time, and
# later as much again whenever all objects are visited.
gc.disable()

# Rewriting the asserts of all tests takes as long as the rest of collecting them, in every worker. Bytecode is kept in
# containers too, which often set PYTHONDONTWRITEBYTECODE, and by the processes that tests start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

WORKER = "PYTEST_XDIST_WORKER"
"""The variable with the name of a worker of pytest-xdist."""

# Tests write hundreds of megabytes in small files, most of them synced: where the system has a file system in memory,
# that costs less processor time and no waiting.
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_configure(config: pytest.Config) -> None:
    import hypothesis  # here, so that its bytecode is kept: pytest rewrites its asserts, too, in two seconds

    # The deadline of an example would be an assertion about the clock, which a machine under load fails.
    hypothesis.settings.register_profile("no-deadline", deadline=None)
    hypothesis.settings.load_profile("no-deadline")
    if config.getoption("numprocesses", None) and WORKER not in os.environ:
        from tests.peers.forking import share_fork_server

        share_fork_server()


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Imports the test files beforehand, each worker of pytest-xdist beginning with others.

    The first time their asserts are rewritten, which takes four seconds, and Hypothesis looks for constants in all our
    modules, which takes two: so each worker does a part for all, and they find the rest in files.
    """
    if WORKER not in os.environ:
        return
    root, worker, workers = session.config.rootpath, int(os.environ[WORKER][2:]), int(os.environ[f"{WORKER}_COUNT"])
    paths = sorted(path for argument in session.config.args for path in (root / argument).rglob("test_*.py"))
    first = len(paths) * worker // workers
    for path in [*paths[first:], *paths[:first]]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # pytest imports it again, and tells
            importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
    ours = sorted(name for name in sys.modules if name.partition(".")[0] in {"benchmarks", "rlm_mcp", "wasm_runtime"})
    with contextlib.suppress(ImportError):  # not of its public interface
        from hypothesis.internal.constants_ast import constants_from_module

        for name in ours[worker::workers]:
            constants_from_module(sys.modules[name])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, int]:
    """Sorts files by a hash: the workers of pytest-xdist would all wait at once for the processes of one folder.

    An image is baked for two minutes: begun last, it would let the other workers wait for its end.
    """
    file = item.nodeid.partition("::")[0]
    return not file.startswith("tests/packages/"), zlib.crc32(file.encode())


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(10_000)  # full collections visit all that tests have imported and kept, and find little
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--image", type=Path, help="run the tests of the sandbox on the image with packages in this folder"
    )
    parser.addoption("--wheels", type=Path, help="a folder with wheels of Pyodide's release, for tests of packages")


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Path | None:
    """The image that the tests of the sandbox run on; None is the one without packages."""
    folder: Path | None = request.config.getoption("--image")
    return folder


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def sandbox_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory of this session with the compiled sandbox, copied from the user's cache.

    Compiling takes 10 s of both cores, and the tests of `wasm_runtime` do it in the user's cache if it is not there.
    The workers of pytest-xdist have base directories side by side and share one copy.
    """
    from wasm_runtime import Runtime, compile_cache

    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if WORKER in os.environ else base) / "compiled"
    directory.mkdir(exist_ok=True)
    with Runtime():
        pass
    compile_cache.copy_compiled(compile_cache.load_image(), compile_cache.default_cache_dir(), directory)
    return directory


@pytest.fixture(scope="session")
def compiled_cache(sandbox_cache: Path) -> Path:
    """The same, for processes that are killed before they could have compiled it."""
    return sandbox_cache


@pytest.fixture(scope="session")
def postgres() -> Iterator["PostgresServer"]:
    """A Postgres server of this session, for tests with the mark `cluster`."""
    from tests.peers.cluster import postgres_server, server_directory

    pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")
    programs = server_directory()
    if programs is None:
        pytest.skip("Postgres is not installed: `apt-get install postgresql` brings it")
    with postgres_server(programs) as server:
        yield server


@pytest.fixture(scope="session")
def database(postgres: "PostgresServer") -> Iterator["Database"]:
    """The database of this session, with its tables; tests keep apart by their owners."""
    from rlm_mcp.cluster.addresses import parse_database
    from rlm_mcp.cluster.database import Database
    from rlm_mcp.cluster.schema import prepare_schema
    from rlm_mcp.redact import Secret

    with Database(parse_database(Secret(postgres.url))) as opened:
        prepare_schema(opened)
        yield opened


@pytest.fixture
def empty_database(postgres: "PostgresServer") -> Iterator["Database"]:
    """A database without tables, of one test."""
    from rlm_mcp.cluster.addresses import parse_database
    from rlm_mcp.cluster.database import Database
    from rlm_mcp.redact import Secret

    name = f"test_{secrets.token_hex(6)}"
    with Database(parse_database(Secret(postgres.url))) as server, server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    with Database(parse_database(Secret(postgres.url.replace("/postgres", f"/{name}")))) as opened:
        yield opened


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an object store of this session."""
    from tests.peers.cluster import object_store

    pytest.importorskip("obstore", reason="the extra `cluster` is not installed")
    with object_store(tmp_path_factory.mktemp("buckets")) as served:
        yield served


@pytest.fixture
def objects(endpoint: str) -> "Objects":
    """The objects of one test, below a prefix of its own."""
    from rlm_mcp.bucket_address import BucketAddress
    from rlm_mcp.cluster.objects import Objects
    from tests.peers.cluster import BUCKET, access_to

    address = BucketAddress(bucket=BUCKET, prefix=secrets.token_hex(6))
    return Objects(address, access=access_to(endpoint), patience=5.0)

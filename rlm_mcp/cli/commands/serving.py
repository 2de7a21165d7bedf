"""`serve`, `worker`, `store` and `token`: the MCP server, workers of a cluster and its database, access over HTTP."""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rlm_mcp.cli.commands.registry import ANSWERED, Commands, settings_from
from rlm_mcp.errors import SettingsError
from rlm_mcp.settings import Settings

ON_TERMINAL = (
    "rlm-mcp serves MCP on stdin and stdout and now waits for a client, which usually starts it itself: "
    "`rlm-mcp install` adds it to one, `rlm-mcp --help` shows the commands. Ctrl-C ends it."
)

if TYPE_CHECKING:
    from rlm_mcp.server.transports.access import AccessOptions

MOST_WORKERS = 256
MOST_RUNS_AT_ONCE = 10_000


def add_commands(commands: Commands) -> None:
    """Registers the commands that serve, and those for what servers need."""
    parser = commands.add("serve", serve, "serve MCP on stdio or over HTTP")
    parser.add_argument("--http", metavar="HOST:PORT", help="serve streamable HTTP instead of stdio")
    parser.add_argument(
        "--token-file", metavar="FILE", help="a file of the bearer tokens to accept over HTTP, one NAME SHA256 per line"
    )
    parser.add_argument("--oauth-issuer", metavar="URL", help="accept access tokens (JWT) of this authorization server")
    parser.add_argument(
        "--oauth-resource", metavar="URL", help="the URL of this server, for which the tokens must be issued"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a value of the Host header to accept"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="over HTTP, the processes that do the work (default: as many as cores; 0: one does all, as on Windows)",
    )
    parser.add_argument(
        "--runs", type=int, metavar="N", help="in a cluster, the runs that this process plays at once (default: 16)"
    )
    worker = commands.add("worker", serve_cluster_runs, "play the runs that servers of a cluster begin")
    worker.add_argument("--runs", type=int, metavar="N", help="the runs that it plays at once (default: 16)")
    store = commands.group("store", migrate_store, "migrate the database of a cluster")
    store.add("migrate", migrate_store, "bring the tables in the database to this version of rlm-mcp")
    token = commands.add("token", make_token, "create a bearer token for serve --http")
    token.add_argument("name", help="the tenant whose contexts and runs the token gives access to")


def serve(options: argparse.Namespace) -> int:
    """Serves until the client disconnects or a signal arrives."""
    settings = settings_from(options)
    if options.runs is not None and not (options.http and settings.store):
        raise SettingsError(
            f"--runs {options.runs} has no meaning here: only a server of a cluster over HTTP plays runs of others; set"
            " RLM_MCP_STORE and RLM_MCP_BLOBS and give --http, or leave --runs out"
        )
    if options.http:
        _serve_http(options, settings)
    else:
        _serve_stdio(settings)
    return ANSWERED


def _serve_stdio(settings: Settings) -> None:
    """Answers what is prepared at once, and imports the server when a request needs it."""
    from rlm_mcp.server.prepared_answers import code_fingerprint, find_prepared, places
    from rlm_mcp.server.transports.stdio_pipe import StdioPipe

    if sys.stdin.isatty():
        print(ON_TERMINAL, file=sys.stderr)
    prepared = find_prepared(places(settings.cache_dir), code_fingerprint())
    pipe = StdioPipe.claim(prepared)
    pipe.wait_until_needed()

    with _without_collections():
        from rlm_mcp.cluster.opening import open_own_workspace
        from rlm_mcp.server.transports.stdio import serve_stdio

        flush_spans = _begin_process(settings)
    if prepared is None:
        prepare_first_answers(settings)
    serve_stdio(pipe, lambda: open_own_workspace(settings, warm=True, serves=True), at_end=flush_spans)


def prepare_first_answers(settings: Settings) -> None:
    """Prepares what later servers answer before they are imported, unless that has been done."""
    from rlm_mcp.server.prepared_answers import code_fingerprint, find_prepared, places, save_prepared

    files, fingerprint = places(settings.cache_dir), code_fingerprint()
    if find_prepared(files, fingerprint) is not None:
        return
    import asyncio

    from rlm_mcp.server.answer_preparation import prepare_answers

    save_prepared(asyncio.run(prepare_answers()), files, fingerprint)


def _serve_http(options: argparse.Namespace, settings: Settings) -> None:
    if workers := _worker_count(options.workers, is_cluster=bool(settings.store)):
        with _without_collections():
            from rlm_mcp.server.workers.fork_server import begin_imports

            begin_imports()
            from rlm_mcp.server.workers.front import serve_http_with_workers

            access = _access(options)
        serve_http_with_workers(settings, options.http, access, workers, at_end=_nothing)
        return
    with _without_collections():
        from rlm_mcp.server.transports.http import serve_http

        access = _access(options)
    serve_http(
        settings, options.http, access, at_end=_begin_process(settings), runs_at_once=_runs_at_once(options.runs)
    )


def serve_cluster_runs(options: argparse.Namespace) -> int:
    """Plays runs that servers of a cluster began, until a signal arrives."""
    settings = settings_from(options)
    with _without_collections():
        from rlm_mcp.server.transports.cluster_runs import serve_runs
    serve_runs(settings, at_once=_runs_at_once(options.runs, least=1), at_end=_begin_process(settings))
    return ANSWERED


def migrate_store(options: argparse.Namespace) -> int:
    """Brings the tables of a cluster to this version."""
    from rlm_mcp.cluster.opening import migrate_database

    before, now = migrate_database(settings_from(options))
    print(f"version {now}" if before == now else f"version {before} -> {now}")
    return ANSWERED


def _runs_at_once(asked: int | None, *, least: int = 0) -> int | None:
    """The number of runs that a process plays. Raises SettingsError."""
    if asked is not None and not least <= asked <= MOST_RUNS_AT_ONCE:
        raise SettingsError(f"--runs {asked} is not possible: give a number from {least} to {MOST_RUNS_AT_ONCE}")
    return asked


def _access(options: argparse.Namespace) -> "AccessOptions":
    """The operator's choice of who has access."""
    from rlm_mcp.server.transports.access import AccessOptions

    return AccessOptions(
        token_file=options.token_file,
        oauth_issuer=options.oauth_issuer,
        oauth_resource=options.oauth_resource,
        allowed_hosts=tuple(options.allow_host),
    )


def _worker_count(asked: int | None, *, is_cluster: bool = False) -> int:
    """The number of workers. Raises SettingsError."""
    if is_cluster:  # workers have no network, and could not reach the database
        if asked:
            raise SettingsError(
                f"--workers {asked} is not possible in a cluster: start `rlm-mcp worker` as often instead"
            )
        return 0
    if sys.platform == "win32":
        return 0
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 0 <= asked <= MOST_WORKERS:
        raise SettingsError(f"--workers {asked} is not possible: give a number from 0 to {MOST_WORKERS}")
    return asked


def _nothing() -> None:
    """Workers send the spans of their runs themselves."""


@contextmanager
def _without_collections() -> Iterator[None]:
    """Imports in the block make a hundred thousand objects that stay; visiting them again and again takes a seventh."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _begin_process(settings: Settings) -> Callable[[], None]:
    """Sets up what belongs to the whole process; returns what sends the spans that are left at its end."""
    from rlm_mcp.workspace.process_tuning import limit_malloc_arenas, switch_threads_often
    from rlm_mcp.workspace.telemetry import export_spans, flush

    limit_malloc_arenas()
    switch_threads_often()
    return partial(flush, export_spans() if settings.traces else None)


def make_token(options: argparse.Namespace) -> int:
    """Prints the line for the token file to stdout and the token itself, once, to stderr."""
    from rlm_mcp.server.transports.tenant_names import check_tenant_name
    from rlm_mcp.server.transports.token_file import digest_of, new_token

    name = check_tenant_name(options.name)
    token = new_token()
    print(f"{name} {digest_of(token)}")
    print(f"Add the line above to the token file. The token, which is shown only once: {token}", file=sys.stderr)
    return ANSWERED

"""The process from which workers are forked. It imports what they need, so that none of them has to."""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

PRELOADED = "rlm_mcp.server.workers.preloaded"


def fork_context() -> BaseContext:
    """The way to start processes: forked from a server that has the imports, or anew where there is no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    return context


def begin_imports() -> None:
    """Starts the fork server, which imports what workers need while this process imports what it needs itself."""
    if fork_context().get_start_method() == "forkserver":
        forkserver.ensure_running()

"""Work that the fork server does once for all the workers forked from it: imports, and a first server.

It is imported in a process that does nothing else. Whatever the imports made is exempt from garbage collection, so that
workers neither visit it nor write to its pages, which they share.

What only runs need takes as long again. The first workers are forked without it, so that the server answers sooner, and
import it when a model is first asked; some seconds later the fork server imports it for all that follow, whose runs go
on at once. A signal interrupts it for that, because at a fork it must not have a second thread.
"""

import gc
import signal
from contextlib import suppress
from importlib import import_module

AFTER_SECONDS = 3.0
"""Until the first workers have been forked, also on a slow machine."""


def import_what_all_need() -> None:
    """Imports what a worker needs before its first answer."""
    gc.disable()  # visiting the objects of the imports again and again takes a seventh of the time
    for name in ("rlm_mcp.server.workers.process", "uvicorn.lifespan.on", "uvicorn.loops.auto"):
        import_module(name)
    from rlm_mcp.repl.sandbox import import_runtime
    from rlm_mcp.server.answer_preparation import server_without_workspace
    from rlm_mcp.server.transports.logs import configure_logging

    import_runtime()
    configure_logging(structured=True)  # before the first server, which would configure it
    server_without_workspace().streamable_http_app()
    gc.freeze()
    gc.enable()


def import_what_runs_need(*_: object) -> None:
    """Imports what the first run of a worker needs."""
    with suppress(
        Exception
    ):  # a worker that needs it says why it cannot be imported; all workers end with this process
        import_module("rlm_mcp.models.sender")
    gc.freeze()


import_what_all_need()
if hasattr(signal, "SIGALRM"):  # there are no workers elsewhere
    signal.signal(signal.SIGALRM, import_what_runs_need)
    signal.setitimer(signal.ITIMER_REAL, AFTER_SECONDS)  # which is not inherited

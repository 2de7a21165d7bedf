"""What the fork server does once, and each worker that is forked from it need not: imports, and a first server.

It is imported in a process that does nothing else. Whatever the imports made is exempt from garbage collection, so that
workers neither visit it nor write to its pages, which they share.
"""

import gc
from importlib import import_module

from rlm_mcp.repl.sandbox import import_runtime
from rlm_mcp.server.answer_preparation import server_without_workspace
from rlm_mcp.server.transports.logs import configure_logging

for name in ("rlm_mcp.server.workers.process", "rlm_mcp.models.sender", "uvicorn.lifespan.on", "uvicorn.loops.auto"):
    import_module(name)
import_runtime()
configure_logging(structured=True)  # before the first server, which would configure it
server_without_workspace().streamable_http_app()
gc.collect()
gc.freeze()

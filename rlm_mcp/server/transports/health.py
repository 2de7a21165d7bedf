"""The health check for monitors and load balancers."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


async def report_health(_: Request) -> Response:
    """Answers as long as the process does."""
    return JSONResponse({"status": "ok"})


async def report_ready(is_loaded: Callable[[], bool], _: Request) -> Response:
    """Answers 200 once the sandbox is loaded, so that code can be run."""
    loaded = is_loaded()
    return JSONResponse({"sandbox": "loaded" if loaded else "loading"}, status_code=200 if loaded else 503)

"""The scripted models in a process of their own: `python -m benchmarks.quality.serving ERRORS LATENCY`."""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import anyio

from benchmarks.dialects import DIALECTS
from benchmarks.quality.reader import reply_to
from benchmarks.quality.root import reply_of_root
from tests.peers.openai_server import Fault, OpenAIServer, Quirks, Request

SUB = "scripted-sub"
"""The name of the sub-model; those of the root models are names of dialects."""
WINDOW_TOKENS = 128_000
LATENCY = 0.05
"""Seconds before each reply."""


def behave(request: Request, errors: int) -> str:
    """Plays the model that the request names, from the text of the request alone."""
    return reply_to(request.last, errors) if request.body["model"] == SUB else reply_of_root(request)


def fault_for(request: Request) -> Fault | None:
    """One request in 29 fails, as those to a busy provider do."""
    return Fault(status=500, latency=0.0) if request.number % 29 == 11 else None


def server_of(errors: int = 0, latency: float = 0.0) -> OpenAIServer:
    """The server of all models."""
    return OpenAIServer(
        partial(behave, errors=errors),
        faults=fault_for,
        latency=latency,
        quirks=Quirks(window_tokens=WINDOW_TOKENS),
        models=(*DIALECTS, SUB),
        keep_requests=False,
    )


@contextmanager
def serving(errors: int, latency: float) -> Iterator[str]:
    """Runs the server in a process of its own; yields its base URL."""
    command = [sys.executable, "-m", "benchmarks.quality.serving", str(errors), str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 # our own server
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    """Serves until killed; prints the base URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("errors", type=int)
    parser.add_argument("latency", type=float)
    options = parser.parse_args()

    async def serve() -> None:
        async with server_of(options.errors, options.latency) as server:
            print(server.base_url, flush=True)
            await anyio.sleep_forever()

    anyio.run(serve)


if __name__ == "__main__":
    main()

"""The scripted models behind an endpoint of their own process: `python -m benchmarks.quality.serving PROTOCOL …`."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.request import urlopen

import anyio

from benchmarks.quality.reader import reply_to
from benchmarks.quality.root import PROTOCOLS, reply_of_root
from tests.peers.openai_server import Fault, OpenAIServer, Quirks, Request

ROOT, SUB = "scripted-root", "scripted-sub"
WINDOW_TOKENS = 128_000
LATENCY = 0.05
"""Seconds before each reply."""


def behave(request: Request, protocol: str, errors: int) -> str:
    """Plays the model that the request names, from the text of the request alone."""
    if request.body["model"] == SUB:
        return reply_to(request.last, errors)
    earlier = sum(message["role"] == "assistant" for message in request.messages)
    return reply_of_root(protocol, request.text, earlier)


def fault_for(request: Request) -> Fault | None:
    """One request in 29 fails, as those to a busy provider do."""
    return Fault(status=500, latency=0.0) if request.number % 29 == 11 else None


def server_of(protocol: str, errors: int, latency: float) -> OpenAIServer:
    """The server of both models."""
    return OpenAIServer(
        partial(behave, protocol=protocol, errors=errors),
        faults=fault_for,
        latency=latency,
        quirks=Quirks(window_tokens=WINDOW_TOKENS),
        models=(ROOT, SUB),
        keep_requests=False,
    )


@contextmanager
def serving(protocol: str, *, errors: int = 0, latency: float = LATENCY) -> Iterator[str]:
    """Runs the server in a process of its own; yields its base URL."""
    command = [sys.executable, "-m", "benchmarks.quality.serving", protocol, str(errors), str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 # our own server
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def counts_of(url: str) -> dict[str, Any]:
    """What the server has counted."""
    with urlopen(url.removesuffix("/v1") + "/counts") as response:  # noqa: S310 # our own server
        found: dict[str, Any] = json.loads(response.read())
    return found


def main() -> None:
    """Serves until killed; prints the base URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("errors", type=int)
    parser.add_argument("latency", type=float)
    options = parser.parse_args()

    async def serve() -> None:
        async with server_of(options.protocol, options.errors, options.latency) as server:
            print(server.base_url, flush=True)
            await anyio.sleep_forever()

    anyio.run(serve)


if __name__ == "__main__":
    main()

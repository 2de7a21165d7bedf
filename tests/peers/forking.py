"""Starts `rlm-mcp` by forking a process that has imported everything: imports take longer than what most tests do.

`forked_command()` is used in place of `python -m rlm_mcp.cli`, except where the start itself is tested.
"""

import ast
import atexit
import contextlib
import functools
import gc
import importlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from rlm_mcp.cli.main import command_parser, main

IMPORTED = (
    "aiohttp",
    "anyio._backends._asyncio",
    "openai",
    "rlm_mcp.server.answer_preparation",
    "rlm_mcp.server.transports.http",
    "rlm_mcp.server.transports.stdio",
    "rlm_mcp.server.transports.stdio_pipe",
    "wasm_runtime",
)
"""what commands import when they need it, with what their libraries import then"""
MOST_BYTES = 1 << 17
"""Size of a request of forked.py, which consists of the environment mostly."""


@functools.cache
def forked_command() -> tuple[str, ...]:
    """The command that starts forked.py; it is the real one where the system cannot wait for a process and a socket."""
    if not hasattr(os, "pidfd_open"):
        return (sys.executable, "-m", "rlm_mcp.cli")
    directory = tempfile.TemporaryDirectory(prefix="forking")
    address = Path(directory.name) / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(address))
        listener.listen()
        server = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "tests.peers.forking", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            cwd=Path(__file__).parents[2],
            start_new_session=True,  # a Ctrl-C that ends the tests closes its stdin
        )

    @atexit.register
    def end() -> None:
        with server, directory:
            pass

    return (sys.executable, "-IS", str(Path(__file__).with_name("forked.py")), str(address))


def serve(listener: socket.socket) -> list[str]:
    """Forks a guard for each connection until stdin is closed; returns in the processes that guards fork."""
    while 0 not in select.select([0, listener.fileno()], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _guard(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                continue
    sys.exit()


def _guard(connection: socket.socket) -> list[str]:
    """Forks the process and tells how it ended; kills it when the connection is closed. Returns its arguments to it."""
    request, streams, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
    process = os.fork()
    if process == 0:
        connection.close()
        return _move_to(streams, *ast.literal_eval(request.decode()))
    for stream in streams:
        os.close(stream)
    connection.send(str(process).encode())
    ended = os.pidfd_open(process)
    if ended not in select.select([connection.fileno(), ended], [], [])[0]:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _move_to(
    streams: list[int], descriptors: tuple[int, int], directory: str, environ: dict[str, str], arguments: list[str]
) -> list[str]:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environ)
    return arguments


if __name__ == "__main__":
    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    command_parser()  # imports the commands
    gc.freeze()
    gc.enable()
    arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(main(arguments))

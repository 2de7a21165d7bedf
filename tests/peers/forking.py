"""Starts `rlm-mcp` by forking a process that has imported everything: imports take longer than what most tests do.

`forked_command()` is used in place of `python -m rlm_mcp.cli`, except where the start itself is tested. The fork server
of such a process, which imports as much, is forked likewise: `multiprocessing` starts INTERPRETER for Python.
"""

import ast
import atexit
import contextlib
import functools
import gc
import importlib
import logging
import multiprocessing
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from rlm_mcp.cli.main import command_parser, main

IMPORTED = (
    "aiohttp",
    "anyio._backends._asyncio",
    "httpcore2",
    "openai",
    "rlm_mcp.models.sender",
    "rlm_mcp.server.transports.http",
    "rlm_mcp.server.transports.stdio",
    "rlm_mcp.server.transports.stdio_pipe",
    "rlm_mcp.server.workers.process",
    "stringprep",
    "truststore",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "wasm_runtime.compile_cache",
    "wasm_runtime.runtime",
)
"""what commands and workers import when they need it, with what their libraries import then"""
OF_A_CLUSTER = (
    "rlm_mcp.cluster.backends",
    "rlm_mcp.cluster.map_worker",
    "rlm_mcp.cluster.worker",
)
"""the same of servers and workers that share a database, if the extra `cluster` is installed"""
PREPARATION = "rlm_mcp.server.answer_preparation"
"""Builds a server, which imports still more."""
INTERPRETER = "python"
"""Name of a script beside the socket that runs `-c CODE` in a forked process, and of that request of forked.py."""
SHARED = "TESTS_FORK_SERVER"
"""The variable with the socket of a server that the workers of pytest-xdist share."""
MOST_DESCRIPTORS = 253
"""That Linux sends in one message."""
MOST_BYTES = 1 << 17
"""Size of a request of forked.py, which consists of the environment mostly."""


@functools.cache
def forked_command() -> tuple[str, ...]:
    """The command that starts forked.py; it is the real one where the system cannot wait for a process and a socket."""
    if not hasattr(os, "pidfd_open"):
        return (sys.executable, "-m", "rlm_mcp.cli")
    if SHARED in os.environ:
        return _command_at(Path(os.environ[SHARED]))
    directory = tempfile.TemporaryDirectory(prefix="forking")
    address = Path(directory.name) / "socket"
    command = _command_at(address)
    interpreter = address.with_name(INTERPRETER)
    interpreter.write_text(f'#!/bin/sh\nexec {shlex.join(command)} {INTERPRETER} "$@"\n')
    interpreter.chmod(0o700)
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

    return command


def share_fork_server() -> None:
    """Has all processes that this one starts use one server: its imports take a second."""
    *_, address = forked_command()
    if Path(address).is_socket():
        os.environ[SHARED] = address


def _command_at(address: Path) -> tuple[str, ...]:
    return (sys.executable, "-IS", str(Path(__file__).with_name("forked.py")), str(address))


def process_of(started: int) -> int:
    """The process that runs what was started as another: that for which forked.py stands in, or that one itself."""
    name = Path(f"/proc/{started}/comm").read_text().split()
    return int(name[1]) if name[0] == "for" else started


class Started(NamedTuple):
    """A forked process, a descriptor that is readable once it has ended, and the connection of forked.py."""

    process: int
    ended: int
    connection: socket.socket


def serve(listener: socket.socket) -> list[str]:
    """Forks a process for each connection until stdin is closed; returns its arguments in it.

    Tells how it ended, and kills it when the connection is closed.
    """
    running: list[Started] = []
    while 0 not in (ready := _ready([0, listener, *(end for one in running for end in one[1:])])):
        for one in running.copy():
            if one.ended in ready:
                running.remove(one)
                _, status = os.waitpid(one.process, 0)
                _tell(one.connection, os.waitstatus_to_exitcode(status))
                one.connection.close()
                os.close(one.ended)
            elif one.connection.fileno() in ready:
                os.kill(one.process, signal.SIGKILL)
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            request, received, _, _ = socket.recv_fds(connection, MOST_BYTES, MOST_DESCRIPTORS)
            process = os.fork()
            if process == 0:
                for one in running:
                    one.connection.close()
                    os.close(one.ended)
                connection.close()
                listener.close()
                return _move_to(received, *ast.literal_eval(request.decode()))
            for descriptor in received:
                os.close(descriptor)
            running.append(Started(process, os.pidfd_open(process), connection))
            _tell(connection, process)
    for one in running:
        os.kill(one.process, signal.SIGKILL)
    os._exit(0)


def _tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # forked.py was killed
        connection.send(str(number).encode())


def _ready(waited_for: Sequence[int | socket.socket]) -> set[int]:
    """The descriptors that can be read, or whose other end is closed, as soon as there are some."""
    poll = select.poll()
    for one in waited_for:
        poll.register(one, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll()}


def _move_to(
    received: list[int],
    numbers: list[int],
    limits: tuple[int, int],
    directory: str,
    environ: dict[str, str],
    arguments: list[str],
) -> list[str]:
    import fcntl  # here, because this module is imported on Windows too
    import resource

    # Out of the way first: one of them may have the number of another.
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, max(numbers) + 1) for descriptor in received]
    for descriptor in received:
        os.close(descriptor)
    for descriptor, number in zip(moved, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environ)
    return arguments


def run(arguments: list[str]) -> int:
    """Runs `rlm-mcp`, or what Python is started for."""
    if arguments[:1] != [INTERPRETER]:
        return main(arguments)
    exec(arguments[arguments.index("-c") + 1], {})  # noqa: S102 - as the interpreter does
    return 0


def end_without_freeing(ended: SystemExit) -> None:
    """Ends the process as the interpreter does, which would free all that was imported, and copy its pages for that.

    What the command has made and left is freed. Returns where the interpreter has to say more about the end.
    """
    if not isinstance(ended.code, int):
        return
    threading._shutdown()  # type: ignore[attr-defined] # the interpreter calls it
    atexit._run_exitfuncs()
    gc.collect()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(ended.code)


if __name__ == "__main__":
    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    for name in OF_A_CLUSTER if find_spec("procrastinate") else ():
        importlib.import_module(name)
    command_parser()  # imports the commands
    importlib.import_module(PREPARATION).server_without_workspace().streamable_http_app()  # makes what servers share
    logging.root.handlers.clear()  # which the SDK has added
    gc.freeze()
    gc.enable()
    listener = socket.socket(fileno=int(sys.argv[1]))
    multiprocessing.set_executable(str(Path(listener.getsockname()).with_name(INTERPRETER)))
    arguments = serve(listener)
    try:
        sys.exit(run(arguments))
    except SystemExit as ended:
        end_without_freeing(ended)
        raise

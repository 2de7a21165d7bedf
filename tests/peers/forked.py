"""Stands in for `python -m rlm_mcp.cli`: `python -IS forked.py SOCKET ARGUMENT …`, where forking.py serves the socket.

The command runs in a process that is forked for it, with the environment, the working directory, the standard streams
and the limit of descriptors of this one. This process passes SIGTERM and SIGINT on, ends as that one does, and takes it
along when killed.
It imports little, so that it starts in a hundredth of a second.
"""

import _socket
import os
import resource
import signal
import sys


def main() -> None:
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    connection.connect(sys.argv[1])
    directory = os.getcwd()  # noqa: PTH109 - pathlib takes longer to import than everything here
    request = ascii((resource.getrlimit(resource.RLIMIT_NOFILE), directory, dict(os.environ), sys.argv[2:])).encode()
    streams = b"".join(stream.to_bytes(4, sys.byteorder) for stream in (0, 1, 2))
    connection.sendmsg([request], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
    for stream in (0, 1, 2):
        os.close(stream)
    process = int(connection.recv(16))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(process, number))
    status = int(connection.recv(16))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()

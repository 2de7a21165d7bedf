"""Stands in for `python -m rlm_mcp.cli`: `python -IS forked.py SOCKET ARGUMENT …`, where forking.py serves the socket.

The command runs in a process that is forked for it, with the environment, the working directory, the descriptors and
their limit of this one. This process passes SIGTERM and SIGINT on, ends as that one does, and takes it along when
killed.
It imports little, so that it starts in a hundredth of a second.
"""

import _signal  # type: ignore[import-not-found] # of `signal`, which takes half of the start for its enums
import _socket
import os
import resource
import sys


def main() -> None:
    # All but the one of the listing itself.
    descriptors = [number for number in map(int, os.listdir("/proc/self/fd")) if _is_open(number)]  # noqa: PTH208 - pathlib is slow
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    connection.connect(sys.argv[1])
    directory, limits = os.getcwd(), resource.getrlimit(resource.RLIMIT_NOFILE)  # noqa: PTH109 - as above
    request = ascii((descriptors, limits, directory, dict(os.environ), sys.argv[2:])).encode()
    sent = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in descriptors)
    connection.sendmsg([request], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, sent)])
    for descriptor in descriptors:
        os.close(descriptor)
    process = int(connection.recv(16))
    with open("/proc/self/comm", "w") as name:  # noqa: PTH123 - see process_of
        name.write(f"for {process}")
    for number in (_signal.SIGTERM, _signal.SIGINT):
        _signal.signal(number, lambda number, _: os.kill(process, number))
    status = int(connection.recv(16))
    if status < 0:
        _signal.signal(-status, _signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


main()

"""Network: there is none. Every attempt to use it fails, and no byte reaches a port of this machine."""

import socket
from collections.abc import Iterator

import pytest

from wasm_runtime import Limits, Runtime, Session

# PORT listens on this machine, UDP_PORT is bound there.
ATTEMPTS = [
    "socket.create_connection(('127.0.0.1', PORT))",
    "socket.create_connection(('localhost', PORT))",
    "socket.create_connection(('169.254.169.254', 80))",
    "socket.create_connection(('::1', PORT))",
    "socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(('127.0.0.1', PORT))",
    "socket.socket(socket.AF_INET6, socket.SOCK_STREAM).connect(('::1', PORT))",
    "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', UDP_PORT))",
    "socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
    "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "socket.socket(17, 3)",  # AF_PACKET
    "socket.socket(fileno=1).send(b'x')",
    "socket.fromfd(3, socket.AF_INET, socket.SOCK_STREAM).send(b'x')",
    "socket.socketpair()",
    "socket.create_server(('127.0.0.1', 0))",
    "socket.getaddrinfo('example.com', 80)",
    "socket.gethostbyname('example.com')",
    "socket.gethostbyaddr('127.0.0.1')",
    "socket.getnameinfo(('127.0.0.1', 80), 0)",
    "urllib.request.urlopen('http://127.0.0.1:PORT/', timeout=1)",
    "urllib.request.urlopen('https://127.0.0.1:PORT/', timeout=1)",
    "urllib.request.urlopen('ftp://127.0.0.1:PORT/', timeout=1)",
    "urllib.request.urlopen('file:///etc/passwd')",
    "http.client.HTTPConnection('127.0.0.1', PORT).request('GET', '/')",
    "ftplib.FTP('127.0.0.1')",
    "smtplib.SMTP('127.0.0.1', PORT)",
    "poplib.POP3('127.0.0.1', PORT)",
    "imaplib.IMAP4('127.0.0.1', PORT)",
    "xmlrpc.client.ServerProxy('http://127.0.0.1:PORT').ping()",
    "http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)",
    "socketserver.TCPServer(('127.0.0.1', 0), None)",
    "logging.handlers.SocketHandler('127.0.0.1', PORT).makeSocket()",
    "logging.handlers.SysLogHandler(('127.0.0.1', UDP_PORT))",
    "await asyncio.open_connection('127.0.0.1', PORT)",
    "await asyncio.start_server(print, '127.0.0.1', 0)",
    "await asyncio.open_unix_connection('/tmp/s')",
    "await asyncio.get_running_loop().getaddrinfo('example.com', 80)",
    "await asyncio.get_running_loop().create_datagram_endpoint(print, remote_addr=('127.0.0.1', UDP_PORT))",
]

IMPORTS = """
import asyncio, importlib
for name in ['socket', 'urllib.request', 'http.client', 'http.server', 'ftplib', 'smtplib', 'poplib', 'imaplib',
             'xmlrpc.client', 'socketserver', 'logging.handlers']:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error)
import ftplib, http, imaplib, logging, poplib, smtplib, socket, socketserver, urllib, xmlrpc
"""


@pytest.fixture(scope="module")
def equipped(runtime: Runtime) -> Iterator[Session]:
    with runtime.session(limits=Limits(memory_bytes=128 << 20)) as session:
        session.exec(IMPORTS)
        yield session


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_every_way_to_the_network_is_an_error(equipped: Session, attempt: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        equipped.fork() as session,
    ):
        udp.bind(("127.0.0.1", 0))
        tcp.setblocking(False)
        udp.setblocking(False)
        code = attempt.replace("UDP_PORT", str(udp.getsockname()[1])).replace("PORT", str(tcp.getsockname()[1]))
        result = session.exec("kept = 1\n" + code, seconds=5)
        assert result.error is not None
        assert result.stopped_by is None
        assert result.error.type in {
            "OSError", "gaierror", "URLError", "ConnectionRefusedError", "PermissionError", "FileNotFoundError",
            "NotImplementedError", "AttributeError", "herror",
        }, result.error  # fmt: skip
        assert session.exec("kept").value == "1"
        with pytest.raises(BlockingIOError):
            tcp.accept()
        with pytest.raises(BlockingIOError):
            udp.recv(1)


def test_the_host_name_is_no_name(session: Session) -> None:
    result = session.exec("import socket; socket.gethostname()")
    assert result.value is None or socket.gethostname() not in result.value


def test_selecting_on_descriptors_does_not_hang(session: Session) -> None:
    for code in ["import select; select.select([0], [], [], 0.01)", "import select; select.poll().poll(10)"]:
        assert session.exec(code, seconds=5).stopped_by is None

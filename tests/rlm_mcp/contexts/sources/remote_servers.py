"""Servers on this machine that stand for others: https with a certificate of its own, and git's daemon."""

import datetime as dt
import ipaddress
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rlm_mcp.contexts.sources.remote import RemoteAccess, network_of

HOST = "files.example"
LOOPBACK = network_of("127.0.0.0/8")
GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.defpath, "HOME": "/nonexistent"}
WHO = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=0")

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class RemoteServer:
    """An https server; `answers` by path. `asked` are the paths and headers of requests."""

    port: int
    ca_file: Path
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str, *, login: str = "") -> str:
        return f"https://{login}{HOST}:{self.port}{path}"

    def access(self, **changes: object) -> RemoteAccess:
        """A policy under which the server may be reached."""
        options: dict[str, object] = {"networks": (LOOPBACK,), "resolve": to_loopback, "ca_file": self.ca_file}
        return RemoteAccess(**(options | changes))  # type: ignore[arg-type] # by name

    def say(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        """Answers a path with this body."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                request.send_header(name.replace("_", "-"), value)
            request.end_headers()
            request.wfile.write(body)

        self.answers[path] = answer

    def redirect(self, path: str, to: str) -> None:
        self.say(path, b"", 302, Location=to)

    def serve_repositories(self, root: Path) -> None:
        """Answers all paths below /git/ with git's own server."""
        self.answers["/git/"] = lambda request: _run_backend(request, root)


def to_loopback(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for HOST and 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    today = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName(HOST), x509.DNSName("other.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@contextmanager
def https_server(folder: Path) -> Iterator[RemoteServer]:
    certificate, key = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            remote.asked.append((self.path, dict(self.headers)))
            path = urlsplit(self.path).path
            answer = remote.answers.get(path) or remote.answers.get("/git/" if path.startswith("/git/") else "")
            self.close_connection = True
            with suppress(OSError):
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

        do_POST = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

        def setup(self) -> None:
            self.request.settimeout(20)  # a handshake that never comes ends with the test
            super().setup()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: object) -> None:
            with suppress(OSError), context.wrap_socket(request, server_side=True) as wrapped:
                Handler(wrapped, client_address, self)

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    remote = RemoteServer(port=server.server_address[1], ca_file=certificate)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield remote
    finally:
        server.shutdown()
        server.server_close()


def _run_backend(request: BaseHTTPRequestHandler, root: Path) -> None:
    """One request for git's CGI program."""
    parts = urlsplit(request.path)
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    environment = GIT | {
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": parts.path.removeprefix("/git"),
        "QUERY_STRING": parts.query,
        "REQUEST_METHOD": request.command,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
    }
    done = subprocess.run(
        ["git", "http-backend"],  # noqa: S607 - git, as it is installed
        input=body,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
    request.send_response(int(headers.pop("Status", "200").split()[0]))
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


@contextmanager
def git_daemon(root: Path) -> Iterator[int]:
    """Git's own server over its own protocol; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(git(root, "--exec-path")) / "git-daemon"  # itself, since `git daemon` would outlive its signal
    command = [str(program), "--export-all", f"--base-path={root}", "--listen=127.0.0.1", f"--port={port}"]
    daemon = subprocess.Popen([*command, "--verbose"], env=GIT, stderr=subprocess.PIPE)  # noqa: S603 - our own command
    try:
        assert daemon.stderr is not None
        assert b"Ready" in daemon.stderr.readline()
        yield port
    finally:
        daemon.kill()
        daemon.communicate()


def git(directory: Path, *arguments: str, stdin: bytes = b"") -> str:
    """Runs git as the owner of a repository that a test makes."""
    done = subprocess.run(  # noqa: S603 - git, with the arguments of a test
        ["git", *WHO, "-C", str(directory), *arguments],  # noqa: S607 - git, as it is installed
        env=GIT,
        input=stdin,
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout.decode().strip()


def make_repository(directory: Path, files: dict[str, str]) -> str:
    """A repository with one commit, which is returned."""
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "--quiet")
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "-m", "one")
    return git(directory, "rev-parse", "HEAD")

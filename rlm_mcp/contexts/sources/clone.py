"""A git repository on another machine: one revision of it, fetched without history into a bare repository.

The other side may be hostile. Nothing is checked out, so that hooks, filters, links and submodules of the repository
mean nothing; `git.at_revision` reads the objects. The user's configuration of git is not read: it could name helpers,
proxies and other addresses. Git is connected to an address that was checked, follows no redirect (`find_repository`
has followed those), cannot prompt, and is killed with all that it started when the caller is cancelled or when the
pack takes more than its bytes or time.
"""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which

from rlm_mcp.contexts.processes import POLL_SECONDS, PROCESSES
from rlm_mcp.contexts.sources.address import RemoteAddress
from rlm_mcp.contexts.sources.compressed import FREE_BYTES, MAX_RATIO
from rlm_mcp.contexts.sources.download import find_repository
from rlm_mcp.contexts.sources.git import run_git
from rlm_mcp.contexts.sources.remote import CONNECT_SECONDS, IDLE_SECONDS, RemoteAccess, find_addresses
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.errors import SourceRefused
from rlm_mcp.redact import ellipsize, escape_controls, without_keys

FETCHED = "refs/rlm/fetched"
OLDEST_GIT = (2, 37)
"""Older ones ignore `http.curloptResolve`, and would resolve a name once more."""

MAX_OBJECT_BYTES = 1 << 30
MEMORY_BYTES = 4 << 30
ALLOCATION_BYTES = 1 << 30
"""A delta of a few bytes can stand for an object of any size, which git makes in memory."""

STDERR_BYTES = 4_000

_LIMITED = 'ulimit -v "$1" && ulimit -f "$2" && shift 2 && exec "$@"'
"""Limits of the shell apply to all processes that git starts; `-v` counts KiB, `-f` at least blocks of 512 bytes."""

_PLAIN = (
    "protocol.allow=never",
    "protocol.version=2",
    "credential.helper=",
    "core.askPass=",
    "core.hooksPath=/dev/null",
    "core.bigFileThreshold=16m",
    "fetch.fsckObjects=false",
    "fetch.unpackLimit=1",  # always one pack
    "fetch.recurseSubmodules=false",
    "fetch.uriProtocols=",
    "transfer.bundleURI=false",
    "transfer.credentialsInUrl=die",
    "http.followRedirects=false",
    "http.proxy=",
    "http.sslVerify=true",
    "http.lowSpeedLimit=1",
    f"http.lowSpeedTime={IDLE_SECONDS:.0f}",
    "pack.threads=2",  # each reserves address space, which is limited
    "index.threads=1",
    "gc.auto=0",
    "maintenance.auto=false",
)


def fetch_revision(
    address: RemoteAddress, directory: Path, access: RemoteAccess, *, check_cancelled: Callable[[], None]
) -> tuple[RemoteAddress, str]:
    """Fetches a revision into a new bare repository. Returns the address after redirects, and the commit.

    Raises SourceRefused.
    """
    access.check_host(address)
    timeout = Timeout(access.seconds)
    if which("git") is None or _version(directory.parent, check_cancelled) < OLDEST_GIT:
        raise SourceRefused("fetching repositories needs git 2.37 or newer: install it, or register a clone")
    if address.scheme == "https":
        address = find_repository(address, access, timeout, check_cancelled=check_cancelled)
    ips = find_addresses(access, address, check_cancelled=check_cancelled)
    directory.mkdir(mode=0o700)
    if run_git(directory, "init", "--quiet", "--bare", "--template=", check_cancelled=check_cancelled) is None:
        raise SourceRefused(f"git cannot make a repository for {address.shown}: check the disk")
    _fetch(address, ips, directory, access, timeout, check_cancelled)
    found = run_git(directory, "rev-parse", "--verify", f"{FETCHED}^{{commit}}", check_cancelled=check_cancelled)
    if found is None:
        raise SourceRefused(f"{address.shown} is not a commit: name a branch, a tag or a whole commit")
    commit = found.decode().strip()
    _check_expansion(address, directory, commit, check_cancelled)
    return address, commit


def _version(directory: Path, check_cancelled: Callable[[], None]) -> tuple[int, int]:
    printed = run_git(directory, "--version", check_cancelled=check_cancelled) or b""
    found = re.search(rb"(\d+)\.(\d+)", printed)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _fetch(
    address: RemoteAddress,
    ips: Sequence[str],
    directory: Path,
    access: RemoteAccess,
    timeout: Timeout,
    check_cancelled: Callable[[], None],
) -> None:
    """Runs git until the revision is there. Raises SourceRefused."""
    said = directory / "stderr"
    command = _limited(_command(address, ips, directory), access.most_bytes)
    with (
        said.open("xb") as stderr,
        PROCESSES.running(
            command,
            env=_environment(address, ips, access),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            session=True,
        ) as child,
    ):
        while True:
            try:
                child.wait(POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                pass
            check_cancelled()
            if timeout.expired:
                raise SourceRefused(f"{address.shown} took longer than {access.seconds:.0f} s: register a clone")
            _check_size(address, directory, access.most_bytes)
    _check_size(address, directory, access.most_bytes)
    if child.returncode:
        with said.open("rb") as file:
            raise SourceRefused(_words(address, file.read(STDERR_BYTES).decode(errors="replace"), access))


def _limited(command: Sequence[str], most_bytes: int) -> list[str]:
    if os.name != "posix":
        return list(command)
    return ["/bin/sh", "-c", _LIMITED, "sh", str(MEMORY_BYTES >> 10), str(most_bytes // 512 + 1), *command]


def _command(address: RemoteAddress, ips: Sequence[str], directory: Path) -> list[str]:
    pinned = f"http.curloptResolve={_resolution(address, ips)}"
    settings = [*_PLAIN, f"protocol.{address.scheme}.allow=always", pinned]
    url = address.url_at(ips[0]) if address.scheme == "git" else address.url
    return [
        which("git") or "git",
        *(part for setting in settings for part in ("-c", setting)),
        f"--git-dir={directory}",
        "fetch",
        "--quiet",
        "--depth=1",
        "--no-tags",
        "--no-recurse-submodules",
        "--no-write-fetch-head",
        "--upload-pack=git-upload-pack",
        "--",
        url,
        f"+{address.revision or 'HEAD'}:{FETCHED}",
    ]


def _resolution(address: RemoteAddress, ips: Sequence[str]) -> str:
    shown = ",".join(f"[{ip}]" if ":" in ip else ip for ip in ips)
    return f"{address.host}:{address.port}:{shown}" if ":" not in address.host and address.scheme == "https" else ""


def _environment(address: RemoteAddress, ips: Sequence[str], access: RemoteAccess) -> dict[str, str]:
    """The environment of git, in which nothing of the user's remains but the key agent of ssh."""
    environment = {
        "PATH": os.defpath,
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": address.scheme,
        "GIT_ALLOC_LIMIT": f"{ALLOCATION_BYTES >> 20}m",
        "GIT_NO_LAZY_FETCH": "1",
        **_certificates(access.ca_file),
    }
    if address.login:  # not an argument, which other users of the machine may read
        environment |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: {address.authorization.reveal()}",
        }
    if address.scheme == "ssh":
        environment |= _ssh(address, ips[0])
    return environment


def _ssh(address: RemoteAddress, ip: str) -> dict[str, str]:
    """Connects ssh to a checked address; the user's own configuration and known hosts apply otherwise."""
    alias = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    options = (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "PermitLocalCommand=no",
        f"ConnectTimeout={CONNECT_SECONDS:.0f}",
        f"HostName={ip}",
        f"HostKeyAlias={alias}",
    )
    command = "ssh " + " ".join(f"-o '{option}'" for option in options)
    return {"GIT_SSH_COMMAND": command, "GIT_SSH_VARIANT": "ssh", **_ssh_agent()}


def _certificates(ca_file: Path | None) -> dict[str, str]:
    """The variable that names the certificates of authorities, if this machine does not use its usual ones."""
    named = str(ca_file) if ca_file else os.environ.get("SSL_CERT_FILE", "")
    return {"GIT_SSL_CAINFO": named} if named else {}


def _ssh_agent() -> dict[str, str]:
    """The variable that names the agent with the keys of ssh, if there is one."""
    agent = os.environ.get("SSH_AUTH_SOCK", "")
    return {"SSH_AUTH_SOCK": agent} if agent else {}


def _check_size(address: RemoteAddress, directory: Path, most: int) -> None:
    if sum(size for _, size in _files(directory)) > most:
        raise SourceRefused(
            f"{address.shown} is larger than {most:,} bytes: clone what you need of it yourself, and register that"
        )


def _files(directory: Path) -> list[tuple[str, int]]:
    found = []
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 - twenty times a second
            if os.path.exists(path):  # noqa: PTH110 - git renames its files
                found.append((path, _size(path)))
    return found


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _check_expansion(address: RemoteAddress, directory: Path, commit: str, check_cancelled: Callable[[], None]) -> None:
    """Raises SourceRefused for a revision whose files expand as bombs do: a file may be listed many times."""
    listed = run_git(directory, "ls-tree", "-r", "-l", "-z", commit, check_cancelled=check_cancelled) or b""
    sizes = [int(size) for size in re.findall(rb"(?:^|\0)\d+ blob [0-9a-f]+ +(\d+)\t", listed)]
    total, packed = sum(sizes), sum(size for _, size in _files(directory))
    if total > FREE_BYTES + MAX_RATIO * packed or max(sizes, default=0) > MAX_OBJECT_BYTES:
        raise SourceRefused(
            f"{address.shown} expands from {packed:,} bytes to {total:,}, or has a file of over "
            f"{MAX_OBJECT_BYTES:,}: clone it yourself if you trust it, and register what you need"
        )


def _words(address: RemoteAddress, said: str, access: RemoteAccess) -> str:
    """One sentence for what git printed."""
    shown, low = address.shown, said.lower()
    if "couldn't find remote ref" in low or "not our ref" in low or "unadvertised object" in low:
        named = address.revision or "HEAD"
        return f"{shown} has no revision {named!r}: name a branch, a tag or a whole commit of 40 digits"
    if "host key verification failed" in low:
        return f"ssh does not know the key of {address.host}: connect once with `ssh {address.host}` to check it"
    if "permission denied" in low or "could not read username" in low or "authentication failed" in low:
        return f"{shown} needs a login that is not here: add a key of ssh to the agent, or register a clone"
    if "file size limit" in low or "sigxfsz" in low or "file too large" in low:
        return f"{shown} is larger than {access.most_bytes:,} bytes: clone what you need yourself, and register that"
    lines = [line for line in said.splitlines() if line.startswith(("ssh:", "fatal:", "error:"))] or said.splitlines()
    last = ellipsize(without_keys(escape_controls(lines[0] if lines else "it said nothing")), 200)
    return f"{shown} cannot be fetched: git says {last!r}; check the address"

"""The files that a worker may open, by Landlock.

Landlock allows what lies below the listed directories and refuses everything else, for root as well. Rules refer to
directories as they are now, not to their names. Metadata is not covered: a worker can still learn that a file exists.

`landlockpy` was chosen because it is typed, has no dependencies and knows all rights of the kernel; the older
`landlock` knows neither ports nor scopes.
"""

import os
import ssl
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_mcp.contexts.sources.secrets import is_secret

if TYPE_CHECKING:
    from landlockpy import Ruleset

_OLDEST_ABI = 2
"""Linux 5.19. With ABI 1, no file could be moved from one directory to another, as the store does."""
_SCOPES_ABI = 6

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store")
_ETC = tuple(
    f"/etc/{name}"
    for name in (
        *("ca-certificates", "ca-certificates.conf", "pki", "ssl", "crypto-policies"),
        *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"),
        *("localtime", "timezone", "locale.alias", "mime.types", "magic", "gitconfig"),
        *("passwd", "group", "nsswitch.conf", "resolv.conf", "hosts", "host.conf", "gai.conf"),
    )
)
_MACHINE = (
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/sys/vm/overcommit_memory"),
    "/sys/devices/system/cpu",
    "/proc/sys/kernel/random/boot_id",  # tells whether texts that were fetched survived a crash of the machine
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
)
_OWN_PROCESS = "/proc/self"
"""The rule refers to the directory of this process, never to that of one that it starts."""

_UNCONFINED = "Workers can read and write all files of the server's user"


def restrict_files(
    *, readable: Iterable[Path], writable: Iterable[Path], hidden: Iterable[Path], fetches: bool
) -> list[str]:
    """Applies the rules to this thread. Returns a sentence for each lack of the system."""
    try:
        from landlockpy import AccessNet, LandlockError, Ruleset, Scope, abi_version
    except ImportError:
        return [f"{_UNCONFINED}: `pip install landlockpy` to confine them."]
    readable = [path.resolve() for path in readable]
    hidden = tuple(path.resolve() for path in (*hidden, *credentials(readable)) if _is_reachable(path))
    writable = [path.resolve(strict=True) for path in writable]
    try:
        abi = abi_version()
        if abi < _OLDEST_ABI:
            return [f"{_UNCONFINED}: this system has no Landlock, or one that is older than Linux 5.19."]
        # None of the machine's ports can be bound; system_calls.py covers what a kernel without these rights lacks.
        ports = AccessNet.BIND_TCP if fetches else None
        with Ruleset(handled_net=ports, scoped=Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET) as rules:
            _allow(rules, readable, writable, hidden)
            rules.restrict()
    except LandlockError as error:
        return [f"{_UNCONFINED}: Landlock failed ({error})."]
    lacks = [
        f"Workers can read {path}: move it out of {directory}, to which they write."
        for path in hidden
        if (directory := next(filter(path.is_relative_to, writable), None))
    ]
    lacks += [
        f"Workers cannot read files that are put into {root} itself from now on, since {path} is hidden there."
        for root in readable
        if (path := next((path for path in hidden if path.is_relative_to(root)), None))
    ]
    if abi < _SCOPES_ABI:
        lacks.append("Workers can send signals to other processes of the server's user: that needs Linux 6.12.")
    return lacks


def _allow(rules: "Ruleset", readable: Iterable[Path], writable: Iterable[Path], hidden: tuple[Path, ...]) -> None:
    from landlockpy import AccessFS

    read, execute = AccessFS.READ_FILE | AccessFS.READ_DIR, AccessFS.EXECUTE
    change = AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.REFER | AccessFS.REMOVE_FILE | AccessFS.REMOVE_DIR
    create = AccessFS.MAKE_DIR | AccessFS.MAKE_REG | AccessFS.MAKE_SYM | AccessFS.MAKE_SOCK | AccessFS.MAKE_FIFO
    of_file = AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.EXECUTE

    def allow(paths: Iterable[str | Path], access: AccessFS) -> None:
        for path in map(Path, paths):
            if _is_reachable(path):
                rules.allow_path(path, access if path.is_dir() else access & of_file)

    for directory in installation():
        allow(without(directory, hidden), read | execute)
    allow((*_ETC, *_MACHINE, _OWN_PROCESS), read)
    allow(["/dev/null"], read | AccessFS.WRITE_FILE)
    allow(readable, AccessFS.READ_DIR)  # the names of what is hidden are not
    for root in readable:
        allow(without(root, hidden), read)
    allow(writable, read | change | create)
    # Never closed: it keeps the kernel from forgetting the directory to which the rule for _OWN_PROCESS refers.
    os.open(_OWN_PROCESS, os.O_PATH | os.O_CLOEXEC)


def _is_reachable(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False


def installation() -> list[Path]:
    """The directories of Python, of the packages, of the system's programs and of the authorities' certificates."""
    paths = sysconfig.get_paths()
    packages = [find_spec("rlm_mcp"), find_spec("wasm_runtime")]
    certificates = ssl.get_default_verify_paths()
    found: list[str | Path | None] = [
        *SYSTEM,
        *(sys.prefix, sys.base_prefix, sys.exec_prefix, Path(sys.executable).resolve().parent),
        *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")),
        *(path for path in sys.path if any(Path(path).glob("*.dist-info"))),
        *(folder for package in packages if package for folder in package.submodule_search_locations or ()),
        *(certificates.cafile, certificates.capath, certificates.openssl_cafile, certificates.openssl_capath),
    ]
    return list(dict.fromkeys(Path(path) for path in found if path))


def credentials(roots: Iterable[Path]) -> list[Path]:
    """The files with credentials in the user's home, if that is a root or lies below one."""
    try:
        home = Path.home().resolve()
        return [path for path in home.iterdir() if is_secret(path)] if any(map(home.is_relative_to, roots)) else []
    except (OSError, RuntimeError):  # there is no home
        return []


def without(directory: Path, hidden: tuple[Path, ...]) -> Iterator[Path]:
    """The present content of a directory in as few paths as possible, without those that are hidden.

    Of a directory that holds none, later files are included.
    """
    if any(directory.is_relative_to(path) for path in hidden):
        return
    if not any(path.is_relative_to(directory) for path in hidden):
        yield directory
        return
    try:
        entries = list(directory.iterdir())
    except OSError:  # a directory that cannot be listed holds nothing that can be found
        return
    for entry in entries:
        if not entry.is_symlink():  # the link itself leads to what other rules say
            yield from without(entry, hidden)

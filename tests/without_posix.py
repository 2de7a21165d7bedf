"""Makes this process look to our packages like one on Windows, by hiding what only POSIX systems have.

The standard library and other packages have Windows branches of their own, so they are loaded first and keep what they
need. Not imitated: `sys.platform`, paths, and how Windows treats files and locks. `rlm_mcp.files`, which locks files in
another way on Windows, may therefore use `fcntl`.
"""

import asyncio
import builtins
import importlib
import os
import pkgutil
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

POSIX_MODULES = frozenset(
    "crypt fcntl grp nis posix pty pwd readline resource spwd syslog termios tty".split()  # noqa: SIM905 - a list
)
POSIX_NAMES = {
    os: """O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC MFD_CLOEXEC WNOHANG chown ctermid fchmod fchown fork
    forkpty getegid geteuid getgid getloadavg getpgid getuid killpg lchown memfd_create mkfifo nice posix_fadvise pread
    preadv pwrite pwritev register_at_fork sched_getaffinity sendfile setsid statvfs sysconf uname wait""",
    signal: """SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH alarm pthread_kill
    pthread_sigmask setitimer""",
    select: "poll",
    asyncio.SelectorEventLoop: "add_signal_handler remove_signal_handler",  # what is inherited raises
}


def hide_posix(*packages: str) -> None:
    """Hide modules from imports by `packages`, and names from everybody; the packages are then to be imported anew."""
    import_all(*packages)
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
    real_import = builtins.__import__

    def guarded_import(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the names are those of `__import__`
        locals: Mapping[str, object] | None = None,  # noqa: A002 - likewise
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        importer = str((globals or {}).get("__name__"))
        is_ours = importer.partition(".")[0] in packages and importer != "rlm_mcp.files"
        if is_ours and name.partition(".")[0] in POSIX_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, globals, locals, fromlist, level)

    builtins.__import__ = guarded_import
    for owner, names in POSIX_NAMES.items():
        for name in names.split():
            if hasattr(owner, name):
                delattr(owner, name)


def import_all(*packages: str) -> list[str]:
    """Import every module of `packages` except guest code, programs, and what needs an extra; -> their names."""
    names = list(packages)
    for package in packages:
        found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
        names += [module.name for module in found if not {"guest", "__main__", "cluster"} & set(module.name.split("."))]
    for name in names:
        importlib.import_module(name)
    return names

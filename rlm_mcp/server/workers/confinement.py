"""The rights that a worker process gives up before it opens any file of a tenant.

A worker runs the sandbox and parses documents, so it is the process in which a fault of Wasmtime or of a parser would
let hostile code run. From then on the operating system holds the worker to what it needs:

    files          file_rules.py: the installation and the roots to read, its own directories to write
    system calls   system_calls.py: no network, no other processes' memory, no namespaces, no kernel modules
    the process    privileges.py: no privileges to gain, no core dumps, bounded memory, ends with its parent

All of this is inherited by the programs that a worker starts, and none of it can be taken back. Landlock and
capabilities belong to a thread and reach the threads that it starts later, never those that exist already; `confine`
must therefore run before any other thread. Seccomp reaches all of them.

Each part that a system does not have is told in a sentence, and the rest holds. Nothing is confined outside Linux.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

FETCHES = (
    "Workers can connect to any machine that this one reaches, because RLM_MCP_FETCH_HOSTS or RLM_MCP_S3_SOURCES lets"
    " them fetch sources: leave both unset, or let a firewall hold the server's user to those hosts."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """The rights that a worker keeps. Paths need not exist yet, except those that it is to write to."""

    data_dir: Path
    cache_dir: Path
    temp_dir: Path
    """This worker's own directory for temporary files; it is started with TMPDIR set to it."""
    roots: tuple[Path, ...] = ()
    """Readable paths besides Python, its packages and the files that programs of the system need."""
    hidden: tuple[Path, ...] = ()
    """Files and directories that are never readable, even below a root: the token file, the settings with keys."""
    fetches: bool = False
    """Whether sources may be fetched from other machines, for which git and obstore connect themselves."""
    memory_bytes: int | None = None
    """The writable memory that the process, and each program that it starts, may map, written or not."""
    parent: int | None = None
    """The process whose end ends the worker; the thread that starts the worker must live as long as that process."""


def confine(policy: Confinement) -> tuple[str, ...]:
    """Confines this process for good. Returns what the system could not provide, as sentences for the log.

    Call it once, before this process has a second thread. Raises OSError if a directory to write to does not exist.
    """
    if sys.platform != "linux":
        return (f"Workers are not confined: {sys.platform} has neither Landlock nor seccomp.",)
    from rlm_mcp.server.workers.file_rules import restrict_files
    from rlm_mcp.server.workers.privileges import drop_privileges
    from rlm_mcp.server.workers.system_calls import restrict_system_calls

    network = (FETCHES,) if policy.fetches else ()
    return (
        *network,
        *drop_privileges(parent=policy.parent, memory_bytes=policy.memory_bytes),
        *restrict_files(
            readable=policy.roots,
            writable=(policy.data_dir, policy.cache_dir, policy.temp_dir),
            hidden=policy.hidden,
            fetches=policy.fetches,
        ),
        *restrict_system_calls(fetches=policy.fetches),
    )

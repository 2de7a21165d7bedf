"""The command and environment with which a client starts this server.

The command is an absolute path, because graphical clients do not have the PATH of a shell.
"""

import os
import re
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shutil import which
from urllib.parse import urlsplit

from rlm_mcp.errors import SettingsError
from rlm_mcp.install.clients import NAME, Entry
from rlm_mcp.settings import PREFIX, SETTINGS, flag_of, load_settings


def own_command(env: Mapping[str, str] | None = None) -> Entry:
    """The entry that starts the rlm-mcp that is running now."""
    folders = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    if sysconfig.get_preferred_scheme("user") in sysconfig.get_scheme_names():
        folders.append(Path(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))))
    command = stable_command(
        executable=Path(sys.executable),
        prefix=Path(sys.prefix),
        folders=folders,
        is_windows=sys.platform == "win32",
        exists=Path.is_file,
        which=which,
    )
    return Entry(command=command[0], args=command[1:], env=env or {})


def remote_entry(url: str | None, token: str | None, *, has_environment: bool) -> Entry:
    """The entry that connects to a server over HTTP. Raises SettingsError."""
    if url is None:
        raise SettingsError("--token is for a server over HTTP: give its --url too")
    if not _is_server_url(url):
        raise SettingsError(f"--url {url!r} is not the URL of a server: write, for example, https://rlm.example/mcp")
    if has_environment:
        raise SettingsError("--url connects to a server that runs already: leave out --env and the flags of settings")
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise SettingsError("--token has a character that no bearer token has: copy the token again")
    return Entry(url=url, headers={} if token is None else {"Authorization": f"Bearer {token}"})


def _is_server_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.username and parts.port != 0
    except ValueError:  # of brackets without an IP address between them, or of the port
        return False


def stable_command(
    *,
    executable: Path,
    prefix: Path,
    folders: Sequence[Path],
    is_windows: bool,
    exists: Callable[[Path], bool],
    which: Callable[[str], str | None],
) -> list[str]:
    """A command that still works after an upgrade.

    The script that pip, pipx and uv put beside the interpreter survives upgrades; links are not resolved, because
    their targets may move. An environment that uvx or `pipx run` created for one run does not last, so there the
    command is `uvx rlm-mcp` or `pipx run rlm-mcp`.
    """
    if (runner := _runner(prefix)) is not None and (found := which(runner[0])) is not None:
        return [found, *runner[1:]]
    name = f"{NAME}.exe" if is_windows else NAME
    for folder in folders:
        if exists(folder / name):
            return [str(folder / name)]
    return [str(executable), "-m", "rlm_mcp.cli"]


def _runner(prefix: Path) -> list[str] | None:
    parts = prefix.parts
    if "uv" in parts and any(part.startswith(("archive-v", "environments-v")) for part in parts):
        return ["uvx", NAME]
    if "pipx" in parts and ".cache" in parts:
        return ["pipx", "run", NAME]
    return None


def server_environment(flags: Mapping[str, str], names: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of an entry: those of the flags, then each NAME=VALUE, or NAME as it is in `environ`.

    Paths are made absolute, because the server starts in another directory. Raises SettingsError for a value that the
    server would refuse.
    """
    found = {PREFIX + name.upper(): _absolute(name, value) for name, value in flags.items()}
    for given in names:
        name, has_value, value = given.partition("=")
        if not has_value and not environ.get(name, "").strip():
            raise SettingsError(f"--env {name}: this variable is not set here: set it, or write --env {name}=VALUE")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise SettingsError(f"--env {name!r} is not the name of a variable: write --env NAME=VALUE")
        found[name] = value if has_value else environ[name]
    load_settings(environ=found, config_file=Path(os.devnull))
    return found


def _absolute(name: str, value: str) -> str:
    """The value of a setting, with absolute paths if it consists of paths."""
    parsed = SETTINGS[name].parse(value, flag_of(name))
    paths = [path for path in (parsed if isinstance(parsed, tuple) else (parsed,)) if isinstance(path, Path)]
    return os.pathsep.join(str(path.absolute()) for path in paths) if paths else value

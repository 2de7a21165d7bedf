"""Reports which MCP clients are on this machine and whether they start the rlm-mcp that is running now."""

from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Literal

from rlm_mcp.errors import ClientConfigError
from rlm_mcp.install.clients import CLIENTS, Client, Entry
from rlm_mcp.install.config_file import find_config_path, read_config
from rlm_mcp.install.entry import find_entry
from rlm_mcp.install.text_edit import NotEditable
from rlm_mcp.install.user_folders import UserFolders

InstallState = Literal["not found", "found", "current", "other", "broken", "unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientState:
    """The state of one client; `detail` explains the last three.

    "not found": the client's folder does not exist; "found": it exists, without an entry for rlm-mcp; "current": the
    entry starts this rlm-mcp; "other": it starts another command; "broken": it starts a command that does not exist;
    "unreadable": the configuration cannot be read.
    """

    client: Client
    path: Path
    state: InstallState
    detail: str = ""


def client_states(folders: UserFolders, own: Entry) -> list[ClientState]:
    """The state of every known client, in the order of `CLIENTS`."""
    return [_state(client, folders, own) for client in CLIENTS]


def _state(client: Client, folders: UserFolders, own: Entry) -> ClientState:
    path = find_config_path(client.config_paths(folders))
    try:
        file = read_config(path)
        entry = client.parse_entry(find_entry(file.text, client))
    except (NotEditable, ClientConfigError) as error:
        return ClientState(client=client, path=path, state="unreadable", detail=_sentence(path, error))
    if entry is None:
        # A file shows that the client is installed; its folder does too, unless that is the user's home.
        is_there = file.content is not None or (path.parent != Path(folders.home) and path.parent.is_dir())
        return ClientState(client=client, path=path, state="found" if is_there else "not found")
    if entry.url:
        return ClientState(client=client, path=path, state="other", detail=f"connects to {entry.url}")
    if (entry.command, list(entry.args)) == (own.command, list(own.args)):
        return ClientState(client=client, path=path, state="current")
    if which(entry.command) is None:
        return ClientState(
            client=client, path=path, state="broken", detail=f"starts {entry.command}, which does not exist"
        )
    return ClientState(client=client, path=path, state="other", detail=f"starts {entry}, which is not this rlm-mcp")


def _sentence(path: Path, error: Exception) -> str:
    return str(error) if isinstance(error, ClientConfigError) else f"{path} {error}"

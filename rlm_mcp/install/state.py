"""Which MCP clients are on this machine, and whether they would start the server that is running now."""

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
    """One client. `detail` says more where the state does not say all.

    "not found": its folder is not there; "found": it is, and does not know rlm-mcp; "current": starts this rlm-mcp;
    "other": starts another one; "broken": starts a command that is not there; "unreadable": the file is not understood.
    """

    client: Client
    path: Path
    state: InstallState
    detail: str = ""


def client_states(place: UserFolders, own: Entry) -> list[ClientState]:
    """All clients that are known, in their order."""
    return [_state(client, place, own) for client in CLIENTS]


def _state(client: Client, place: UserFolders, own: Entry) -> ClientState:
    path = find_config_path(client.config_paths(place))
    try:
        file = read_config(path)
        entry = client.parse_entry(find_entry(file.text, client))
    except (NotEditable, ClientConfigError) as error:
        return ClientState(client=client, path=path, state="unreadable", detail=_sentence(path, error))
    if entry is None:
        # A folder such as the user's home says nothing of the client; a file does.
        is_there = file.content is not None or (path.parent != Path(place.home) and path.parent.is_dir())
        return ClientState(client=client, path=path, state="found" if is_there else "not found")
    if (entry.command, list(entry.args)) == (own.command, list(own.args)):
        return ClientState(client=client, path=path, state="current")
    if which(entry.command) is None:
        return ClientState(
            client=client, path=path, state="broken", detail=f"starts {entry.command}, which is not there"
        )
    command = " ".join([entry.command, *entry.args])
    return ClientState(client=client, path=path, state="other", detail=f"starts {command}, which is not this rlm-mcp")


def _sentence(path: Path, error: Exception) -> str:
    return str(error) if isinstance(error, ClientConfigError) else f"{path} {error}"

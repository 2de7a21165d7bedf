"""Which MCP clients are on this machine, and whether they would start the server that is running now."""

from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Literal

from rlm_mcp.errors import ClientConfigError
from rlm_mcp.install.clients import CLIENTS, Client, Entry
from rlm_mcp.install.config_file import locate, read_config
from rlm_mcp.install.entry import entry_in
from rlm_mcp.install.places import Place
from rlm_mcp.install.text_edit import NotEditable

State = Literal["not found", "found", "current", "other", "broken", "unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientState:
    """One client. `detail` says more where the state does not say all.

    "not found": its folder is not there; "found": it is, and does not know rlm-mcp; "current": starts this rlm-mcp;
    "other": starts another one; "broken": starts a command that is not there; "unreadable": the file is not understood.
    """

    client: Client
    path: Path
    state: State
    detail: str = ""


def client_states(place: Place, own: Entry) -> list[ClientState]:
    """All clients that are known, in their order."""
    return [_state(client, place, own) for client in CLIENTS]


def _state(client: Client, place: Place, own: Entry) -> ClientState:
    path = locate(client.places(place))
    try:
        file = read_config(path)
        entry = client.command_of(entry_in(file.text, client))
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

"""Links that add this server to a client with one click, made of the same entry as its configuration.

Each has two forms: the client's own scheme, and a page on the web that leads there, for places such as GitHub that
let only web links through.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from rlm_mcp.clients.known import DESCRIPTION, NAME, Entry, usual_shape

# Fetches and starts the newest release; whoever clicks has not installed anything.
PUBLISHED = Entry(command="uvx", args=(NAME,))


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallLink:
    """The links for one client. `web` is empty where there is no such page."""

    title: str
    app: str
    web: str = ""


def install_links(entry: Entry = PUBLISHED) -> Sequence[InstallLink]:
    """The links for every client that has them."""
    shape = usual_shape(entry)
    packed = urlencode({"name": NAME, "config": b64encode(_json(shape)).decode()})
    open_ = urlencode({"name": NAME, "config": _json(shape).decode()}, quote_via=quote)
    named = quote(_json({"name": NAME} | shape), safe="")
    arguments = [("cmd", entry.command), *(("arg", arg) for arg in entry.args)]
    about = [("id", NAME), ("name", NAME), ("description", DESCRIPTION)]
    return (
        InstallLink(
            title="Cursor",
            app=f"cursor://anysphere.cursor-deeplink/mcp/install?{packed}",
            web=f"https://cursor.com/en/install-mcp?{packed}",
        ),
        InstallLink(
            title="VS Code", app=f"vscode:mcp/install?{named}", web=f"https://vscode.dev/redirect/mcp/install?{open_}"
        ),
        InstallLink(
            title="VS Code Insiders",
            app=f"vscode-insiders:mcp/install?{named}",
            web=f"https://insiders.vscode.dev/redirect/mcp/install?{open_}&quality=insiders",
        ),
        InstallLink(
            title="LM Studio", app=f"lmstudio://add_mcp?{packed}", web=f"https://lmstudio.ai/install-mcp?{packed}"
        ),
        InstallLink(title="Goose", app=f"goose://extension?{urlencode([*arguments, *about], quote_via=quote)}"),
    )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

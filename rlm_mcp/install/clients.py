"""The MCP clients that `rlm-mcp install` knows: where each keeps its configuration, in which form, within which limits.

The facts are those of the clients' own documentation, which is named with each, looked up in November 2026;
docs/clients.md says more. Time limits are set where a client lets a server set them: the first start on a machine
compiles the sandbox (up to 12 s), and a call waits 45 s for a run unless the model asks for longer.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Literal

from rlm_mcp.errors import UnknownClient
from rlm_mcp.install.user_folders import UserFolders

NAME = "rlm-mcp"
DESCRIPTION = "Answers questions over inputs far larger than a context window"
START_SECONDS = 60
CALL_SECONDS = 300

Format = Literal["json", "jsonc", "toml", "yaml"]
"""jsonc is JSON with comments and trailing commas"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """How a client is to start this server."""

    command: str
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


EntryBuilder = Callable[[Entry], dict[str, Any]]


def standard_entry(entry: Entry) -> dict[str, Any]:
    """The form that most clients take."""
    return {"command": entry.command, "args": list(entry.args)} | ({"env": dict(entry.env)} if entry.env else {})


def _goose_entry(entry: Entry) -> dict[str, Any]:
    first = {"enabled": True, "type": "stdio", "name": NAME, "description": DESCRIPTION}
    return first | {"cmd": entry.command, "args": list(entry.args), "envs": dict(entry.env)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client. Of its `files` the first whose folder exists counts, else the last; `windows` are those of Windows.

    `home` is a variable that moves its configuration, with the file's name there. `container` is the path of the
    object that holds the servers.
    """

    name: str
    title: str
    files: Sequence[str]
    windows: Sequence[str] = ()
    home: tuple[str, str] | None = None
    project: str = ""
    format: Format = "jsonc"
    container: Sequence[str] = ("mcpServers",)
    build_entry: EntryBuilder = standard_entry
    limits: Mapping[str, Any] = field(default_factory=dict)
    command_key: str = "command"
    env_key: str = "env"
    aliases: Sequence[str] = ()
    remark: str = ""

    @property
    def path(self) -> tuple[str, ...]:
        """Where in the file this server's entry stands."""
        return (*self.container, NAME)

    def config_paths(self, place: UserFolders) -> list[PurePath]:
        """Where its configuration may be, the likeliest last; a `*` stands for a part that differs."""
        moved = place.variable(self.home[0]) if self.home else None
        if self.home and moved is not None:
            return [moved.joinpath(self.home[1])]
        templates = (self.windows or self.files) if place.is_windows else self.files
        return [place.path(template) for template in templates]

    def new_entry(self, entry: Entry) -> dict[str, Any]:
        """The entry in this client's form, with the limits that it lets a server have."""
        return self.build_entry(entry) | dict(self.limits)

    def merge_entry(self, old: Any, entry: Entry) -> dict[str, Any]:
        """What to write where `old` stands: the user's own additions and limits are kept, the command is ours."""
        new_entry = self.new_entry(entry)
        if not isinstance(old, dict):
            return new_entry
        new = {**new_entry, **old} | {self.command_key: new_entry[self.command_key], "args": new_entry["args"]}
        if not new_entry["args"] and "args" not in old:
            del new["args"]  # clients that write the entry anew leave out what is empty
        env = old.get(self.env_key)
        if entry.env and isinstance(env, dict):
            new[self.env_key] = env | dict(entry.env)
        elif entry.env:
            new[self.env_key] = dict(entry.env)
        # In the order that it has, so that an entry that says the same stays the same text.
        return {key: new[key] for key in [*old, *(key for key in new_entry if key not in old)] if key in new}

    def parse_entry(self, entry: Any) -> Entry | None:
        """What an entry in this client's form starts; None where it starts no command."""
        if not isinstance(entry, dict) or not isinstance(entry.get(self.command_key), str):
            return None
        args, env = entry.get("args"), entry.get(self.env_key)
        return Entry(
            command=entry[self.command_key],
            args=tuple(map(str, args)) if isinstance(args, list) else (),
            env={str(k): str(v) for k, v in env.items()} if isinstance(env, dict) else {},
        )


def _typed_entry(entry: Entry) -> dict[str, Any]:
    return {"type": "stdio"} | standard_entry(entry)


_VSCODE = Client(
    # MCP configuration reference (code.visualstudio.com)
    name="vscode",
    title="VS Code",
    files=("{appdata}/Code/User/mcp.json",),
    project=".vscode/mcp.json",
    container=("servers",),
    build_entry=_typed_entry,
    aliases=("code", "visual-studio-code", "copilot"),
    remark="Start the server from the line above its entry, or with the command MCP: List Servers.",
)

CLIENTS: Sequence[Client] = (
    Client(
        # Connect to local MCP servers (modelcontextprotocol.io); its MSIX folder: claude-code#26073
        name="claude-desktop",
        title="Claude Desktop",
        files=("{appdata}/Claude/claude_desktop_config.json",),
        windows=(
            "{localappdata}/Packages/Claude_*/LocalCache/Roaming/Claude/claude_desktop_config.json",
            "{appdata}/Claude/claude_desktop_config.json",
        ),
        format="json",
        aliases=("claude-app",),
        remark="Quit Claude Desktop and start it again. It ends a call after about a minute.",
    ),
    Client(
        # Connect Claude Code to tools via MCP (code.claude.com)
        name="claude-code",
        title="Claude Code",
        files=("{home}/.claude.json",),
        home=("CLAUDE_CONFIG_DIR", ".claude.json"),
        project=".mcp.json",
        format="json",
        build_entry=_typed_entry,
        remark="Sessions that are open write this file too: start new ones. MCP_TOOL_TIMEOUT (ms) bounds its calls.",
    ),
    Client(
        # Model Context Protocol (cursor.com/docs)
        name="cursor",
        title="Cursor",
        files=("{home}/.cursor/mcp.json",),
        project=".cursor/mcp.json",
        remark="Cursor sees the change by itself; switch the server on under Settings, MCP.",
    ),
    _VSCODE,
    replace(
        _VSCODE,
        name="vscode-insiders",
        title="VS Code Insiders",
        files=("{appdata}/Code - Insiders/User/mcp.json",),
        aliases=("code-insiders",),
    ),
    Client(
        # Cascade MCP Integration (docs.windsurf.com)
        name="windsurf",
        title="Windsurf",
        files=("{home}/.codeium/windsurf/mcp_config.json",),
        remark="Press the refresh button of Cascade's MCP panel.",
    ),
    Client(
        # Model Context Protocol (zed.dev/docs); ContextServerCommand in its settings
        name="zed",
        title="Zed",
        files=("{config}/zed/settings.json",),
        windows=("{appdata}/Zed/settings.json",),
        project=".zed/settings.json",
        container=("context_servers",),
        limits={"timeout": CALL_SECONDS},
        remark="Zed sees the change by itself.",
    ),
    Client(
        # Model Context Protocol (developers.openai.com/codex)
        name="codex",
        title="Codex",
        files=("{home}/.codex/config.toml",),
        home=("CODEX_HOME", "config.toml"),
        project=".codex/config.toml",
        format="toml",
        container=("mcp_servers",),
        limits={"startup_timeout_sec": START_SECONDS, "tool_timeout_sec": CALL_SECONDS},
        aliases=("codex-cli",),
        remark="Start Codex again; /mcp lists the server.",
    ),
    Client(
        # MCP servers with Gemini CLI (geminicli.com/docs)
        name="gemini-cli",
        title="Gemini CLI",
        files=("{home}/.gemini/settings.json",),
        project=".gemini/settings.json",
        limits={"timeout": CALL_SECONDS * 1000},
        aliases=("gemini",),
        remark="Start Gemini CLI again; /mcp lists the server.",
    ),
    Client(
        # Use MCP Servers (lmstudio.ai/docs)
        name="lm-studio",
        title="LM Studio",
        files=("{home}/.lmstudio/mcp.json",),
        remark="LM Studio sees the change by itself. It ends a call after a minute.",
    ),
    Client(
        # Configuration Files (goose-docs.ai)
        name="goose",
        title="Goose",
        files=("{config}/goose/config.yaml",),
        windows=("{appdata}/Block/goose/config/config.yaml",),
        format="yaml",
        container=("extensions",),
        build_entry=_goose_entry,
        limits={"timeout": CALL_SECONDS},
        command_key="cmd",
        env_key="envs",
        remark="New sessions have it.",
    ),
)


def find_client(name: str) -> Client:
    """The client of this name, however it is written. Raises UnknownClient, which names the nearest."""
    names = {_plain(alias): client for client in CLIENTS for alias in (client.name, client.title, *client.aliases)}
    if (found := names.get(_plain(name))) is not None:
        return found
    near = dict.fromkeys(names[close].name for close in get_close_matches(_plain(name), names, n=4, cutoff=0.5))
    near |= dict.fromkeys(client.name for key, client in names.items() if len(_plain(name)) > 2 and _plain(name) in key)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it knows {', '.join(c.name for c in CLIENTS)}"
    raise UnknownClient(f"{name!r} is no client that rlm-mcp knows: {hint} (for any other, rlm-mcp install --print)")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

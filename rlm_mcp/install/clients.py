"""The MCP clients that `rlm-mcp install` knows: the file, format and limits of each client's configuration.

The facts come from each client's own documentation, named at its entry and last checked in November 2026;
docs/clients.md has more. Time limits are set where a client allows it: the first start on a machine compiles the
sandbox (up to 12 s), and a call waits 45 s for a run unless the model asks for longer.
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
"""The format of a configuration file; "jsonc" is JSON with comments and trailing commas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The command, arguments and environment with which a client starts this server."""

    command: str
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


EntryBuilder = Callable[[Entry], dict[str, Any]]


def standard_entry(entry: Entry) -> dict[str, Any]:
    """The entry in the form that most clients use."""
    return {"command": entry.command, "args": list(entry.args)} | ({"env": dict(entry.env)} if entry.env else {})


def _goose_entry(entry: Entry) -> dict[str, Any]:
    about = {"enabled": True, "type": "stdio", "name": NAME, "description": DESCRIPTION}
    return about | {"cmd": entry.command, "args": list(entry.args), "envs": dict(entry.env)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client. The first of `files` whose folder exists is its configuration, otherwise the last.

    `windows` replaces `files` on Windows. `home` is an environment variable that names another folder, and the name
    of the file in it. `container` is the path of the object that holds the servers.
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
        """The path of this server's entry in the configuration."""
        return (*self.container, NAME)

    def config_paths(self, folders: UserFolders) -> list[PurePath]:
        """The paths at which the configuration may be, the default last; a `*` stands for any name."""
        moved = folders.variable(self.home[0]) if self.home else None
        if self.home and moved is not None:
            return [moved.joinpath(self.home[1])]
        templates = (self.windows or self.files) if folders.is_windows else self.files
        return [folders.path(template) for template in templates]

    def new_entry(self, entry: Entry) -> dict[str, Any]:
        """The entry in this client's form, with the time limits that the client supports."""
        return self.build_entry(entry) | dict(self.limits)

    def merge_entry(self, old: Any, entry: Entry) -> dict[str, Any]:
        """The entry that replaces `old`: what the user added to it and its limits are kept, the command is set."""
        fresh = self.new_entry(entry)
        if not isinstance(old, dict):
            return fresh
        new = {**fresh, **old} | {self.command_key: fresh[self.command_key], "args": fresh["args"]}
        if not fresh["args"] and "args" not in old:
            del new["args"]  # clients that rewrite the entry leave out empty values
        env = old.get(self.env_key)
        if entry.env and isinstance(env, dict):
            new[self.env_key] = env | dict(entry.env)
        elif entry.env:
            new[self.env_key] = dict(entry.env)
        # The order of the old entry is kept, so that an entry with the same values keeps its text.
        return {key: new[key] for key in [*old, *(key for key in fresh if key not in old)] if key in new}

    def parse_entry(self, entry: Any) -> Entry | None:
        """The command that an entry in this client's form starts, or None if it starts none."""
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
        # Connect to local MCP servers (modelcontextprotocol.io); the folder of its MSIX package: claude-code#26073
        name="claude-desktop",
        title="Claude Desktop",
        files=("{appdata}/Claude/claude_desktop_config.json",),
        windows=(
            "{localappdata}/Packages/Claude_*/LocalCache/Roaming/Claude/claude_desktop_config.json",
            "{appdata}/Claude/claude_desktop_config.json",
        ),
        format="json",
        aliases=("claude-app",),
        remark="Quit Claude Desktop and start it again. It cancels a call after about a minute.",
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
        remark="Open sessions also write this file: start new ones. MCP_TOOL_TIMEOUT (in ms) limits a call.",
    ),
    Client(
        # Model Context Protocol (cursor.com/docs)
        name="cursor",
        title="Cursor",
        files=("{home}/.cursor/mcp.json",),
        project=".cursor/mcp.json",
        remark="Cursor notices the change; switch the server on under Settings, MCP.",
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
        remark="Zed notices the change.",
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
        remark="LM Studio notices the change. It cancels a call after a minute.",
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
        remark="Start a new session to use the server.",
    ),
)


def find_client(name: str) -> Client:
    """The client of this name; case and punctuation are ignored. Raises UnknownClient, which suggests names."""
    names = {_plain(alias): client for client in CLIENTS for alias in (client.name, client.title, *client.aliases)}
    if (found := names.get(_plain(name))) is not None:
        return found
    near = dict.fromkeys(names[close].name for close in get_close_matches(_plain(name), names, n=4, cutoff=0.5))
    near |= dict.fromkeys(client.name for key, client in names.items() if len(_plain(name)) > 2 and _plain(name) in key)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it knows {', '.join(c.name for c in CLIENTS)}."
    raise UnknownClient(
        f"rlm-mcp does not know the client {name!r}: {hint} For any other client, add what `rlm-mcp install --print`"
        " shows to its configuration."
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

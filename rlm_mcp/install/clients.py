"""The MCP clients that `rlm-mcp install` knows: the file, format and limits of each client's configuration.

The facts come from each client's own documentation, named at its entry, or from what the client itself writes, last
checked in November 2026; docs/clients.md has more. Time limits are set where a client allows it: the first start on a
machine compiles the sandbox (up to 12 s), and a call waits 45 s for a run unless the model asks for longer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Literal

from rlm_mcp.errors import ClientConfigError, UnknownClient
from rlm_mcp.install.user_folders import UserFolders

NAME = "rlm-mcp"
DESCRIPTION = "Answers questions over inputs far larger than a context window"
START_SECONDS = 60
CALL_SECONDS = 300
WAIT_VARIABLE, WAIT_SECONDS = "RLM_MCP_LONGEST_WAIT", CALL_SECONDS - 10
"""Tells the server how long a call may wait where this file sets the limit."""

Format = Literal["json", "jsonc", "toml", "yaml", "yaml list"]
"""The format of a configuration file; "jsonc" is JSON with comments and trailing commas. In a "yaml list" the servers
are the items of a list, each with its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The command, arguments and environment with which a client starts this server, or the URL of one over HTTP."""

    command: str = ""
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.url or " ".join([self.command, *self.args])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a client writes an entry: the names of its keys, and the keys that mark a command or a URL.

    Where `args` is empty, the command is a list that begins with the program. `inside` is the object in the entry that
    has all this; `always` are further keys of the entry. A `url` that is empty cannot be written; a dot in `headers`
    leads into an object.
    """

    local: Mapping[str, Any] = field(default_factory=dict)
    remote: Mapping[str, Any] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    inside: str = ""
    command: str = "command"
    args: str = "args"
    env: str = "env"
    url: str = "url"
    headers: str = "headers"

    def build(self, entry: Entry) -> dict[str, Any]:
        """The entry as the client writes it."""
        inner = self._remote(entry) if entry.url else self._local(entry)
        return {**self.always, **({self.inside: inner} if self.inside else inner)}

    def _local(self, entry: Entry) -> dict[str, Any]:
        command: dict[str, Any] = {self.command: entry.command, self.args: list(entry.args)}
        if not self.args:
            command = {self.command: [entry.command, *entry.args]}
        return {**self.local, **command} | ({self.env: dict(entry.env)} if entry.env else {})

    def _remote(self, entry: Entry) -> dict[str, Any]:
        headers: Any = dict(entry.headers)
        for name in reversed(self.headers.split(".")):
            headers = {name: headers}
        return {**self.remote, self.url: entry.url, **(headers if entry.headers else {})}

    def merge(self, old: Any, fresh: Mapping[str, Any]) -> dict[str, Any]:
        """A fresh entry with what the user added to the old one, and in the order of the old one."""
        if not isinstance(old, dict):
            return dict(fresh)
        if self.inside:
            inner = self._merged(old.get(self.inside), fresh[self.inside])
            return _ordered(old, {**fresh, **old, self.inside: inner})
        return self._merged(old, fresh)

    def _merged(self, old: Any, fresh: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(old, dict):
            return dict(fresh)
        headers = self.headers.split(".")[0]
        marks = {*self.local, *self.remote, self.command, self.args, self.url, headers} - {""}
        new = {**fresh, **old} | {name: fresh[name] for name in marks if name in fresh}
        if self.url in fresh:
            marks |= {self.env}
        gone = {name for name in marks if name in new and name not in fresh}
        if fresh.get(self.args) == [] and self.args not in old:
            gone |= {self.args}  # clients that rewrite the entry leave out empty values
        env = old.get(self.env)
        if self.env in fresh:
            new[self.env] = env | fresh[self.env] if isinstance(env, dict) else fresh[self.env]
        return _ordered(old, {name: part for name, part in new.items() if name not in gone})

    def parse(self, written: Any) -> Entry | None:
        """The command or address of an entry, or None if it has neither."""
        inner = written.get(self.inside) if self.inside and isinstance(written, dict) else written
        if not isinstance(inner, dict):
            return None
        if isinstance(url := inner.get(self.url), str):
            headers: Any = inner
            for name in self.headers.split("."):
                headers = headers.get(name) if isinstance(headers, dict) else None
            return Entry(url=url, headers=_texts(headers))
        command = inner.get(self.command)
        args = inner.get(self.args)
        if not self.args and isinstance(command, list) and command:
            command, args = command[0], command[1:]
        if not isinstance(command, str):
            return None
        words = tuple(map(str, args)) if isinstance(args, list) else ()
        return Entry(command=command, args=words, env=_texts(inner.get(self.env)))


def _ordered(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new entry in the order of the old one, so that an entry with the same values keeps its text."""
    return {key: new[key] for key in [*old, *(key for key in new if key not in old)] if key in new}


def _texts(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, dict) else {}


STANDARD = Shape()
_TYPED = Shape(local={"type": "stdio"}, remote={"type": "http"})
_OPENCODE = Shape(
    local={"type": "local"}, remote={"type": "remote"}, always={"enabled": True}, args="", env="environment"
)


def standard_entry(entry: Entry) -> dict[str, Any]:
    """The entry in the form that most clients use."""
    return STANDARD.build(entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client. The first of `files` whose folder exists is its configuration, otherwise the last.

    `windows` replaces `files` on Windows. `home` is an environment variable that names another folder, and the name
    of the file in it. `container` is the path of the object that holds the servers. `remark` is said after a change,
    `trust` after one in a project's file, which most clients ignore until their user trusts the project. A new file
    begins with `preamble`.
    """

    name: str
    title: str
    files: Sequence[str]
    windows: Sequence[str] = ()
    home: tuple[str, str] | None = None
    project: str = ""
    format: Format = "jsonc"
    container: Sequence[str] = ("mcpServers",)
    shape: Shape = STANDARD
    limits: Mapping[str, Any] = field(default_factory=dict)
    limits_calls: bool = False
    aliases: Sequence[str] = ()
    remark: str = ""
    trust: str = ""
    preamble: str = ""

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
        """The entry in this client's form, with the time limits that the client supports.

        Raises ClientConfigError for a URL where the client takes none.
        """
        if entry.url and not self.shape.url:
            raise ClientConfigError(
                f"{self.title} takes no URL in its configuration: install without --url, which starts rlm-mcp itself, "
                "or add the URL in the program"
            )
        return self.shape.build(entry) | dict(self.limits)

    def merge_entry(self, old: Any, entry: Entry) -> dict[str, Any]:
        """The entry that replaces `old`: what the user added to it and its limits are kept, the command is set."""
        return self.shape.merge(old, self.new_entry(entry))

    def parse_entry(self, entry: Any) -> Entry | None:
        """The command or address of an entry in this client's form, or None if it has neither."""
        return self.shape.parse(entry)


_VSCODE = Client(
    # MCP configuration reference (code.visualstudio.com)
    name="vscode",
    title="VS Code",
    files=("{appdata}/Code/User/mcp.json",),
    project=".vscode/mcp.json",
    container=("servers",),
    shape=_TYPED,
    aliases=("code", "visual-studio-code", "github-copilot"),
    remark="Start the server from the line above its entry, or with the command MCP: List Servers.",
    trust="VS Code asks whether you trust the server when it starts it.",
)

_EXTENSIONS = "{appdata}/Code/User/globalStorage"

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
        shape=Shape(url=""),
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
        shape=_TYPED,
        remark="Open sessions also write this file: start new ones. MCP_TOOL_TIMEOUT (in ms) limits a call.",
        trust="Run `claude` once in the project and approve the server; until then it is pending, for `claude -p` too.",
    ),
    Client(
        # Model Context Protocol (cursor.com/docs)
        name="cursor",
        title="Cursor",
        files=("{home}/.cursor/mcp.json",),
        project=".cursor/mcp.json",
        remark="Cursor notices the change; switch the server on under Settings, MCP.",
        trust="Cursor asks you to approve the servers of a project.",
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
        shape=Shape(url="serverUrl"),
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
        limits_calls=True,
        remark="Zed notices the change.",
        trust="Zed starts the servers of a project once you trust the project.",
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
        shape=Shape(headers="http_headers"),
        limits={"startup_timeout_sec": START_SECONDS, "tool_timeout_sec": CALL_SECONDS},
        limits_calls=True,
        aliases=("codex-cli",),
        remark="Start Codex again; /mcp lists the server.",
        trust="Codex reads it once you trust the project: accept it when `codex` asks, or run `codex exec --trust`.",
    ),
    Client(
        # MCP servers with Gemini CLI (geminicli.com/docs)
        name="gemini-cli",
        title="Gemini CLI",
        files=("{home}/.gemini/settings.json",),
        project=".gemini/settings.json",
        shape=Shape(remote={"type": "http"}),
        limits={"timeout": CALL_SECONDS * 1000},
        limits_calls=True,
        aliases=("gemini",),
        remark="Start Gemini CLI again in a folder that you trust (/permissions trust); /mcp lists the server.",
        trust="Gemini CLI starts no servers in a folder that you do not trust: /permissions trust.",
    ),
    Client(
        # what `qwen mcp add` writes
        name="qwen-code",
        title="Qwen Code",
        files=("{home}/.qwen/settings.json",),
        project=".qwen/settings.json",
        shape=Shape(url="httpUrl"),
        limits={"timeout": CALL_SECONDS * 1000},
        limits_calls=True,
        aliases=("qwen",),
        remark="Start Qwen Code again; /mcp lists the server.",
        trust="Qwen Code asks you to approve the servers of a project: `qwen mcp approve rlm-mcp`.",
    ),
    Client(
        # what `copilot mcp add` writes
        name="copilot-cli",
        title="Copilot CLI",
        files=("{home}/.copilot/mcp-config.json",),
        home=("COPILOT_HOME", "mcp-config.json"),
        project=".github/mcp.json",
        shape=Shape(local={"type": "local"}, remote={"type": "http"}, always={"tools": ["*"]}),
        limits={"timeout": CALL_SECONDS * 1000},
        limits_calls=True,
        aliases=("copilot", "github-copilot-cli"),
        remark="Start Copilot CLI again; `copilot mcp list` lists the server.",
        trust="Copilot CLI reads it once you trust the folder, which it asks when it starts there.",
    ),
    Client(
        # MCP servers (opencode.ai/docs)
        name="opencode",
        title="opencode",
        files=("{config}/opencode/opencode.json",),
        project="opencode.json",
        container=("mcp",),
        shape=_OPENCODE,
        limits={"timeout": CALL_SECONDS * 1000},
        limits_calls=True,
        remark="Start opencode again; `opencode mcp list` lists the server.",
    ),
    Client(
        # Using MCP in Kilo Code (kilo.ai/docs)
        name="kilo-code",
        title="Kilo Code",
        files=("{config}/kilo/kilo.jsonc",),
        project=".kilo/kilo.jsonc",
        container=("mcp",),
        shape=_OPENCODE,
        limits={"timeout": CALL_SECONDS * 1000},
        limits_calls=True,
        aliases=("kilo",),
        remark="Restart Kilo Code; its settings list the server under Agent Behaviour, MCP Servers.",
    ),
    Client(
        # what `cline mcp install` writes
        name="cline",
        title="Cline",
        files=("{home}/.cline/data/settings/cline_mcp_settings.json",),
        shape=Shape(local={"type": "stdio"}, remote={"type": "streamableHttp"}, inside="transport"),
        aliases=("cline-cli",),
        remark="Cline notices the change.",
    ),
    Client(
        # Configuring MCP servers (docs.cline.bot); the extension of VS Code
        name="cline-vscode",
        title="Cline in VS Code",
        files=(f"{_EXTENSIONS}/saoudrizwan.claude-dev/settings/cline_mcp_settings.json",),
        shape=Shape(remote={"type": "streamableHttp"}),
        limits={"timeout": CALL_SECONDS},
        limits_calls=True,
        remark="Cline notices the change; its panel MCP Servers shows the server.",
    ),
    Client(
        # Using MCP in Roo Code (docs.roocode.com)
        name="roo-code",
        title="Roo Code",
        files=(f"{_EXTENSIONS}/rooveterinaryinc.roo-cline/settings/mcp_settings.json",),
        project=".roo/mcp.json",
        shape=Shape(remote={"type": "streamable-http"}),
        limits={"timeout": CALL_SECONDS},
        limits_calls=True,
        aliases=("roo", "roo-cline"),
        remark="Roo Code notices the change; approve its calls in the chat.",
    ),
    Client(
        # config.yaml reference (docs.continue.dev)
        name="continue",
        title="Continue",
        files=("{home}/.continue/config.yaml",),
        format="yaml list",
        preamble="name: Local Assistant\nversion: 1.0.0\nschema: v1\n",  # it refuses a file without them
        shape=Shape(always={"name": NAME}, remote={"type": "streamable-http"}, headers="requestOptions.headers"),
        aliases=("continue-cli", "continue-dev", "cn"),
        remark="Start Continue again, in its agent mode. It cancels a call after a minute.",
    ),
    Client(
        # MCP configuration (kiro.dev/docs)
        name="kiro",
        title="Kiro",
        files=("{home}/.kiro/settings/mcp.json",),
        project=".kiro/settings/mcp.json",
        aliases=("kiro-cli", "amazon-q"),
        remark="Kiro notices the change; its MCP panel shows the server.",
        trust="Kiro asks before it calls a tool that is not in autoApprove.",
    ),
    Client(
        # what `amp mcp add` writes
        name="amp",
        title="Amp",
        files=("{config}/amp/settings.json",),
        project=".amp/settings.json",
        container=("amp.mcpServers",),
        aliases=("ampcode", "sourcegraph-amp"),
        remark="Start Amp again; `amp mcp list` lists the server.",
        trust="Amp waits for your approval: `amp mcp approve rlm-mcp`.",
    ),
    Client(
        # docs/config of github.com/charmbracelet/crush
        name="crush",
        title="Crush",
        files=("{config}/crush/crush.json",),
        windows=("{home}/.config/crush/crush.json",),
        project="crush.json",
        container=("mcp",),
        shape=_TYPED,
        limits={"timeout": CALL_SECONDS},
        limits_calls=True,
        remark="Start Crush again.",
    ),
    Client(
        # Model Context Protocol (junie.jetbrains.com/docs)
        name="junie",
        title="Junie of JetBrains",
        files=("{home}/.junie/mcp/mcp.json",),
        project=".junie/mcp/mcp.json",
        aliases=("jetbrains", "jetbrains-junie", "intellij", "pycharm"),
        remark="Restart the IDE. Its AI Assistant has its own list: Settings, Tools, AI Assistant, MCP, Add, as JSON.",
        trust="Junie asks before it calls a tool.",
    ),
    Client(
        # MCP integration (antigravity.google/docs); the IDE and the CLI share this file
        name="antigravity",
        title="Antigravity",
        files=("{home}/.gemini/config/mcp_config.json",),
        shape=Shape(url="serverUrl"),
        aliases=("agy", "google-antigravity"),
        remark="Press Refresh under Manage MCP Servers, or start `agy` again.",
    ),
    Client(
        # Model Context Protocol (docs.warp.dev)
        name="warp",
        title="Warp",
        files=("{home}/.warp/.mcp.json",),
        project=".warp/.mcp.json",
        remark="Switch the server on under Settings, Agents, MCP servers.",
        trust="Warp starts the servers of a project once you switch them on.",
    ),
    Client(
        # Model Context Protocol (docs.factory.ai)
        name="factory",
        title="Factory Droid",
        files=("{home}/.factory/mcp.json",),
        project=".factory/mcp.json",
        shape=_TYPED,
        aliases=("droid", "factory-droid"),
        remark="Droid notices the change; /mcp lists the server.",
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
        shape=Shape(
            local={"type": "stdio"},
            remote={"type": "streamable_http"},
            always={"enabled": True, "name": NAME, "description": DESCRIPTION},
            command="cmd",
            env="envs",
            url="uri",
        ),
        limits={"timeout": CALL_SECONDS},
        limits_calls=True,
        remark="Start a new session to use the server.",
    ),
)


def find_client(name: str) -> Client:
    """The client of this name; case and punctuation are ignored. Raises UnknownClient, which suggests names."""
    names = {_plain(alias): client for client in CLIENTS for alias in (client.name, client.title, *client.aliases)}
    if (found := names.get(_plain(name))) is not None:
        return found
    near = dict.fromkeys(names[close].name for close in get_close_matches(_plain(name), names, n=4, cutoff=0.7))
    near |= dict.fromkeys(client.name for key, client in names.items() if len(_plain(name)) > 2 and _plain(name) in key)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it knows {', '.join(c.name for c in CLIENTS)}."
    raise UnknownClient(
        f"rlm-mcp does not know the client {name!r}: {hint} For any other client, add what `rlm-mcp install --print`"
        " shows to its configuration."
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pytest

from rlm_mcp.errors import ClientConfigError, UnknownClient
from rlm_mcp.install.clients import CLIENTS, Client, Entry, find_client
from rlm_mcp.install.entry import find_entry, remove_entry, set_entry
from rlm_mcp.install.user_folders import UserFolders

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "clients.md"

LINUX = UserFolders(platform="linux", home=PurePosixPath("/home/u"))
MAC = UserFolders(platform="darwin", home=PurePosixPath("/Users/u"), variables={"XDG_CONFIG_HOME": "/elsewhere"})
WINDOWS = UserFolders(
    platform="win32",
    home=PureWindowsPath("C:\\Users\\u"),
    variables={"APPDATA": "C:\\Users\\u\\AppData\\Roaming", "LOCALAPPDATA": "D:\\Local"},
)

PATHS = {
    "claude-desktop": (
        "/home/u/.config/Claude/claude_desktop_config.json",
        "/Users/u/Library/Application Support/Claude/claude_desktop_config.json",
        "C:/Users/u/AppData/Roaming/Claude/claude_desktop_config.json",
    ),
    "claude-code": ("/home/u/.claude.json", "/Users/u/.claude.json", "C:/Users/u/.claude.json"),
    "cursor": ("/home/u/.cursor/mcp.json", "/Users/u/.cursor/mcp.json", "C:/Users/u/.cursor/mcp.json"),
    "vscode": (
        "/home/u/.config/Code/User/mcp.json",
        "/Users/u/Library/Application Support/Code/User/mcp.json",
        "C:/Users/u/AppData/Roaming/Code/User/mcp.json",
    ),
    "vscode-insiders": (
        "/home/u/.config/Code - Insiders/User/mcp.json",
        "/Users/u/Library/Application Support/Code - Insiders/User/mcp.json",
        "C:/Users/u/AppData/Roaming/Code - Insiders/User/mcp.json",
    ),
    "windsurf": (
        "/home/u/.codeium/windsurf/mcp_config.json",
        "/Users/u/.codeium/windsurf/mcp_config.json",
        "C:/Users/u/.codeium/windsurf/mcp_config.json",
    ),
    "zed": (
        "/home/u/.config/zed/settings.json",
        "/Users/u/.config/zed/settings.json",
        "C:/Users/u/AppData/Roaming/Zed/settings.json",
    ),
    "codex": ("/home/u/.codex/config.toml", "/Users/u/.codex/config.toml", "C:/Users/u/.codex/config.toml"),
    "gemini-cli": (
        "/home/u/.gemini/settings.json",
        "/Users/u/.gemini/settings.json",
        "C:/Users/u/.gemini/settings.json",
    ),
    "lm-studio": ("/home/u/.lmstudio/mcp.json", "/Users/u/.lmstudio/mcp.json", "C:/Users/u/.lmstudio/mcp.json"),
    "goose": (
        "/home/u/.config/goose/config.yaml",
        "/Users/u/.config/goose/config.yaml",
        "C:/Users/u/AppData/Roaming/Block/goose/config/config.yaml",
    ),
}


IN_HOME = {
    "qwen-code": ".qwen/settings.json",
    "copilot-cli": ".copilot/mcp-config.json",
    "cline": ".cline/data/settings/cline_mcp_settings.json",
    "continue": ".continue/config.yaml",
    "kiro": ".kiro/settings/mcp.json",
    "junie": ".junie/mcp/mcp.json",
    "antigravity": ".gemini/config/mcp_config.json",
    "warp": ".warp/.mcp.json",
    "factory": ".factory/mcp.json",
}
IN_CONFIG = {
    "opencode": "opencode/opencode.json",
    "kilo-code": "kilo/kilo.jsonc",
    "amp": "amp/settings.json",
    "crush": "crush/crush.json",
}
IN_VSCODE = {
    "cline-vscode": "saoudrizwan.claude-dev/settings/cline_mcp_settings.json",
    "roo-code": "rooveterinaryinc.roo-cline/settings/mcp_settings.json",
}
for _name, _file in (IN_HOME | {name: f".config/{file}" for name, file in IN_CONFIG.items()}).items():
    PATHS[_name] = (f"/home/u/{_file}", f"/Users/u/{_file}", f"C:/Users/u/{_file}")
for _name, _file in IN_VSCODE.items():
    _place = f"Code/User/globalStorage/{_file}"
    PATHS[_name] = (
        f"/home/u/.config/{_place}",
        f"/Users/u/Library/Application Support/{_place}",
        f"C:/Users/u/AppData/Roaming/{_place}",
    )


def last(client: Client, place: UserFolders) -> PurePath:
    return client.config_paths(place)[-1]


def test_each_client_has_its_file_on_each_platform() -> None:
    found = {c.name: tuple(last(c, place).as_posix() for place in (LINUX, MAC, WINDOWS)) for c in CLIENTS}
    assert found == PATHS


def test_a_claude_desktop_from_a_windows_package_has_its_file_in_the_package() -> None:
    package, plain = find_client("claude-desktop").config_paths(WINDOWS)
    assert package == PureWindowsPath(
        "D:\\Local\\Packages\\Claude_*\\LocalCache\\Roaming\\Claude\\claude_desktop_config.json"
    )
    assert plain.as_posix() == PATHS["claude-desktop"][2]


def test_a_variable_of_the_client_or_of_the_desktop_moves_the_file() -> None:
    moved = UserFolders(
        platform="linux",
        home=PurePosixPath("/home/u"),
        variables={"CODEX_HOME": "/c", "CLAUDE_CONFIG_DIR": "/d", "XDG_CONFIG_HOME": "/x"},
    )
    assert last(find_client("codex"), moved) == PurePosixPath("/c/config.toml")
    assert last(find_client("claude-code"), moved) == PurePosixPath("/d/.claude.json")
    assert last(find_client("zed"), moved) == PurePosixPath("/x/zed/settings.json")
    assert last(find_client("vscode"), moved) == PurePosixPath("/x/Code/User/mcp.json")


@pytest.mark.parametrize(
    ("name", "client"),
    [
        ("Claude Desktop", "claude-desktop"),
        ("VSCode", "vscode"),
        ("code", "vscode"),
        ("gemini", "gemini-cli"),
        ("LM_Studio", "lm-studio"),
        ("copilot", "copilot-cli"),
        ("Qwen", "qwen-code"),
        ("droid", "factory"),
        ("JetBrains", "junie"),
    ],
)
def test_a_client_is_found_however_its_name_is_written(name: str, client: str) -> None:
    assert find_client(name).name == client


def test_an_unknown_client_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UnknownClient, match="did you mean claude-desktop or claude-code") as error:
        find_client("claude")
    assert "--print" in str(error.value)
    with pytest.raises(UnknownClient, match="did you mean windsurf"):
        find_client("windsrf")
    with pytest.raises(UnknownClient, match="it knows claude-desktop, claude-code, cursor"):
        find_client("emacs")


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.parametrize("command", ["/opt/rlm mcp/bin/rlm-mcp", "C:\\Users\\Ü\\Scripts\\rlm-mcp.exe"])
def test_the_entry_that_is_written_is_the_one_the_client_starts(client: Client, command: str) -> None:
    entry = Entry(command=command, args=("-m", "x"), env={"RLM_MCP_MODEL": 'a "b" \\ c'})
    wanted = client.new_entry(entry)
    text = set_entry("", client, wanted)
    assert find_entry(text, client) == wanted
    assert client.parse_entry(find_entry(text, client)) == entry
    assert find_entry(remove_entry(text, client), client) is None


def test_each_form_is_the_clients_own() -> None:
    entry = Entry(command="/x", env={"K": "v"})
    shapes = {client.name: client.new_entry(entry) for client in CLIENTS}
    assert shapes["claude-desktop"] == shapes["cursor"] == {"command": "/x", "args": [], "env": {"K": "v"}}
    assert shapes["vscode"] == {"type": "stdio", "command": "/x", "args": [], "env": {"K": "v"}}
    assert find_client("vscode").path == ("servers", "rlm-mcp")
    assert shapes["zed"] == {"command": "/x", "args": [], "env": {"K": "v"}, "timeout": 300}
    assert shapes["gemini-cli"]["timeout"] == 300_000
    assert (shapes["codex"]["startup_timeout_sec"], shapes["codex"]["tool_timeout_sec"]) == (60, 300)
    assert (shapes["goose"]["cmd"], shapes["goose"]["envs"], shapes["goose"]["enabled"]) == ("/x", {"K": "v"}, True)


def test_each_form_of_the_newer_clients_is_the_clients_own() -> None:
    entry = Entry(command="/x", args=("y",), env={"K": "v"})
    shapes = {client.name: client.new_entry(entry) for client in CLIENTS}
    assert shapes["opencode"] == shapes["kilo-code"] == {
        "enabled": True, "type": "local", "command": ["/x", "y"], "environment": {"K": "v"}, "timeout": 300_000
    }  # fmt: skip
    assert shapes["copilot-cli"] == {
        "tools": ["*"], "type": "local", "command": "/x", "args": ["y"], "env": {"K": "v"}, "timeout": 300_000
    }  # fmt: skip
    assert shapes["cline"] == {"transport": {"type": "stdio", "command": "/x", "args": ["y"], "env": {"K": "v"}}}
    assert shapes["continue"] == {"name": "rlm-mcp", "command": "/x", "args": ["y"], "env": {"K": "v"}}
    assert find_client("amp").path == ("amp.mcpServers", "rlm-mcp")


REMOTE = Entry(url="https://rlm.example/mcp", headers={"Authorization": "Bearer t"})


@pytest.mark.parametrize("client", [c for c in CLIENTS if c.shape.url], ids=lambda client: client.name)
def test_a_url_takes_the_place_of_a_command_and_the_other_way_round(client: Client) -> None:
    local = Entry(command="/x", args=("y",), env={"K": "v"})
    to_remote = client.merge_entry(client.new_entry(local), REMOTE)
    assert client.parse_entry(to_remote) == REMOTE
    assert to_remote == client.new_entry(REMOTE) | {key: to_remote[key] for key in client.limits}
    assert client.merge_entry(to_remote, local) == client.new_entry(local)
    text = set_entry("", client, client.new_entry(REMOTE))
    assert client.parse_entry(find_entry(text, client)) == REMOTE


def test_each_client_has_its_own_names_for_a_url_and_its_headers() -> None:
    headers = {"Authorization": "Bearer t"}
    shapes = {client.name: client.new_entry(REMOTE) for client in CLIENTS if client.shape.url}
    assert shapes["claude-code"] == {"type": "http", "url": REMOTE.url, "headers": headers}
    assert shapes["windsurf"] == shapes["antigravity"] == {"serverUrl": REMOTE.url, "headers": headers}
    assert (shapes["codex"]["url"], shapes["codex"]["http_headers"]) == (REMOTE.url, headers)
    assert shapes["qwen-code"]["httpUrl"] == REMOTE.url
    assert shapes["continue"]["requestOptions"] == {"headers": headers}
    assert shapes["cline"] == {"transport": {"type": "streamableHttp", "url": REMOTE.url, "headers": headers}}
    assert (shapes["goose"]["type"], shapes["goose"]["uri"]) == ("streamable_http", REMOTE.url)
    with pytest.raises(ClientConfigError, match="Claude Desktop takes no URL"):
        find_client("claude-desktop").new_entry(REMOTE)


def test_what_the_user_added_to_the_entry_stays_and_the_command_is_set() -> None:
    old = {"timeout": 5, "command": "/old", "args": ["a"], "enabled_tools": ["x"], "env": {"A": "1", "B": "2"}}
    new = find_client("zed").merge_entry(old, Entry(command="/new", env={"B": "3"}))
    assert new == {"timeout": 5, "command": "/new", "args": [], "enabled_tools": ["x"], "env": {"A": "1", "B": "3"}}
    assert list(new) == list(old)
    assert find_client("zed").merge_entry("nonsense", Entry(command="/new"))["command"] == "/new"


def test_an_entry_that_the_client_rewrote_is_still_current() -> None:
    entry = Entry(command="/x", env={"K": "v"})
    rewritten = {"command": "/x", "startup_timeout_sec": 60.0, "tool_timeout_sec": 300.0, "env": {"K": "v"}}
    assert find_client("codex").merge_entry(rewritten, entry) == rewritten


def test_the_documentation_has_each_client_with_its_file_and_limits() -> None:
    rows = [line for line in DOCUMENTATION.read_text("utf-8").splitlines() if line.startswith("| `")]
    for client in CLIENTS:
        row = next(row for row in rows if f"`{client.name}`" in row)
        if client.name != "vscode-insiders":  # it shares the row of vscode
            for template in [*client.files, *(path for path in client.windows if "*" not in path)]:
                assert template.replace("{home}", "~").replace("{config}", "~/.config") in row
        assert f"`{client.project}`" in row if client.project else "| - |" in row
        assert ("300 s a call" in row) == bool(client.limits) == client.limits_calls

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.errors import ClientConfigError
from rlm_mcp.install.clients import CLIENTS, Client, Entry, find_client
from rlm_mcp.install.config_file import ConfigFile, find_config_path, read_config, replace_config, write_backup
from rlm_mcp.install.plan import Plan, apply_plan, plan_install, plan_uninstall

ENTRY = Entry(command="/opt/rlm/bin/rlm-mcp")
CURSOR, DESKTOP, CODEX = find_client("cursor"), find_client("claude-desktop"), find_client("codex")
OTHERS = '\ufeff{\r\n\t// mine\r\n\t"mcpServers": {\r\n\t\t"gh": {"env": {"GITHUB_TOKEN": "ghp_1"}}\r\n\t}\r\n}\r\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mcp.json"
    path.write_bytes(OTHERS.encode())
    path.chmod(0o640)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def install(path: Path, client: Client = CURSOR, entry: Entry = ENTRY) -> Path | None:
    return apply_plan(plan_install(client, read_config(path), entry))


def uninstall(path: Path, client: Client = CURSOR) -> Path | None:
    return apply_plan(plan_uninstall(client, read_config(path)))


def test_installing_keeps_what_was_there_a_copy_of_it_and_the_permissions(config: Path) -> None:
    copy = install(config)
    assert copy == config.with_name("mcp.json.before-rlm-mcp")
    assert copy.read_bytes() == OTHERS.encode()
    assert config.read_bytes().decode() == OTHERS.replace(
        '"ghp_1"}}\r\n',
        '"ghp_1"}},\r\n\t\t"rlm-mcp": {\r\n\t\t\t"command": "/opt/rlm/bin/rlm-mcp",\r\n\t\t\t"args": []\r\n\t\t}\r\n',
    )
    assert (config.stat().st_mode & 0o777, copy.stat().st_mode & 0o777) == (0o640, 0o640)
    assert names(config.parent) == [config.name, copy.name]


def test_installing_again_changes_nothing(config: Path) -> None:
    install(config)
    before = config.read_bytes()
    plan = plan_install(CURSOR, read_config(config), ENTRY)
    assert (plan.change, plan.diff, apply_plan(plan)) == ("none", "", None)
    assert config.read_bytes() == before


def test_a_server_that_moved_is_updated_and_the_first_copy_is_kept(config: Path) -> None:
    install(config, entry=Entry(command="/old/rlm-mcp"))
    plan = plan_install(CURSOR, read_config(config), ENTRY)
    assert (plan.change, plan.backup) == ("update", "keep")
    assert '-\t\t\t"command": "/old/rlm-mcp",' in plan.diff
    apply_plan(plan)
    uninstall(config)
    assert config.read_bytes() == OTHERS.encode()


def test_uninstalling_gives_back_every_byte_and_takes_the_copy_away(config: Path) -> None:
    install(config)
    uninstall(config)
    assert config.read_bytes() == OTHERS.encode()
    assert names(config.parent) == [config.name]


def test_a_new_file_begins_with_what_the_client_insists_on(tmp_path: Path) -> None:
    path, client = tmp_path / "config.yaml", find_client("continue")
    install(path, client)
    assert path.read_text().startswith("name: Local Assistant\nversion: 1.0.0\nschema: v1\nmcpServers:\n  - name: ")
    uninstall(path, client)
    assert not path.exists()


def test_uninstalling_leaves_what_was_changed_since(config: Path) -> None:
    install(config)
    changed = config.read_bytes().replace(b"// mine", b"// mine, later")
    config.write_bytes(changed)
    copy = uninstall(config)
    assert config.read_bytes() == OTHERS.replace("// mine", "// mine, later").encode()
    assert copy is not None
    assert copy.read_bytes() == changed


def test_a_file_that_was_created_for_the_entry_is_removed_with_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mcp.json"
    plan = plan_install(CURSOR, read_config(path), ENTRY)
    assert plan.notes == (f"{path.parent} does not exist yet: is Cursor installed?",)
    assert apply_plan(plan) is None
    assert path.stat().st_mode & 0o777 == 0o600
    uninstall(path)
    assert not path.exists()
    assert plan_uninstall(CURSOR, read_config(path)).change == "none"


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.parametrize("text", ["", "\n", "{}", "{ }\n"])
def test_an_almost_empty_file_is_restored(client: Client, text: str, tmp_path: Path) -> None:
    if client.format == "toml" and "{" in text:
        text = "# nothing\n"
    path = tmp_path / "config"
    path.write_text(text)
    install(path, client)
    uninstall(path, client)
    assert path.read_text() == text


@given(
    st.dictionaries(st.sampled_from(["mcpServers", "a"]), st.dictionaries(st.text(max_size=3), st.none())),
    st.booleans(),
)
def test_uninstalling_after_installing_is_as_if_nothing_had_happened(said: dict[str, object], indented: bool) -> None:
    text = json.dumps(said, indent=2 if indented else None).encode()
    before = ConfigFile(path=Path("/c"), target=Path("/c"), content=text)
    plan = plan_install(CURSOR, before, ENTRY)
    installed = ConfigFile(path=Path("/c"), target=Path("/c"), content=plan.after, backup=text)
    assert plan_uninstall(CURSOR, installed).after == text


def test_what_is_shown_masks_the_secrets_around_and_of_the_entry(config: Path) -> None:
    entry = Entry(command="/x", env={"RLM_MCP_API_KEY": "hunter2", "RLM_MCP_MODEL": "m"})
    diff = plan_install(CURSOR, read_config(config), entry).diff
    assert "ghp_1" not in diff
    assert "hunter2" not in diff
    assert '+\t\t\t\t"RLM_MCP_API_KEY": "***",' in diff
    assert '+\t\t\t\t"RLM_MCP_MODEL": "m"' in diff


def test_a_configuration_on_one_line_is_shown_by_its_entry(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"a": "x" * 1000}))
    assert plan_install(CURSOR, read_config(path), ENTRY).diff == (
        f'{path}\n+ mcpServers.rlm-mcp: {{"command": "/opt/rlm/bin/rlm-mcp", "args": []}}\n'
    )


# --- what goes wrong ----------------------------------------------------------------------------------------------


def refusal(path: Path, client: Client = CURSOR) -> str:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ClientConfigError) as error:
        install(path, client)
    assert (path.read_bytes() if path.is_file() else None) == before
    return str(error.value)


@pytest.mark.parametrize(
    ("client", "content", "why"),
    [
        (CURSOR, b'{"mcpServers": {', "a name in quotes is missing at line 1, column 17"),
        (DESKTOP, b'{"a": 1, // c\n}', "is not JSON (Expecting property name"),
        (CURSOR, b'{"mcpServers": []}', "has a value at mcpServers that is not an object"),
        (CURSOR, "{ü}".encode("latin-1"), "is not UTF-8 (byte 1): save it as UTF-8"),
        (CODEX, b"mcp_servers = { a = {} }\n", "would become unreadable"),
        (CODEX, b"[mcp_servers]\nrlm-mcp = { command = 'x' }\n", "would become unreadable"),
        (find_client("goose"), b"extensions: [1]\n", "has a value at extensions that is not a mapping"),
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_left_alone(
    client: Client, content: bytes, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    path.write_bytes(content)
    said = refusal(path, client)
    assert why in said
    assert "nothing was changed" in said or "try again" in said
    assert names(tmp_path) == ["config"]


def test_a_read_only_file_is_left_alone(config: Path) -> None:
    config.chmod(0o440)
    assert "is read-only: nothing was changed" in refusal(config)
    assert config.stat().st_mode & 0o777 == 0o440


def test_a_directory_or_a_pipe_in_its_place_is_named(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "cannot be read (it is not a regular file)" in refusal(tmp_path / "pipe")


def test_links_are_followed_and_stay(config: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    link = tmp_path / "home" / "mcp.json"
    link.symlink_to(config)
    plan = plan_install(CURSOR, read_config(link), ENTRY)
    assert plan.notes == (f"{link} is a symbolic link: the change is made to {config}",)
    assert apply_plan(plan) == config.with_name("mcp.json.before-rlm-mcp")
    assert link.is_symlink()
    assert b"rlm-mcp" in config.read_bytes()
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    assert "cannot be read" in refusal(circle)


def test_a_file_that_changes_between_showing_and_writing_is_left_alone(config: Path) -> None:
    plan = plan_install(CURSOR, read_config(config), ENTRY)
    config.write_text("{}")
    with pytest.raises(ClientConfigError, match="was changed by another program in the meantime: nothing was written"):
        apply_plan(plan)
    assert (config.read_text(), names(config.parent)) == ("{}", [config.name])


def fail_with(number: int, after: int) -> object:
    def write(descriptor: int, content: bytes) -> int:
        if after:
            os.write(descriptor, content[:after])
        raise OSError(number, os.strerror(number))

    return write


@pytest.mark.parametrize("after", [0, 10])
def test_a_full_disk_changes_nothing(config: Path, after: int) -> None:
    file = read_config(config)
    plan = plan_install(CURSOR, file, ENTRY)
    write = fail_with(errno.ENOSPC, after)
    with pytest.raises(ClientConfigError, match=r"cannot be written \(the disk is full\): nothing was changed"):
        replace_config(file, plan.after, write=write)  # type: ignore[arg-type] # a function, told apart by nothing
    with pytest.raises(ClientConfigError, match=r"\(the disk is full\).* since no backup could be made"):
        write_backup(file, write=write)  # type: ignore[arg-type] # likewise
    assert (config.read_bytes(), names(config.parent)) == (OTHERS.encode(), [config.name])


def test_a_directory_without_write_permission_changes_nothing(config: Path) -> None:
    file = replace(read_config(config), target=Path("/proc/mcp.json"))
    with pytest.raises(ClientConfigError, match=r"/proc/mcp\.json cannot be written"):
        replace_config(file, b"{}")
    with pytest.raises(ClientConfigError, match=r"/proc/mcp\.json\.before-rlm-mcp cannot be written"):
        write_backup(file)
    assert config.read_bytes() == OTHERS.encode()


def test_the_first_candidate_that_exists_is_used_otherwise_the_last(tmp_path: Path) -> None:
    candidates = [tmp_path / "Packages" / "Claude_*" / "Roaming" / "c.json", tmp_path / "Claude" / "c.json"]
    assert find_config_path(candidates) == candidates[-1]
    (tmp_path / "Packages" / "Claude_x" / "Roaming").mkdir(parents=True)
    assert find_config_path(candidates) == tmp_path / "Packages" / "Claude_x" / "Roaming" / "c.json"


def test_a_plan_of_nothing_writes_nothing(config: Path) -> None:
    apply_plan(Plan(client=CURSOR, file=read_config(config), change="none"))
    assert config.read_bytes() == OTHERS.encode()

from pathlib import Path

import pytest

from rlm_mcp.install.own_command import own_command, stable_command

HERE = {"uvx": "/home/u/.local/bin/uvx", "pipx": "/usr/bin/pipx"}


def command(prefix: str, *there: str, windows: bool = False, which: dict[str, str] = HERE) -> list[str]:
    return stable_command(
        executable=Path(prefix, "bin", "python"),
        prefix=Path(prefix),
        folders=[Path(prefix, "bin"), Path("/home/u/.local/bin")],
        is_windows=windows,
        exists=lambda path: str(path) in there,
        which=which.get,
    )


@pytest.mark.parametrize(
    "prefix", ["/home/u/v", "/home/u/.local/share/uv/tools/rlm-mcp", "/home/u/.local/share/pipx/venvs/rlm-mcp"]
)
def test_the_script_beside_the_interpreter_is_started(prefix: str) -> None:
    assert command(prefix, f"{prefix}/bin/rlm-mcp") == [f"{prefix}/bin/rlm-mcp"]


def test_a_script_of_the_user_is_found_and_without_any_the_interpreter_is_used() -> None:
    assert command("/usr", "/home/u/.local/bin/rlm-mcp") == ["/home/u/.local/bin/rlm-mcp"]
    assert command("/usr") == ["/usr/bin/python", "-m", "rlm_mcp.cli"]
    assert command("/v", "/v/bin/rlm-mcp.exe", windows=True) == ["/v/bin/rlm-mcp.exe"]


def test_an_environment_made_for_one_run_is_started_by_the_tool_that_made_it() -> None:
    once = "/home/u/.cache/uv/archive-v0/abc"
    assert command(once, f"{once}/bin/rlm-mcp") == [HERE["uvx"], "rlm-mcp"]
    assert command(once, f"{once}/bin/rlm-mcp", which={}) == [f"{once}/bin/rlm-mcp"]
    assert command("/home/u/.local/share/pipx/.cache/ab12") == [HERE["pipx"], "run", "rlm-mcp"]


def test_our_own_command_is_absolute_and_exists() -> None:
    entry = own_command({"A": "b"})
    assert Path(entry.command).is_absolute()
    assert Path(entry.command).exists()
    assert entry.env == {"A": "b"}

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_config_tells_each_value_and_its_origin(run: Run, home: Path) -> None:
    file = home / ".config/rlm-mcp/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('# mine\nmodel = "m"\n')
    environ = {"RLM_MCP_API_KEY": "sk-12345678", "RLM_MCP_MAX_USD": "1"}
    told = run("config", "--base-url", "http://h/v1", "--json", **environ)
    assert "sk-12345678" not in told.stdout
    said = json.loads(told.stdout)
    rows = {row["name"]: (row["value"], row["origin"]) for row in said["settings"]}
    assert (said["path"], said["exists"]) == (str(file), True)
    assert rows["model"] == ("m", f"model in {file}, line 2")
    assert rows["base_url"] == ("http://h/v1", "--base-url")
    assert rows["api_key"] == ("***", "RLM_MCP_API_KEY")
    assert rows["max_usd"] == (1.0, "RLM_MCP_MAX_USD")
    assert rows["max_tokens"] == (None, "default: no limit")
    assert "max_usd           1.0" in run("config", **environ).stdout
    assert run("config", "--path").stdout == f"{file}\n"


def test_config_names_a_wrong_line_of_the_file(run: Run, home: Path) -> None:
    file = home / ".config/rlm-mcp/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("max_dollars = 1\n")
    ended = run("config")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"rlm-mcp: {file}, line 1, sets 'max_dollars', which is not a setting: did you mean")

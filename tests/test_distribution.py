"""What is published beside the packages tells the same as the code: the registry's entry, the bundle, the versions."""

import csv
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import parse_wheel_filename
from packaging.version import Version
from ruamel.yaml import YAML

import rlm_mcp
from bundle.build import lay_out
from bundle.data import write_wheel
from rlm_mcp.cli.main import command_parser
from rlm_mcp.server.tools import described_tools
from rlm_mcp.settings import PREFIX, SETTINGS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MANIFEST: dict[str, Any] = json.loads((ROOT / "bundle" / "manifest.json").read_text())
PLUGIN = ROOT / "plugin"
ENTRY: dict[str, Any] = json.loads((ROOT / "server.json").read_text())
VARIABLES = {PREFIX + name.upper() for name in SETTINGS}


def plugin_file(name: str) -> dict[str, Any]:
    return dict(json.loads((PLUGIN / name).read_text()))


def test_the_version_is_the_same_everywhere() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert newest is not None
    assert citation is not None
    versions = {
        "pyproject.toml": PROJECT["version"],
        "CHANGELOG.md": newest[1],
        "bundle/manifest.json": MANIFEST["version"],
        "server.json": ENTRY["version"],
        "CITATION.cff": citation[1],
        "plugin.json": plugin_file(".claude-plugin/plugin.json")["version"],
        "gemini-extension.json": plugin_file("gemini-extension.json")["version"],
        "server.json, its package": ENTRY["packages"][0]["version"],
    }
    assert versions == dict.fromkeys(versions, rlm_mcp.__version__)


def test_the_readme_that_pypi_shows_proves_the_name_in_the_registry() -> None:
    assert PROJECT["readme"] == "README.md"
    names = re.findall(r"<!-- mcp-name: (\S+) -->", (ROOT / "README.md").read_text())
    assert names == [ENTRY["name"]]


def test_the_registry_entry_keeps_the_rules_of_the_registry() -> None:
    (package,) = ENTRY["packages"]
    assert re.fullmatch(r"[A-Za-z0-9.-]+/[A-Za-z0-9._-]+", ENTRY["name"])
    assert 3 <= len(ENTRY["name"]) <= 200
    assert 1 <= len(ENTRY["title"]) <= 100
    assert 1 <= len(ENTRY["description"]) <= 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", ENTRY["version"])  # no range, no "latest"
    assert ENTRY["$schema"].startswith("https://static.modelcontextprotocol.io/schemas/")
    assert (package["registryType"], package["identifier"]) == ("pypi", PROJECT["name"])
    assert (package["runtimeHint"], package["transport"]) == ("uvx", {"type": "stdio"})
    assert PROJECT["name"] in PROJECT["scripts"]  # uvx runs the script that is named as the package
    variables = {variable["name"]: variable for variable in package["environmentVariables"]}
    assert variables.keys() <= VARIABLES
    assert [name for name, variable in variables.items() if variable.get("isSecret")] == ["RLM_MCP_API_KEY"]
    assert not any(variable.get("isRequired") for variable in variables.values())


def test_the_bundle_tells_the_tools_variables_and_python_of_the_code() -> None:
    server = MANIFEST["server"]
    tools = {tool.name: tool.description for tool in described_tools()}
    assert {tool["name"] for tool in MANIFEST["tools"]} == tools.keys()
    for tool in MANIFEST["tools"]:
        assert tools[tool["name"]].startswith(tool["description"])
    assert MANIFEST["compatibility"]["runtimes"]["python"] == PROJECT["requires-python"]
    assert server["mcp_config"]["env"].keys() <= VARIABLES
    asked = {f"${{user_config.{name}}}" for name in MANIFEST["user_config"]}
    assert set(server["mcp_config"]["env"].values()) == asked
    assert [name for name, option in MANIFEST["user_config"].items() if option.get("sensitive")] == ["api_key"]
    assert not any(option["required"] for option in MANIFEST["user_config"].values())
    assert server["mcp_config"]["args"][-1] == server["entry_point"]


def test_the_bundle_holds_all_that_its_project_file_names(tmp_path: Path) -> None:
    lay_out(tmp_path)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    assert (tmp_path / MANIFEST["server"]["entry_point"]).is_file()
    assert (tmp_path / project["project"]["readme"]).is_file()
    for pattern in project["project"]["license-files"]:
        assert list(tmp_path.glob(pattern)), pattern
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set(packages)
    assert list(tmp_path.rglob("__pycache__")) == []


@pytest.mark.parametrize("package", ["rlm_mcp", "wasm_runtime"])
def test_the_bundle_holds_every_module_that_its_modules_import(package: str, tmp_path: Path) -> None:
    lay_out(tmp_path)
    there = {path.relative_to(tmp_path) for path in (tmp_path / package).rglob("*") if path.is_file()}
    here = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()}
    left_out = {path.parent.as_posix() for path in here - there if "__pycache__" not in path.parts}
    assert left_out == ({"rlm_mcp/cli/demo_data"} if package == "rlm_mcp" else {"wasm_runtime/build"})


def test_the_plugin_starts_the_program_of_this_package_in_all_clients() -> None:
    for name in (".mcp.json", "gemini-extension.json"):
        (server,) = plugin_file(name)["mcpServers"].values()
        assert server["command"] in PROJECT["scripts"]
    (listed,) = plugin_file(".claude-plugin/marketplace.json")["plugins"]
    assert (
        listed["name"]
        == plugin_file(".claude-plugin/plugin.json")["name"]
        == plugin_file("gemini-extension.json")["name"]
    )


def test_the_skill_keeps_the_rules_of_skills_and_names_what_exists() -> None:
    (path,) = (PLUGIN / "skills").glob("*/SKILL.md")
    _, head, body = path.read_text().split("---\n", 2)
    facts = dict(line.split(": ", 1) for line in head.splitlines())
    assert facts["name"] == path.parent.name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", facts["name"])
    assert 100 <= len(facts["description"]) <= 1_024
    assert len(body.splitlines()) <= 500
    tools = {tool.name: tool for tool in described_tools()}
    for called, arguments in re.findall(r"`(\w+)\(([^`]*)\)`", body):
        if called in tools:
            given = set(re.findall(r"(\w+)=", arguments))
            assert given <= tools[called].parameters["properties"].keys(), called
    for name in re.findall(r"`(output_schema|estimate_only|max_usd|search|code|start_line|end_line|offset)\b", body):
        assert any(name in tool.parameters["properties"] for tool in tools.values()), name


def test_the_wheel_of_the_prebuilt_image_holds_it_and_is_of_this_version_only(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    (image / "manifest.json").write_text("{}")
    target = tmp_path / f"rlm_mcp_data-{rlm_mcp.__version__}-py3-none-any.whl"
    write_wheel(target, image)
    assert parse_wheel_filename(target.name)[:2] == ("rlm-mcp-data", Version(rlm_mcp.__version__))
    info = f"rlm_mcp_data-{rlm_mcp.__version__}.dist-info"
    with zipfile.ZipFile(target) as wheel:
        contents = {name: wheel.read(name) for name in wheel.namelist()}
    assert set(contents) == {
        "rlm_mcp_data/__init__.py", "rlm_mcp_data/image/manifest.json",
        f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD",
    }  # fmt: skip
    assert f"Requires-Dist: rlm-mcp=={rlm_mcp.__version__}" in contents[f"{info}/METADATA"].decode().splitlines()
    recorded = contents.pop(f"{info}/RECORD").decode().splitlines()
    digests = {name: urlsafe_b64encode(sha256(data).digest()).decode().rstrip("=") for name, data in contents.items()}
    assert recorded == [f"{n},sha256={digests[n]},{len(d)}" for n, d in contents.items()] + [f"{info}/RECORD,,"]


def test_the_extra_data_requires_the_prebuilt_image_of_this_version() -> None:
    assert PROJECT["optional-dependencies"]["data"] == [f"rlm-mcp-data=={rlm_mcp.__version__}"]


def test_the_notice_names_every_packaged_file_with_texts_of_the_data_set() -> None:
    folder = ROOT / "rlm_mcp" / "cli" / "demo_data"
    with (folder / "banking77.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file) if len(row["text"]) > 40]
    files = [path for path in (ROOT / "rlm_mcp").rglob("*") if path.is_file() and path.suffix not in {".pyc", ".py"}]
    holders = {path.name for path in files if any(text in path.read_text("utf-8", "replace") for text in texts)}
    assert holders == {"banking77.csv", "messages.jsonl", "support.jsonl"}
    notice = (ROOT / "NOTICE").read_text()
    assert all(name in notice for name in holders)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["demo"], "has no recorded runs: install rlm-mcp"),
        (["packages", "add", "msgspec"], "cannot bake images: install"),
    ],
)
def test_commands_that_the_bundle_leaves_out_say_so_in_a_sentence(
    command: list[str], says: str, tmp_path: Path
) -> None:
    lay_out(tmp_path / "bundle")
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "rlm_mcp.cli", *command],
        cwd=tmp_path / "bundle",
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_containers_of_a_cluster_are_given_commands_and_settings_that_exist() -> None:
    services = YAML(typ="safe").load(ROOT / "docs" / "examples" / "cluster" / "compose.yaml")["services"]
    ours = {name: service for name, service in services.items() if service.get("entrypoint") == ["rlm-mcp"]}
    assert ours.keys() == {"server", "worker"}
    for service in ours.values():
        command_parser().parse_args(service["command"])  # exits where it knows a part of it not
        settings = {name for name in service["environment"] if name.startswith(PREFIX)}
        assert {"RLM_MCP_STORE", "RLM_MCP_BLOBS"} <= settings <= VARIABLES
        assert service["depends_on"].keys() == services.keys() - ours.keys()
    assert ours["server"]["volumes"][0].split(":")[-2] == ours["server"]["command"][4]

"""The official conformance suite over the scenarios of conformance.toml, each in every protocol version it is for."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Counts, run

LIST: dict[str, Any] = tomllib.loads(Path(__file__).with_name("conformance.toml").read_text())
SERVERS = ("server", "tasks_server", "suite_server")
"""The fixtures of conftest.py that serve, and the lists of what runs against them."""

EXTENSION = "extension"
"""What the suite writes in the place of versions: such a scenario has one."""


def offered(environ: dict[str, str], directory: Path) -> dict[str, list[str]]:
    """Scenario -> protocol versions, as the installed suite lists them."""
    listed = run(["conformance", "list", "--server"], environ, directory).stdout
    return {name: versions.split(",") for name, versions in re.findall(r"^  - (\S+) \[(.+)\]$", listed, re.MULTILINE)}


@pytest.fixture(scope="session")
def suite(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return offered(environ, tmp_path_factory.mktemp("suite"))


def test_the_list_has_every_scenario_of_the_suite_and_no_other(
    suite: dict[str, list[str]], environ: dict[str, str], tmp_path: Path, counts: Counts
) -> None:
    version = run(["conformance", "--version"], environ, tmp_path).stdout.strip()
    assert LIST["suite"].endswith(f"@{version}")
    run_somewhere = {scenario for name in SERVERS for scenario in LIST[name]}
    assert run_somewhere | LIST["left_out"].keys() == suite.keys()
    assert not run_somewhere & LIST["left_out"].keys()
    counts.add(scenarios_run=len(run_somewhere), scenarios_left_out=len(LIST["left_out"]))


def verdicts(
    scenario: str, version: str, url: str, environ: dict[str, str], directory: Path
) -> Iterator[dict[str, str]]:
    """Every check of one scenario in one version."""
    asked = [] if version == EXTENSION else ["--spec-version", version]
    command = ["conformance", "server", "--url", url, "--scenario", scenario, *asked, "-o", str(directory)]
    done: subprocess.CompletedProcess[str] = run(command, environ, directory)
    (report,) = directory.glob("*/checks.json")
    checks: list[dict[str, str]] = json.loads(report.read_text())
    assert checks, done.stdout + done.stderr
    yield from checks


def judge(
    scenario: str, url: str, suite: dict[str, list[str]], environ: dict[str, str], tmp_path: Path, counts: Counts,
    left_out: dict[str, str],
) -> None:  # fmt: skip
    """Fails where a check fails that is not left out, or passes that is."""
    for version in suite[scenario]:
        directory = tmp_path / version
        directory.mkdir()
        checks = list(verdicts(scenario, version, url, environ, directory))
        failed = {check["id"]: check.get("errorMessage", "") for check in checks if check["status"] == "FAILURE"}
        passed = sum(check["status"] == "SUCCESS" for check in checks)
        assert failed.keys() == left_out.keys(), f"{scenario} in {version}: {json.dumps(failed, indent=1)}"
        assert passed, f"{scenario} in {version} has checked nothing"
        counts.add(
            runs=1,
            checks_passed=passed,
            checks_failed=0,
            warnings=sum(check["status"] == "WARNING" for check in checks),
            checks_left_out=len(failed),
        )


@pytest.mark.parametrize(("server_name", "scenario"), [(name, scenario) for name in SERVERS for scenario in LIST[name]])
def test_the_server_passes(
    server_name: str,
    scenario: str,
    request: pytest.FixtureRequest,
    suite: dict[str, list[str]],
    environ: dict[str, str],
    tmp_path: Path,
    counts: Counts,
) -> None:
    left_out = LIST["checks_left_out"].get(scenario, {}) if server_name == "server" else {}
    judge(scenario, request.getfixturevalue(server_name), suite, environ, tmp_path, counts, left_out)

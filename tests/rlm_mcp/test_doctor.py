"""What doctor finds on a machine that is made up for it."""

import socket
from pathlib import Path

import pytest

from rlm_mcp.doctor import Check, examine
from rlm_mcp.settings import Settings
from wasm_runtime.artifacts import default_cache_dir

pytestmark = pytest.mark.anyio


async def found(settings: Settings, *, warm: bool = False) -> dict[str, Check]:
    return {check.name: check async for check in examine(settings, warm=warm, on_progress=lambda _: None)}


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_a_sandbox_that_was_never_compiled_is_a_warning_that_names_the_command(
    tmp_path: Path, closed_port: int
) -> None:
    url = f"http://127.0.0.1:{closed_port}/v1"
    checks = await found(Settings(data_dir=tmp_path, cache_dir=tmp_path, model="m", base_url=url))
    assert (checks["sandbox image"].status, "doctor --warm" in checks["sandbox image"].remedy) == ("warning", True)
    assert "sandbox" not in checks
    assert not any(Path(tmp_path).glob("*"))  # noqa: ASYNC240 - one look


async def test_warm_loads_the_sandbox_and_runs_a_cell(tmp_path: Path, closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}/v1"
    settings = Settings(data_dir=tmp_path, cache_dir=default_cache_dir(), model="m", base_url=url)
    checks = await found(settings, warm=True)
    assert (checks["sandbox"].status, checks["sandbox image"].status) == ("ok", "ok")


async def test_an_endpoint_that_is_down_is_a_failure_that_names_it(tmp_path: Path, closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}/v1"
    checks = await found(Settings(data_dir=tmp_path, cache_dir=tmp_path, model="m", base_url=url))
    assert (checks["model"].status, url in checks["model"].detail) == ("failure", True)


async def test_the_data_directory_is_measured_even_where_it_does_not_exist_yet(
    tmp_path: Path, closed_port: int
) -> None:
    url = f"http://127.0.0.1:{closed_port}/v1"
    checks = await found(Settings(data_dir=tmp_path / "new", cache_dir=tmp_path, model="m", base_url=url))
    assert checks["data"].status in {"ok", "warning"}
    assert "0.0 MB held" in checks["data"].detail

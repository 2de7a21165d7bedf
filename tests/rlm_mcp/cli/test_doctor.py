"""What doctor reports about an invented machine."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_mcp.cli.doctor import Check, run_checks
from rlm_mcp.install.clients import Entry
from rlm_mcp.install.user_folders import UserFolders
from rlm_mcp.models.discovery import LocalServer
from rlm_mcp.redact import Secret
from rlm_mcp.settings import Settings
from rlm_mcp.spending import Price, RunLimits
from tests.peers.openai_server import OpenAIServer, Quirks, Request, Said
from wasm_runtime.compile_cache import default_cache_dir

pytestmark = pytest.mark.anyio

OWN = Entry(command="/opt/rlm/bin/rlm-mcp")


async def found(
    settings: Settings, home: Path, *, warm: bool = False, servers: list[LocalServer] | None = None
) -> dict[str, Check]:
    folders = UserFolders(platform="linux", home=home)
    checks = run_checks(
        settings, warm=warm, on_progress=lambda _: None, folders=folders, own=OWN, find_servers=lambda: servers or []
    )
    return {check.name: check async for check in checks}


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Settings]:
    """Settings whose endpoint is a port on which nothing listens, and which nothing else can take."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        yield Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", model="m", base_url=url)


async def test_a_sandbox_that_was_never_compiled_is_a_warning_that_names_the_command(
    nowhere: Settings, tmp_path: Path
) -> None:
    checks = await found(nowhere, tmp_path)
    assert (checks["sandbox image"].status, "doctor --warm" in checks["sandbox image"].remedy) == ("warning", True)
    assert "sandbox" not in checks
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - one look


async def test_warm_loads_the_sandbox_and_runs_a_cell(nowhere: Settings, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, cache_dir=default_cache_dir(), model="m", base_url=nowhere.base_url)
    checks = await found(settings, tmp_path, warm=True)
    assert (checks["sandbox"].status, checks["sandbox image"].status) == ("ok", "ok")


async def test_the_data_directory_is_measured_even_where_it_does_not_exist_yet(
    nowhere: Settings, tmp_path: Path
) -> None:
    assert "contexts 0.0 MB, runs 0.0 MB, cache 0.0 MB" in (await found(nowhere, tmp_path))["data"].detail
    (tmp_path / "data" / "runs" / "r").mkdir(parents=True)
    (tmp_path / "data" / "runs" / "r" / "events.jsonl").write_bytes(b"x" * 2_000_000)
    data = (await found(nowhere, tmp_path))["data"]
    assert data.detail.startswith(f"{tmp_path / 'data'}: contexts 0.0 MB, runs 2.0 MB, cache 0.0 MB; ")


async def test_a_data_directory_that_is_a_file_is_a_failure(nowhere: Settings, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    data = (await found(nowhere, tmp_path))["data"]
    assert (data.status, data.remedy) == ("failure", f"allow writing to {tmp_path / 'data'}, or set RLM_MCP_DATA_DIR")


async def test_half_a_cluster_is_a_failure(nowhere: Settings, tmp_path: Path) -> None:
    checks = await found(replace(nowhere, store=Secret("postgresql://db/rlm")), tmp_path)
    assert checks["cluster"].status == "failure"
    assert checks["cluster"].detail.startswith("RLM_MCP_STORE is set and RLM_MCP_BLOBS is not: a cluster needs")


# --- models -------------------------------------------------------------------------------------------------------


def obedient(request: Request) -> str:
    return json.dumps({"colour": "blue"}) if "response_format" in request.body else "Blue."


def asked(server: OpenAIServer, tmp_path: Path, **more: object) -> Settings:
    settings = {"model": "scripted", "base_url": server.base_url, "window_tokens": 32_000} | more
    return Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", **settings)  # type: ignore[arg-type] # of any setting


async def test_a_model_that_answers_is_reported_with_time_tokens_schema_and_window(tmp_path: Path) -> None:
    async with OpenAIServer(obedient) as server:
        check = (await found(asked(server, tmp_path), tmp_path))["model"]
        assert check.detail.startswith(f"scripted at {server.base_url} answered in ")
    assert len(server.requests) == 1
    assert (check.status, check.remedy) == ("ok", "")
    assert check.detail.endswith("(15 + 5 tokens); structured output works; window 32,000 tokens, as set")


async def test_the_price_is_reported_and_the_sub_model_is_checked_too(tmp_path: Path) -> None:
    async with OpenAIServer(obedient, models=["scripted", "small"]) as server:
        prices = {"scripted": Price(usd_per_mtok_in=1, usd_per_mtok_out=10)}
        checks = await found(
            asked(server, tmp_path, prices=prices, limits=RunLimits(max_usd=1.0), sub_model="small"), tmp_path
        )
    assert "(15 + 5 tokens, $0.000065)" in checks["model"].detail
    assert checks["model"].status == "ok"
    assert checks["sub-model"].status == "warning"
    assert (
        checks["sub-model"].remedy
        == "max_usd cannot be enforced, because the price of small is unknown: set RLM_MCP_PRICES"
    )


async def test_features_that_a_server_lacks_are_a_warning(tmp_path: Path) -> None:
    quirks = Quirks(structured=False, usage=False)
    async with OpenAIServer(obedient, quirks=quirks) as server:
        check = (await found(asked(server, tmp_path, window_tokens=None), tmp_path))["model"]
    assert check.status == "warning"
    assert "estimated because the server reports none" in check.detail
    assert "no structured output; window 128,000 tokens, assumed" in check.detail
    assert check.remedy.split("; ") == [
        "the size of the context window is unknown: set RLM_MCP_WINDOW_TOKENS",
        "replies do not follow a schema, so classify and output_schema ask again more often",
        "token counts are estimates, so limits on tokens are rough",
    ]


async def test_the_window_that_the_server_reports_is_used(tmp_path: Path) -> None:
    async with OpenAIServer(obedient, quirks=Quirks(window_tokens=9_000)) as server:
        check = (await found(asked(server, tmp_path, window_tokens=None), tmp_path))["model"]
    assert check.detail.endswith("window 9,000 tokens, as reported by the server")


async def test_a_reply_that_is_cut_off_leaves_structured_output_unknown(tmp_path: Path) -> None:
    async with OpenAIServer([Said(text="", reasoning="hm", finish_reason="length")]) as server:
        check = (await found(asked(server, tmp_path), tmp_path))["model"]
    assert (check.status, "structured output unknown" in check.detail) == ("warning", True)


async def test_an_endpoint_that_is_down_is_a_failure_that_names_it(nowhere: Settings, tmp_path: Path) -> None:
    check = (await found(nowhere, tmp_path))["model"]
    assert (check.status, str(nowhere.base_url) in check.detail) == ("failure", True)
    assert ("set RLM_MCP_BASE_URL" in check.detail, check.remedy) == (True, "")  # the sentence says what to do


async def test_a_key_that_is_refused_is_a_failure_that_does_not_show_it(tmp_path: Path) -> None:
    async with OpenAIServer(obedient, api_key="right") as server:
        check = (await found(asked(server, tmp_path, api_key=Secret("wrong-key")), tmp_path))["model"]
    assert check.status == "failure"
    assert "wrong-key" not in check.detail


async def test_local_servers_are_listed_with_their_models(nowhere: Settings, tmp_path: Path) -> None:
    ollama = LocalServer(name="Ollama", base_url="http://127.0.0.1:11434/v1", models=("a", "b", "c", "d", "e"))
    checks = await found(nowhere, tmp_path, servers=[ollama])
    assert checks["local servers"].detail == "Ollama at http://127.0.0.1:11434/v1 with a, b, c and 2 more"
    assert "none found (looked for Ollama 11434" in (await found(nowhere, tmp_path))["local servers"].detail


# --- clients ------------------------------------------------------------------------------------------------------


def configure(home: Path, name: str, text: str) -> Path:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


async def test_each_client_with_an_entry_is_reported_as_current_or_not(nowhere: Settings, tmp_path: Path) -> None:
    def entry(command: str) -> str:
        return json.dumps({"mcpServers": {"rlm-mcp": {"command": command, "args": []}}})

    cursor = configure(tmp_path, ".cursor/mcp.json", entry(OWN.command))
    windsurf = configure(tmp_path, ".codeium/windsurf/mcp_config.json", entry("/bin/sh"))
    gemini = configure(tmp_path, ".gemini/settings.json", entry("/gone/rlm-mcp"))
    configure(tmp_path, ".codex/config.toml", "a = ")
    configure(tmp_path, ".config/zed/settings.json", "// mine\n{}")
    checks = await found(nowhere, tmp_path)
    assert checks["Cursor"] == Check(name="Cursor", status="ok", detail=f"starts this rlm-mcp ({cursor})")
    assert checks["Windsurf"] == Check(
        name="Windsurf",
        status="warning",
        detail=f"starts /bin/sh, which is not this rlm-mcp ({windsurf})",
        remedy="`rlm-mcp install windsurf` corrects it",
    )
    assert checks["Gemini CLI"] == Check(
        name="Gemini CLI",
        status="failure",
        detail=f"starts /gone/rlm-mcp, which does not exist ({gemini})",
        remedy="`rlm-mcp install gemini-cli` corrects it",
    )
    assert (checks["Codex"].status, "config.toml is not TOML" in checks["Codex"].detail) == ("warning", True)
    assert checks["other clients"].detail == "without rlm-mcp: Zed"


async def test_a_machine_without_clients_says_so(nowhere: Settings, tmp_path: Path) -> None:
    assert (await found(nowhere, tmp_path))["clients"].status == "ok"


async def test_the_clients_own_model_is_not_checked_on_this_machine(nowhere: Settings, tmp_path: Path) -> None:
    checks = await found(replace(nowhere, model="client"), tmp_path)
    expected = Check(name="model", status="ok", detail="the client's own model, if the client offers sampling")
    assert checks["model"] == expected


async def test_what_may_be_read_from_buckets_is_listed_and_read(nowhere: Settings, tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="the extra `s3` is not installed")
    from rlm_mcp.contexts.sources.s3_bucket import S3Bucket
    from tests.peers.cluster import access_to, object_store

    logs = tmp_path / "buckets" / "texts" / "logs"
    logs.mkdir(parents=True)
    (logs / "a.log").write_text("one")
    addresses = ("s3://texts/logs", "s3://texts/logs/a.log", "s3://texts/none", "s3://gone/logs")
    with object_store(tmp_path / "buckets") as endpoint:
        checks = run_checks(
            replace(nowhere, s3_sources=addresses),
            warm=False,
            on_progress=lambda _: None,
            folders=UserFolders(platform="linux", home=tmp_path),
            own=OWN,
            find_servers=list,
            open_bucket=lambda name: S3Bucket(name, access=access_to(endpoint), patience=0.3),
        )
        objects = [(check.status, check.detail) async for check in checks if check.name == "objects"]
    assert objects == [
        ("ok", "s3://texts/logs can be listed and read"),
        ("ok", "s3://texts/logs/a.log can be listed and read"),
        ("warning", "s3://texts/none has no objects"),
        ("failure", "there is no bucket gone: check the address s3://gone/logs"),
    ]

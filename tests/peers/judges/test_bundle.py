"""The bundle in the hands of its own tool and run as a host runs it; the registry's entry against its real schema."""

import json
import shutil
from pathlib import Path
from typing import Any

from bundle.build import ROOT, lay_out
from tests.peers.raw_lines import speaking

from .conftest import Counts, run

MANIFEST: dict[str, Any] = json.loads((ROOT / "bundle" / "manifest.json").read_text())


def test_the_manifest_is_valid(environ: dict[str, str], tmp_path: Path, counts: Counts) -> None:
    done = run(["mcpb", "validate", str(ROOT / "bundle" / "manifest.json")], environ, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    counts.add(manifests_valid=1)


def test_a_packed_bundle_is_unpacked_and_serves_with_unfilled_settings(
    environ: dict[str, str], tmp_path: Path, counts: Counts
) -> None:
    bundle, unpacked = tmp_path / "rlm-mcp.mcpb", tmp_path / "unpacked"
    lay_out(tmp_path / "laid out")
    for command in (["pack", str(tmp_path / "laid out"), str(bundle)], ["unpack", str(bundle), str(unpacked)]):
        done = run(["mcpb", *command], environ, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    start = MANIFEST["server"]["mcp_config"]
    command = [start["command"], *(part.replace("${__dirname}", str(unpacked)) for part in start["args"])]
    installed = run([start["command"], "sync", "--directory", str(unpacked)], environ, tmp_path, seconds=600)
    assert installed.returncode == 0, installed.stderr
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "host", "version": "1"}}
    with speaking(command, environ | start["env"] | {"RLM_MCP_ROOTS": str(tmp_path)}) as wire:
        assert wire.ask("initialize", hello)["result"]["serverInfo"]["version"] == MANIFEST["version"]
        wire.notify("notifications/initialized")
        tools = wire.ask("tools/list")["result"]["tools"]
        code = {"name": "inspect_context", "arguments": {"context": "abc", "code": "len(context)"}}
        wire.ask("tools/call", {"name": "register_context", "arguments": {"text": "a b c", "name": "abc"}})
        cell = wire.ask("tools/call", code)["result"]["structuredContent"]
    assert [tool["name"] for tool in tools] == [tool["name"] for tool in MANIFEST["tools"]]
    assert cell["value"] == "5"
    counts.add(bundles_packed=1, bundles_served=1, bundle_bytes=bundle.stat().st_size)


def test_the_registry_entry_follows_the_schema_that_it_names(
    environ: dict[str, str], tmp_path: Path, counts: Counts
) -> None:
    shutil.copy(ROOT / "server.json", tmp_path)
    done = run(["skillsaw", "lint", "--strict", "--no-progress", str(tmp_path)], environ, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mcp-registry" in done.stdout
    counts.add(registry_entries_valid=1)

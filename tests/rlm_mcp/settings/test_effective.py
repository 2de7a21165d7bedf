from pathlib import Path

from rlm_mcp.settings import SETTINGS, effective_settings
from tests.rlm_mcp.settings.user import load


def test_effective_settings_have_their_origin_and_mask_secrets(tmp_path: Path) -> None:
    file = "model = 'm'\n\n[prices]\nm = [1, 2]\n"
    settings = load(
        tmp_path, {"RLM_MCP_API_KEY": "sk-very-secret", "RLM_MCP_ROOTS": "/a:/b"}, file=file, flags={"max_usd": 1}
    )
    rows = {row.name: (row.value, row.origin) for row in effective_settings(settings)}
    assert list(rows) == list(SETTINGS)
    config = tmp_path / "config.toml"
    assert rows["model"] == ("m", f"model in {config}, line 1")
    assert rows["prices"] == ({"m": [1.0, 2.0]}, f"prices in {config}, line 3")
    assert rows["api_key"] == ("***", "RLM_MCP_API_KEY")
    assert rows["roots"] == (["/a", "/b"], "RLM_MCP_ROOTS")
    assert rows["max_usd"] == (1.0, "--max-usd")
    assert rows["max_sub_calls"] == (1_000, "default")
    assert rows["sub_api_key"] == (None, "default: none")

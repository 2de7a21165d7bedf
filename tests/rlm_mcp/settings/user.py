"""A user with a settings file and an environment."""

from collections.abc import Mapping
from pathlib import Path

from rlm_mcp.settings import Settings, load_settings


def load(
    tmp_path: Path,
    environ: Mapping[str, str] | None = None,
    *,
    file: str = "",
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """The settings of a user whose home is `tmp_path`."""
    config = tmp_path / "config.toml"
    config.write_text(file)
    return load_settings(flags, environ={"HOME": str(tmp_path), **(environ or {})}, config_file=config)

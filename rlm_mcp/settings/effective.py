"""The settings in effect, as `rlm-mcp config` shows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_mcp.redact import Secret
from rlm_mcp.settings.table import SETTINGS
from rlm_mcp.settings.types import Settings, ToolServer
from rlm_mcp.spending import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """The value of one setting, as JSON with secrets masked, and its origin."""

    name: str
    value: Any
    origin: str


def effective_settings(settings: Settings) -> list[EffectiveSetting]:
    """All settings, in the order of `SETTINGS`."""
    rows = []
    for name, setting in SETTINGS.items():
        value = _masked(settings.value_of(name))
        default = f"default: {setting.default}" if setting.default and not value else "default"
        rows.append(EffectiveSetting(name=name, value=value, origin=settings.sources.get(name, default)))
    return rows


def _masked(value: object) -> Any:
    match value:
        case Secret():
            return "***" if value else None
        case Price():
            return [value.usd_per_mtok_in, value.usd_per_mtok_out]
        case ToolServer():
            return {"command": value.command[0], "allow": list(value.allow), "env": list(value.env)}
        case Path():
            return str(value)
        case tuple():
            return [_masked(part) for part in value]
        case Mapping():
            return {name: _masked(part) for name, part in value.items()}
    return value

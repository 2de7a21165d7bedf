"""The user's settings: flags override environment variables, which override ~/.config/rlm-mcp/config.toml.

Every setting has one name, such as `max_usd`: it is the key in the file, the flag (--max-usd) if there is one and,
in capitals after RLM_MCP_, the environment variable (RLM_MCP_MAX_USD). Any other name is refused, with the nearest
valid one as a suggestion. A setting is a field of `Settings` (types.py) and a row of `SETTINGS` (table.py); the origin
of every value is recorded.

A server reads its settings before it answers its client, so these files import little, and modules that few values
need where these are parsed.
"""

from rlm_mcp.settings.effective import EffectiveSetting, effective_settings
from rlm_mcp.settings.loading import PREFIX, config_path, flag_of, home_directory, load_settings, local_roots
from rlm_mcp.settings.parsers import OPENAI_BASE_URL, package_names
from rlm_mcp.settings.table import SETTINGS
from rlm_mcp.settings.types import MOST, Settings, ToolServer

__all__ = [
    "MOST",
    "OPENAI_BASE_URL",
    "PREFIX",
    "SETTINGS",
    "EffectiveSetting",
    "Settings",
    "ToolServer",
    "config_path",
    "effective_settings",
    "flag_of",
    "home_directory",
    "load_settings",
    "local_roots",
    "package_names",
]

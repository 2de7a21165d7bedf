"""rlm-mcp: reasoning over inputs far larger than a context window, for any MCP client.

    state = await rlm_mcp.solve("Which component logs the most errors?", ["app.log"])

    async with rlm_mcp.open_workspace(rlm_mcp.load_settings()) as workspace:
        server = rlm_mcp.build_server(workspace)

Public names are imported when they are first used: the MCP SDK alone takes a second.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlm_mcp.library import solve  # noqa: TC004 - see _Package
    from rlm_mcp.server import build_server  # noqa: TC004 - see _Package
    from rlm_mcp.settings import load_settings  # noqa: TC004 - see _Package
    from rlm_mcp.workspace import open_workspace  # noqa: TC004 - see _Package

__version__ = "0.1.0"

__all__ = ["__version__", "build_server", "load_settings", "open_workspace", "solve"]

_HOMES = {
    "build_server": "rlm_mcp.server",
    "load_settings": "rlm_mcp.settings",
    "open_workspace": "rlm_mcp.workspace",
    "solve": "rlm_mcp.library",
}


class _Package(ModuleType):
    """This package, whose names stay what they are: importing the submodule `solve` would replace the function."""

    def __getattribute__(self, name: str) -> Any:
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        return super().__getattribute__(name)


sys.modules[__name__].__class__ = _Package

"""rlm-mcp: reasoning over inputs far larger than a context window, for any MCP client.

    state = await rlm_mcp.solve("Which component logs the most errors?", ["app.log"])

    async with rlm_mcp.open_workspace(rlm_mcp.load_settings()) as workspace:
        server = rlm_mcp.build_server(workspace)

Public names are imported when they are first used: the MCP SDK alone takes a second.
"""

from rlm_mcp.version import __version__

TYPE_CHECKING = False  # type checkers take it for true; importing `typing` would take longer than this package
if TYPE_CHECKING:
    from rlm_mcp.server.server import build_server
    from rlm_mcp.settings import load_settings
    from rlm_mcp.workspace.api import solve
    from rlm_mcp.workspace.workspace import open_workspace

__all__ = ["__version__", "build_server", "load_settings", "open_workspace", "solve"]

_HOMES = {
    "build_server": "rlm_mcp.server.server",
    "load_settings": "rlm_mcp.settings",
    "open_workspace": "rlm_mcp.workspace.workspace",
    "solve": "rlm_mcp.workspace.api",
}


def __getattr__(name: str) -> object:
    """A public name from where it lives. No module of this package is called like one: importing it would hide it."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rlm_mcp' has no attribute {name!r}")

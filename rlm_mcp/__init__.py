"""rlm-mcp: reasoning over inputs far larger than a context window, for any MCP client."""

__version__ = "0.1.0"

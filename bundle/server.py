"""Entry point for hosts of MCP bundles, started with `uv run server.py` in the unpacked bundle; serves on stdio."""

import sys

from rlm_mcp.cli.main import main

sys.exit(main(["serve"]))

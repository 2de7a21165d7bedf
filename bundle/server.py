"""What hosts of MCP bundles start, with `uv run server.py` in the unpacked bundle: the server on stdio."""

import sys

from rlm_mcp.cli.main import main

sys.exit(main(["serve"]))

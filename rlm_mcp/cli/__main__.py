"""`python -m rlm_mcp.cli`, which client configurations start if no `rlm-mcp` script is installed."""

import sys

from rlm_mcp.cli.main import main

sys.exit(main())

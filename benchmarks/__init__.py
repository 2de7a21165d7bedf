"""Programs that measure what the documentation claims."""

import tempfile
from pathlib import Path

CACHE_DIR = Path(tempfile.gettempdir()) / "rlm-mcp-benchmark"
"""Kept between benchmarks: the compiled sandbox, whose compilation is not measured, and large files."""

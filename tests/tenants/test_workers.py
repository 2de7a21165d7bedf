"""Workers that die, stop, or answer nonsense: no run and no variable is lost, and other tenants notice nothing."""

from pathlib import Path

import pytest

from tests.peers.openai_server import Request

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="the processes of workers are found in /proc"),
]

SLOW = "```repl\nparts = llm_query_batched([f'part {i}' for i in range(8)])\nFINAL(len(parts))\n```"


def reply(request: Request) -> str:
    """A root model whose code asks eight sub-models."""
    return "ok" if "part " in request.text and "parts =" not in request.text else SLOW

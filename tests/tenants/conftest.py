"""Two tenants of one server process over HTTP: ann attacks, and bob goes on as if nothing happened."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult

from rlm_mcp.server.transports.token_file import digest_of
from tests.peers.places import environment, http_process

ANN, BOB = "token-of-ann", "token-of-bob"

ServeTwo = Callable[..., AbstractContextManager[str]]
"""takes the base URL of a model and settings; gives the URL of a server that ends cleanly and logs no error"""


@pytest.fixture
def serve_two(tmp_path: Path, compiled_cache: Path) -> ServeTwo:
    """Starts a server process whose tokens are ANN and BOB."""

    @contextmanager
    def serving(base_url: str = "http://127.0.0.1:9", **more: str) -> Iterator[str]:
        environ = environment(tmp_path, compiled_cache, base_url, **more)
        with http_process(environ, "--token-file", token_file(tmp_path)) as (process, url):
            yield url
            process.terminate()
            _, log = process.communicate(timeout=60)
            assert process.returncode == 0
            assert b'"level": "ERROR"' not in log, log.decode()

    return serving


def token_file(directory: Path) -> str:
    """A file with the tokens ANN and BOB."""
    tokens = directory / "tokens"
    tokens.write_text(f"ann {digest_of(ANN)}\nbob {digest_of(BOB)}\n")
    return str(tokens)


async def called(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The fields of a tool's result."""
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    return result.structured_content or {}

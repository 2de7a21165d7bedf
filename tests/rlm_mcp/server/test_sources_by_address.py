"""Addresses as sources of `register_context`, in both protocol eras; `contexts/sources/test_fetched.py` fetches."""

import pytest
from mcp import Client
from mcp_types import TextContent

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("https://127.0.0.1/x", "127.0.0.1 leads to an address that is not public"),
        ("git+https://[::1]/r.git@main", "::1 leads to an address that is not public"),
        ("ext::sh -c touch", "the address of the source holds a blank"),
        ("http://me:hunter2@example.org/x", "sources are not fetched over http"),
        ("https://github.com/o/r@--upload-pack=touch", "neither a branch nor a tag nor a whole commit"),
    ],
)
async def test_an_address_that_is_not_fetched_is_refused_in_words(client: Client, source: str, words: str) -> None:
    result = await client.call_tool("register_context", {"source": source})
    (content,) = result.content
    assert isinstance(content, TextContent)
    assert result.is_error
    assert words in content.text
    assert "hunter2" not in content.text


async def test_an_address_is_no_context_until_it_is_registered(client: Client) -> None:
    address = "https://me:hunter2@example.org/x?token=hunter2"
    result = await client.call_tool("rlm_solve", {"query": "?", "contexts": [address]})
    (content,) = result.content
    assert isinstance(content, TextContent)
    assert content.text == (
        "https://example.org/x?token=*** is an address, not a context: register it first (`register_context`)"
    )

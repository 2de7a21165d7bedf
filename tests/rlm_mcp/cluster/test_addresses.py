"""What an address may look like, and what is shown of it."""

import pytest

from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.contexts.sources.buckets import parse_bucket
from rlm_mcp.errors import SettingsError
from rlm_mcp.redact import Secret


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://rlm:pass-Word-17@db:5433/texts", "db:5433/texts"),
        ("postgres://db/texts?user=rlm&password=pass-Word-17", "db:5432/texts"),
        ("postgresql:///texts?host=/run/postgresql", "/run/postgresql/texts"),
        ("postgresql://rlm:pass%2DWord-17@[::1]/", "::1:5432/rlm"),
    ],
)
def test_a_database_is_shown_without_its_password(url: str, shown: str) -> None:
    address = parse_database(Secret(url))
    assert address.shown == shown
    assert "pass-Word-17" not in repr(address)
    assert address.scrub("refused pass-Word-17 today") in {"refused [key] today", "refused pass-Word-17 today"}
    assert bool(address.password) == ("ass" in url)


@pytest.mark.parametrize("url", ["mysql://rlm:hidden@db/x", "db", "postgresql://rlm:hidden@db:99999999/x"])
def test_what_is_no_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="RLM_MCP_STORE is not") as refused:
        parse_database(Secret(url))
    assert "hidden" not in str(refused.value)


def test_a_bucket_has_a_name_and_a_prefix() -> None:
    assert [parse_bucket(url, "RLM_MCP_BLOBS").shown for url in ("s3://texts", "s3://texts/a/b/")] == [
        "s3://texts",
        "s3://texts/a/b",
    ]
    for wrong in ("texts", "https://texts/a", "s3:///a"):
        with pytest.raises(SettingsError, match="RLM_MCP_BLOBS is not the address of a bucket: write s3://BUCKET/"):
            parse_bucket(wrong, "RLM_MCP_BLOBS")
    with pytest.raises(SettingsError, match="contains more than a bucket and a prefix") as refused:
        parse_bucket("s3://key:hidden@texts/a", "RLM_MCP_BLOBS")
    assert "hidden" not in str(refused.value)

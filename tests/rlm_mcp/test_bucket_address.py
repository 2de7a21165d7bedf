import pytest

from rlm_mcp.bucket_address import parse_bucket
from rlm_mcp.errors import SettingsError


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
    with pytest.raises(SettingsError, match="is not the address of a bucket"):
        parse_bucket("s3://texts/a\nb", "RLM_MCP_BLOBS")

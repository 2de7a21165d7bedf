"""What an address may look like, and what is shown of it."""

import pytest

from rlm_mcp.cluster.addresses import parse_database
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

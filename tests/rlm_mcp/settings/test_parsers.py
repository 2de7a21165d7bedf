from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.errors import SettingsError
from rlm_mcp.settings import SETTINGS, effective_settings
from rlm_mcp.spending import Price
from tests.rlm_mcp.settings.user import load


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"RLM_MCP_MODLE": "x"}, "RLM_MCP_MODLE is not a setting: did you mean RLM_MCP_MODEL?"),
        (
            {"RLM_MCP_MAX_USD": "much"},
            "RLM_MCP_MAX_USD is 'much': write a number of 0 or more, for example 0.50",
        ),
        ({"RLM_MCP_MAX_USD": "nan"}, "RLM_MCP_MAX_USD is 'nan': write a number of 0 or more, for example 0.50"),
        ({"RLM_MCP_CONCURRENCY": "0"}, "RLM_MCP_CONCURRENCY is '0': write a whole number of 1 or more"),
        (
            {"RLM_MCP_BASE_URL": "localhost:8000"},
            "RLM_MCP_BASE_URL is 'localhost:8000', which is not a URL: write, for example, https://api.openai.com/v1",
        ),
        (
            {"RLM_MCP_PRICES": '{"m": [1]}'},
            "RLM_MCP_PRICES gives 'm' the price [1]: write {\"model\": [dollars per million tokens in, out]}",
        ),
        ({"RLM_MCP_SUB_CALL_CACHE": "maybe"}, "RLM_MCP_SUB_CALL_CACHE is 'maybe': write true or false"),
    ],
)
def test_a_wrong_value_is_one_sentence(tmp_path: Path, environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, environ)
    assert str(error.value) == sentence


def test_a_key_never_shows_and_a_broken_one_is_not_quoted(tmp_path: Path) -> None:
    settings = load(tmp_path, {"RLM_MCP_API_KEY": "sk-very-secret"})
    assert "very" not in repr(settings) + str(settings) + f"{settings.api_key}"
    with pytest.raises(SettingsError) as error:
        load(tmp_path, {"RLM_MCP_API_KEY": "sk-very\nsecret"})
    assert str(error.value) == "RLM_MCP_API_KEY contains a character that cannot be in an API key: copy the key again"


def test_prices_are_lists_or_objects(tmp_path: Path) -> None:
    settings = load(tmp_path, {"RLM_MCP_PRICES": '{"a": [1, 2.5], "b": {"in": 0, "out": 3}}'})
    assert settings.prices == {
        "a": Price(usd_per_mtok_in=1, usd_per_mtok_out=2.5),
        "b": Price(usd_per_mtok_in=0, usd_per_mtok_out=3),
    }
    assert load(tmp_path, file="[prices]\na = [1, 2]").prices == {"a": Price(usd_per_mtok_in=1, usd_per_mtok_out=2)}


def test_roots_are_separated_like_paths(tmp_path: Path) -> None:
    assert load(tmp_path, {"RLM_MCP_ROOTS": "/a:/b"}).roots == (Path("/a"), Path("/b"))


def test_a_quota_is_a_number_of_bytes(tmp_path: Path) -> None:
    assert load(tmp_path, {"RLM_MCP_QUOTA_BYTES": "5000"}).quota_bytes == 5_000
    with pytest.raises(SettingsError, match="RLM_MCP_QUOTA_BYTES is '5 GB': write a number"):
        load(tmp_path, {"RLM_MCP_QUOTA_BYTES": "5 GB"})


def test_hosts_and_networks_to_fetch_from_are_lists(tmp_path: Path) -> None:
    environ = {"RLM_MCP_FETCH_HOSTS": "GitHub.com, *.example.org", "RLM_MCP_FETCH_NETWORKS": "10.1.2.3/16,::1"}
    settings = load(tmp_path, environ)
    assert settings.fetch_hosts == ("github.com", "*.example.org")
    assert settings.fetch_networks == ("10.1.0.0/16", "::1/128")
    assert load(tmp_path, {"RLM_MCP_FETCH_HOSTS": "none"}).fetch_hosts == ()
    for name, value in (("HOSTS", "https://github.com"), ("NETWORKS", "intranet")):
        with pytest.raises(SettingsError, match=f"RLM_MCP_FETCH_{name} is '{value}': write"):
            load(tmp_path, {f"RLM_MCP_FETCH_{name}": value})


def test_objects_that_may_be_sources_are_a_list_without_keys(tmp_path: Path) -> None:
    settings = load(tmp_path, {"RLM_MCP_S3_SOURCES": "s3://logs/2026/a b, s3://docs"})
    assert settings.s3_sources == ("s3://logs/2026/a b", "s3://docs")
    assert load(tmp_path, {}).s3_sources == load(tmp_path, {"RLM_MCP_S3_SOURCES": "none"}).s3_sources == ()
    for value in (
        "logs",
        "https://logs/a",
        "s3://",
        "s3://key:hidden@logs/a",
        "s3://logs/a?secret=hidden",
        "s3://a,none",
        "s3://_logs",
        "s3://a",
    ):
        with pytest.raises(
            SettingsError, match="RLM_MCP_S3_SOURCES is not a list of buckets: write none, or"
        ) as refused:
            load(tmp_path, {"RLM_MCP_S3_SOURCES": value})
        assert "hidden" not in str(refused.value)


def test_the_endpoint_path_is_taken_off_the_base_url(tmp_path: Path) -> None:
    assert load(tmp_path, {"RLM_MCP_BASE_URL": "http://h/v1/chat/completions"}).base_url == "http://h/v1"


def test_a_base_url_keeps_the_version_of_azure_and_no_other_query(tmp_path: Path) -> None:
    azure = "https://r.openai.azure.com/openai/deployments/m"
    url = f"{azure}/chat/completions?api-version=2024-10-21"
    assert load(tmp_path, {"RLM_MCP_BASE_URL": url}).base_url == f"{azure}?api-version=2024-10-21"
    for query in ("?key=sk-1", "?api-version=1&sig=abc"):
        with pytest.raises(SettingsError, match="a query other than api-version") as error:
            load(tmp_path, {"RLM_MCP_BASE_URL": azure + query})
        assert "sk-1" not in str(error.value)


HOSTILE = [
    10**400, -(10**400), 10**5000, 1e308, float("nan"), float("inf"), "1" * 5000, "1e999", "\0", "a\0b",
    "~no-such-user", "\ud800", "http://[", "http://h:99999", "http://h:0", "[" * 100_000, '{"m":' * 100_000,
    '{"m": [1e999, 1]}', '{"m": [' + "9" * 5000 + ", 1]}", {"m": [10**400, 1]}, {"m": [1, float("nan")]},
    {"m": {"in": 10**5000}}, [[10**5000]], ["\0"], True, None, [], {}, b"x", object(),
]  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_no_value_of_a_setting_is_an_internal_error(tmp_path: Path, name: str) -> None:
    for value in HOSTILE:
        given: Mapping[str, Any]
        for given in ({"flags": {name: value}}, {"environ": {f"RLM_MCP_{name.upper()}": str_of(value)}}):
            try:
                settings = load(tmp_path, **given)
            except SettingsError as error:
                assert len(str(error)) < 2_000  # noqa: PT017 - most values are good
            else:
                assert effective_settings(settings)


def str_of(value: object) -> str:
    return value if isinstance(value, str) else "9" * 400

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.errors import SettingsError
from rlm_mcp.redact import Secret
from rlm_mcp.settings import SETTINGS, Settings, config_path, effective_settings, load_settings, local_roots
from rlm_mcp.spending import REQUESTED_LIMITS, Price, RunLimits


def load(
    tmp_path: Path,
    environ: Mapping[str, str] | None = None,
    *,
    file: str = "",
    flags: Mapping[str, object] | None = None,
) -> Settings:
    config = tmp_path / "config.toml"
    config.write_text(file)
    return load_settings(flags, environ={"HOME": str(tmp_path), **(environ or {})}, config_file=config)


def test_flags_override_environment_then_file_then_the_variables_of_openai(tmp_path: Path) -> None:
    file = 'model = "file"\nsub_model = "file"\nmax_usd = 1\n'
    environ = {
        "RLM_MCP_MODEL": "environment",
        "RLM_MCP_SUB_MODEL": "environment",
        "OPENAI_BASE_URL": "http://openai.example/v1/",
        "OPENAI_API_KEY": "sk-fallback",
    }
    settings = load(
        tmp_path,
        environ,
        file=file,
        flags={"model": "flag", "sub_model": None},
    )
    assert (settings.model, settings.sub_model, settings.limits.max_usd) == ("flag", "environment", 1.0)
    assert (settings.base_url, settings.api_key) == ("http://openai.example/v1", Secret("sk-fallback"))
    assert settings.sources["sub_model"] == "RLM_MCP_SUB_MODEL"


def test_nothing_set_gives_defaults_below_home(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings == Settings(data_dir=tmp_path / ".local/share/rlm-mcp", cache_dir=tmp_path / ".cache/rlm-mcp")


@pytest.mark.parametrize("value", ["", "  ", "${user_config.base_url}", "${RLM_MCP_BASE_URL}"])
def test_empty_variables_and_placeholders_that_a_host_left_count_as_not_set(tmp_path: Path, value: str) -> None:
    environ = {"RLM_MCP_BASE_URL": value, "RLM_MCP_MAX_USD": value, "OPENAI_API_KEY": value}
    assert load(tmp_path, environ) == load(tmp_path)


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    assert load_settings(environ={"HOME": str(tmp_path)}).model is None


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


def test_a_wrong_key_of_the_file_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"config.toml, line 3, sets 'max_dollar', which is not a setting: did you mean max_"
    ):
        load(tmp_path, file="# limits\nmodel = 'max_dollar = 1'\nmax_dollar = 1")
    with pytest.raises(SettingsError, match=r"max_usd in .*config.toml, line 2 is 'much': write a number"):
        load(tmp_path, file="\nmax_usd = 'much'")
    with pytest.raises(SettingsError, match=r"config.toml is not TOML \("):
        load(tmp_path, file="model = ")


def test_a_wrong_flag_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'sub_modell' is not a setting: did you mean sub_model?"):
        load(tmp_path, flags={"sub_modell": "x"})


def test_a_foreign_variable_is_only_reported(tmp_path: Path) -> None:
    assert load(tmp_path, {"RLM_MCP_SOMETHING_ELSE": "1"}).warnings == (
        "RLM_MCP_SOMETHING_ELSE is not a setting and is ignored",
    )


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


def test_a_client_may_register_what_lies_in_home_and_working_directory_but_not_everything(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    assert local_roots({"HOME": str(home)}, directory=work) == (home, work)
    assert local_roots({"HOME": str(home)}, directory=home) == (home,)
    assert local_roots({"HOME": "/"}, directory=Path("/")) == ()


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


def test_a_run_may_lower_a_limit_that_was_set_but_not_raise_it(tmp_path: Path) -> None:
    settings = load(tmp_path, {"RLM_MCP_MAX_USD": "0.5"})
    assert settings.limits_for(RunLimits(max_usd=2)).max_usd == 0.5
    assert settings.limits_for(RunLimits(max_usd=0.1)).max_usd == 0.1
    assert settings.limits_for(RunLimits(max_seconds=1e6)).max_seconds == 1e6  # only a default
    with pytest.raises(SettingsError, match="max_sub_calls=-1 is not a limit"):
        settings.limits_for(RunLimits(max_sub_calls=-1))


@pytest.mark.parametrize("name", REQUESTED_LIMITS)
def test_a_limit_that_no_timer_or_counter_takes_is_refused(tmp_path: Path, name: str) -> None:
    settings = load(tmp_path)
    values: list[Any] = [10**400, 10**5000, -(10**400), 1e308, float("nan"), float("inf")]
    for asked in values:
        with pytest.raises(SettingsError, match=f"^{name}=.{{1,100}} is not a limit: give a number from 0 to "):
            settings.limits_for(RunLimits(**{name: asked}))


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
                assert len(str(error)) < 2_000  # noqa: PT017
            else:
                assert effective_settings(settings)


def str_of(value: object) -> str:
    return value if isinstance(value, str) else "9" * 400


@pytest.mark.parametrize(
    "text", ["max_usd = " + "9" * 5000, "prices = " + "[" * 100_000, "max_usd = 1e999", 'roots = "\\u0000"']
)
def test_no_text_of_the_file_is_an_internal_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        load(tmp_path, file=text)


def test_effective_settings_have_their_origin_and_mask_secrets(tmp_path: Path) -> None:
    file = "model = 'm'\n\n[prices]\nm = [1, 2]\n"
    settings = load(
        tmp_path, {"RLM_MCP_API_KEY": "sk-very-secret", "RLM_MCP_ROOTS": "/a:/b"}, file=file, flags={"max_usd": 1}
    )
    rows = {row.name: (row.value, row.origin) for row in effective_settings(settings)}
    assert list(rows) == list(SETTINGS)
    config = tmp_path / "config.toml"
    assert rows["model"] == ("m", f"model in {config}, line 1")
    assert rows["prices"] == ({"m": [1.0, 2.0]}, f"prices in {config}, line 3")
    assert rows["api_key"] == ("***", "RLM_MCP_API_KEY")
    assert rows["roots"] == (["/a", "/b"], "RLM_MCP_ROOTS")
    assert rows["max_usd"] == (1.0, "--max-usd")
    assert rows["max_sub_calls"] == (1_000, "default")
    assert rows["sub_api_key"] == (None, "default: none")


def test_every_field_that_can_be_set_is_a_row_of_the_table() -> None:
    fields = {field.name for field in (*dataclasses.fields(Settings), *dataclasses.fields(RunLimits))}
    fields -= {"traces", "trace_content"} | {"fetch_with_keys"}  # set by OTEL_*, and by the transport
    assert set(SETTINGS) == fields - {"limits", "sources", "warnings"}
    bare = Settings(data_dir=Path("data"), cache_dir=Path("cache"))
    assert all(row.meaning and (row.default or bare.value_of(name) is not None) for name, row in SETTINGS.items())


def test_the_file_is_in_the_configuration_folder(tmp_path: Path) -> None:
    assert config_path({"HOME": str(tmp_path)}) == tmp_path / ".config/rlm-mcp/config.toml"
    assert config_path({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/rlm-mcp/config.toml")

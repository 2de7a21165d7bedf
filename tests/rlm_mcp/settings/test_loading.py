from pathlib import Path

import pytest

from rlm_mcp.errors import SettingsError
from rlm_mcp.redact import Secret
from rlm_mcp.settings import Settings, config_path, load_settings, local_roots
from tests.rlm_mcp.settings.user import load


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


def test_a_client_may_register_what_lies_in_home_and_working_directory_but_not_everything(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    assert local_roots({"HOME": str(home)}, directory=work) == (home, work)
    assert local_roots({"HOME": str(home)}, directory=home) == (home,)
    assert local_roots({"HOME": "/"}, directory=Path("/")) == ()


@pytest.mark.parametrize(
    "text", ["max_usd = " + "9" * 5000, "prices = " + "[" * 100_000, "max_usd = 1e999", 'roots = "\\u0000"']
)
def test_no_text_of_the_file_is_an_internal_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        load(tmp_path, file=text)


def test_the_file_is_in_the_configuration_folder(tmp_path: Path) -> None:
    assert config_path({"HOME": str(tmp_path)}) == tmp_path / ".config/rlm-mcp/config.toml"
    assert config_path({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/rlm-mcp/config.toml")

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.errors import SettingsError
from rlm_mcp.settings import SETTINGS, Settings
from rlm_mcp.spending import REQUESTED_LIMITS, RunLimits
from tests.rlm_mcp.settings.user import load


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


def test_every_field_that_can_be_set_is_a_row_of_the_table() -> None:
    fields = {field.name for field in (*dataclasses.fields(Settings), *dataclasses.fields(RunLimits))}
    fields -= {"traces", "trace_content"} | {"fetch_with_keys"}  # set by OTEL_*, and by the transport
    assert set(SETTINGS) == fields - {"limits", "sources", "warnings"}
    bare = Settings(data_dir=Path("data"), cache_dir=Path("cache"))
    assert all(row.meaning and (row.default or bare.value_of(name) is not None) for name, row in SETTINGS.items())

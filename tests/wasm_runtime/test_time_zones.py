"""The time zones of the guest."""

from collections.abc import Iterator

import pytest

from wasm_runtime import Runtime


@pytest.fixture(scope="module")
def zones() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("[str(ZoneInfo(name)) for name in ('UTC', 'Europe/Berlin')]", "['UTC', 'Europe/Berlin']"),
        ("str(datetime(2026, 7, 1, 12, tzinfo=ZoneInfo('America/New_York')))", "'2026-07-01 12:00:00-04:00'"),
        ("datetime(2026, 1, 1, tzinfo=timezone.utc).astimezone(ZoneInfo('Asia/Kolkata')).hour", "5"),
        ("{'UTC', 'Asia/Tokyo'} <= zoneinfo.available_timezones()", "True"),
    ],
)
def test_zones_are_those_of_the_iana_database(zones: Runtime, code: str, value: str) -> None:
    with zones.session() as session:
        session.exec("import zoneinfo\nfrom datetime import datetime, timezone\nfrom zoneinfo import ZoneInfo")
        assert session.exec(code).value == value


def test_an_unknown_zone_is_said_to_be_unknown_and_nothing_else(zones: Runtime) -> None:
    with zones.session() as session:
        error = session.exec("import zoneinfo; zoneinfo.ZoneInfo('Mars/Base')").error
    assert error is not None
    assert (error.type, error.message) == ("ZoneInfoNotFoundError", "'No time zone found with key Mars/Base'")

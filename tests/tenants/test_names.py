"""No name of a tenant leads to another tenant's data, whoever chose it."""

from pathlib import Path

import pytest

from rlm_mcp.cli.main import main
from rlm_mcp.errors import SettingsError
from rlm_mcp.server.transports.tenant_names import (
    EVERYBODY,
    check_tenant_name,
    directory_of,
    oauth_tenant,
    tenant_directories,
)
from rlm_mcp.server.transports.token_file import digest_of, read_token_file

LEADING_ELSEWHERE = (
    *("..", ".", "...", "", " ", "a/b", "../ann", "a\\b", "~", "ann\0", "ann\n", "an n", ".hidden", "-rf", "ann."),
    *("everybody", "EVERYBODY", "oauth-0123", "OAuth-x", "CON", "nul", "com1.txt", "a" * 65, "ä", "a:b", "a;b"),
)


@pytest.mark.parametrize("name", ["ann", "Ann_2", "ann@example.org", "@team", "_", "a.b-c", "a" * 64, "console"])
def test_a_plain_name_is_a_directory_of_its_own(name: str) -> None:
    assert directory_of(check_tenant_name(name), Path("data")) == Path("data", "owners", name)


@pytest.mark.parametrize("name", LEADING_ELSEWHERE)
def test_a_name_that_leads_elsewhere_is_refused_wherever_it_comes_from(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no name for a token"):
        check_tenant_name(name)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {digest_of('t')}\n{name} {digest_of('u')}\n", "utf-8")
    with pytest.raises(SettingsError, match=r"line [23] of"):
        read_token_file(tokens)
    if name != EVERYBODY:
        with pytest.raises(SettingsError, match=r"no name for a token|no tenant"):
            directory_of(name, tmp_path)


@pytest.mark.parametrize("name", ["..", "everybody", "a/b"])
def test_no_token_is_made_for_such_a_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = main(["token", name]), capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert f"{name!r} is no name for a token" in said.err


def test_names_that_some_file_systems_take_for_one_are_refused(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {digest_of('t')}\nAnn {digest_of('u')}\n")
    with pytest.raises(SettingsError, match="'Ann' and 'ann' differ in case only"):
        read_token_file(tokens)


def test_a_name_may_have_several_tokens(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {digest_of('t')}\nann {digest_of('u')}\n")
    assert read_token_file(tokens).names == {"ann"}


@pytest.mark.parametrize("subject", ["..", "everybody", "ann", "a/../b", "\ud800", "", "\0", "x" * 10_000])
def test_a_subject_of_an_issuer_is_a_tenant_of_its_own_under_a_hash(subject: str) -> None:
    name = oauth_tenant("https://issuer.example", subject)
    assert directory_of(name, Path("data")) == Path("data", "owners", name)
    assert name != oauth_tenant("https://issuer.example", f"{subject}2")


def test_directories_of_no_tenant_are_left_alone(tmp_path: Path) -> None:
    for name in ("ann", "lost+found", ".snapshot", "x~", "everybody", "oauth-0123", oauth_tenant("i", "s")):
        (tmp_path / "owners" / name).mkdir(parents=True)
    assert tenant_directories(tmp_path) == ["ann", oauth_tenant("i", "s")]

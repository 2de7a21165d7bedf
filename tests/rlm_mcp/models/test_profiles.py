import pytest

from rlm_mcp.models.base import Profile
from rlm_mcp.models.profiles import is_local, profile_of
from rlm_mcp.spending import Price

OPENAI = "https://api.openai.com/v1"


def test_a_dated_name_has_the_profile_of_its_model() -> None:
    expected = Profile(
        window_tokens=400_000,
        max_output_tokens=128_000,
        usd_per_mtok_in=1.25,
        usd_per_mtok_out=10,
        usd_per_mtok_cached_in=0.125,
    )
    assert profile_of("gpt-5", OPENAI) == profile_of("gpt-5-2025-08-07", OPENAI) == expected


def test_a_price_holds_only_at_the_provider_that_charges_it() -> None:
    profile = profile_of("openai/gpt-5", "https://gateway.example/v1")
    assert (profile.window_tokens, profile.priced) == (400_000, False)


def test_the_users_price_goes_first() -> None:
    profile = profile_of("gpt-5", OPENAI, prices={"gpt-5": Price(usd_per_mtok_in=1, usd_per_mtok_out=2)})
    assert profile.cost_usd(1_000_000, 500_000, cached_prompt_tokens=400_000) == 2.0


def test_cached_prompt_tokens_are_cheaper_where_the_table_says_so() -> None:
    assert profile_of("gpt-5", OPENAI).cost_usd(1_000_000, 0, cached_prompt_tokens=1_000_000) == 0.125


@pytest.mark.parametrize(
    ("name", "strength"),
    [
        ("qwen2.5-coder-1.5b-instruct", "weak"),
        ("llama3.1:8b", "weak"),
        ("Qwen3-235B-A22B", "strong"),
        ("mystery", "strong"),
    ],
)
def test_size_decides_the_strength_of_an_unknown_model(name: str, strength: str) -> None:
    assert profile_of(name, "http://127.0.0.1:11434/v1").strength == strength


def test_the_server_may_tell_size_and_window() -> None:
    profile = profile_of("model.gguf", "http://127.0.0.1:8080/v1", billions=1.5, window_tokens=4096)
    assert (profile.strength, profile.window_tokens, profile.max_output_tokens) == ("weak", 4096, 2048)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:1/v1", True),
        ("http://127.0.0.1:1/v1", True),
        ("http://[::1]:1/v1", True),
        ("http://192.168.1.5/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://8.8.8.8/v1", False),
    ],
)
def test_local_addresses(url: str, local: bool) -> None:
    assert is_local(url) is local

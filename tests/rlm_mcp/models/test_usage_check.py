"""Which reports of usage are believed, and what is charged in place of the others."""

from dataclasses import replace

import pytest

from rlm_mcp.models.base import Message, Profile, Usage, bound_prompt, estimate_prompt, estimate_tokens
from rlm_mcp.models.reply_body import ProviderReply
from rlm_mcp.models.usage_check import least_tokens, usage_of

PROSE = "The quick brown fox jumps over the lazy dog, and nobody knows why. " * 40
ASKED = [Message(role="user", content=PROSE)]
PRICED = Profile(usd_per_mtok_in=1.0, usd_per_mtok_out=10.0)
HONEST = ProviderReply(text=PROSE, prompt_tokens=601, completion_tokens=600)
OURS = Usage(
    prompt_tokens=estimate_prompt(ASKED),
    completion_tokens=estimate_tokens(PROSE),
    estimated=True,
    cost_usd=PRICED.cost_usd(estimate_prompt(ASKED), estimate_tokens(PROSE)),
)


def charged(reply: ProviderReply, profile: Profile = PRICED) -> Usage:
    return usage_of(reply, ASKED, 1000, profile)


@pytest.mark.parametrize(("text", "least"), [("", 0), ("a", 0.5), ("a" * 999, 0.5), ("ab" * 800, 50), ("é" * 16, 1)])
def test_a_run_of_one_character_counts_as_one(text: str, least: float) -> None:
    assert least_tokens(text) == least


def test_an_honest_report_is_charged_as_it_is() -> None:
    assert charged(HONEST) == Usage(prompt_tokens=601, completion_tokens=600, cost_usd=601e-6 + 6000e-6)
    assert charged(replace(HONEST, cost_usd=0.005)).cost_usd == 0.005


@pytest.mark.parametrize("tokens", [0, 1, 100, -5, -(10**400)])
def test_too_few_tokens_are_replaced_by_our_count_and_told(tokens: int) -> None:
    usage = charged(replace(HONEST, prompt_tokens=tokens, completion_tokens=tokens))
    assert replace(usage, doubt="") == OURS
    assert usage.doubt.startswith("the provider reported ")
    assert usage.doubt.endswith(" completion tokens")


@pytest.mark.parametrize("tokens", [10**9, 10**400])
def test_absurdly_many_tokens_cost_what_was_set_aside_for_the_call(tokens: int) -> None:
    usage = charged(replace(HONEST, prompt_tokens=tokens, completion_tokens=tokens, cached_prompt_tokens=tokens))
    longest = len(PROSE) // 2 + 1
    assert (usage.prompt_tokens, usage.completion_tokens) == (bound_prompt(ASKED), longest)
    assert usage.cached_prompt_tokens == usage.prompt_tokens
    assert usage.doubt


def test_hidden_reasoning_and_a_gateways_own_prompt_are_believed() -> None:
    usage = charged(replace(HONEST, prompt_tokens=4_000, completion_tokens=50_000))
    assert (usage.prompt_tokens, usage.completion_tokens, usage.doubt) == (4_000, 50_000, "")


def test_a_cost_far_below_a_known_price_is_replaced_by_the_price() -> None:
    usage = charged(replace(HONEST, cost_usd=0.0))
    assert (usage.cost_usd, usage.doubt) == (601e-6 + 6000e-6, "the provider reported a cost of $0")


def test_a_cost_beyond_what_the_call_could_cost_is_bounded_by_it() -> None:
    usage = charged(replace(HONEST, cost_usd=900.0))
    assert usage.cost_usd == PRICED.cost_usd(bound_prompt(ASKED), len(PROSE) // 2 + 1)
    assert usage.doubt == "the provider reported a cost of $900"


def test_a_cost_without_tokens_is_compared_with_the_price_of_our_count() -> None:
    usage = charged(ProviderReply(text=PROSE, cost_usd=0.0))
    assert (usage.cost_usd, usage.doubt) == (OURS.cost_usd, "the provider reported a cost of $0")


def test_without_a_known_price_the_providers_cost_stands() -> None:
    assert charged(replace(HONEST, cost_usd=0.0), Profile()).cost_usd == 0.0


def test_the_record_has_the_doubt_only_where_there_is_one() -> None:
    assert "doubt" not in charged(HONEST).to_json()
    told = charged(replace(HONEST, prompt_tokens=0)).to_json()["doubt"]
    assert told == "the provider reported 0 prompt tokens"


# Tokens that o200k_base, of all tokenisers the one with the fewest, makes of these texts.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (" " * 3000 + "x", 25),
        ("=" * 3000, 48),
        ("\n" * 3000, 188),
        ("the " * 1000, 1001),
        ((" " * 40 + "return value\n") * 100, 400),
        ("| a | b | c |\n|---|---|---|\n" * 100, 1400),
        (
            "Каждый процесс имеет собственный файл блокировки, который удерживается до завершения работы. " * 20,
            342,
        ),
        ("تعتبر اللغة العربية واحدة من أكثر اللغات انتشاراً في العالم ويتحدث بها الملايين من الناس. " * 20, 402),
        ("ประเทศไทยเป็นประเทศที่ตั้งอยู่ในเอเชียตะวันออกเฉียงใต้ มีพรมแดนติดกับประเทศลาวและกัมพูชา" * 20, 678),
        ("人工智能是计算机科学的一个分支,中华人民共和国国务院关于社会主义市场经济体制改革的决定。" * 20, 460),
    ],
)
def test_no_real_tokeniser_is_doubted(text: str, tokens: int) -> None:
    assert least_tokens(text) < tokens

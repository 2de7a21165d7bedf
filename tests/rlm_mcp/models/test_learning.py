"""What is changed in a request that was refused."""

import pytest

from rlm_mcp.models.base import Message
from rlm_mcp.models.dialect import Dialect, Refusal
from rlm_mcp.models.learning import (
    DialectSearch,
    Feature,
    Remedy,
    Sent,
    ShorterReply,
    TooLong,
    judge,
    longest_beside,
    sent_in,
    tokens_ratio,
)

ALL = Sent(prompt_tokens=1_000, max_tokens=8_192, schema=True, system=True, temperature=True, logprobs=True, stop=True)


def refused(text: str, status: int = 400) -> Refusal:
    return Refusal(status=status, text=text)


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        ("max_tokens is too large: 8192. This model supports at most 4096 completion tokens", 4096),
        ("max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens", 4096),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 4096]", 4096),
        ("Range of max_tokens should be [1, 4096]", 4096),
        ("too many tokens: max tokens must be less than or equal to 4000, the maximum output - received 8192", 4000),
        ("The maximum tokens you requested exceeds the model limit of 4096. Try a value lower than 4096.", 4096),
        ("#/max_tokens: 8192 is not less or equal to 4096", 4096),
        ("integer above maximum value for max_tokens, expected a value <= 4096, but got 8192 instead", 4096),
        ("`max_tokens` must be less than or equal to `4096`, it is less than the `context_window` of this model", 4096),
        ("body.max_tokens: Input should be less than or equal to 4096", 4096),
        ("max_completion_tokens must be between 16 and 4096", 4096),
        ("Provider returned error: max_tokens is too large, at most 4096 are allowed", 4096),
        ("Unable to submit request because it has a maxOutputTokens value of 8192 but the range is 1 to 4097", 4097),
        ("max_new_tokens must be <= 2048. Given: 8192", 2048),
        ("max_tokens 参数超过最大值 4096", 4096),
        ("Param Incorrect: max_tokens is too large: 8192. This model supports at most 4096, you provided 8192", 4096),
        ("max_tokens (8192) is greater than max_seq_len (4096)", 4096),
        ("max_tokens is too large", 4096),
    ],
)
def test_the_longest_reply_is_read_from_a_refusal(text: str, longest: int) -> None:
    assert judge(Dialect(), refused(text), ALL) == Dialect(longest_reply=longest)


COMPLETION = Dialect(length_name="max_completion_tokens")
JSON_OBJECT, NO_SCHEMA = Dialect(structured="json_object"), Dialect(structured="none")


@pytest.mark.parametrize(
    ("refusal", "before", "after"),
    [
        (refused("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."), Dialect(), COMPLETION),
        (refused("body.max_completion_tokens: Extra inputs are not permitted", 422), COMPLETION, Dialect()),
        (refused("System role not supported", 500), Dialect(), Dialect(system_role=False)),
        (refused("Developer instruction is not enabled for this model"), Dialect(), Dialect(system_role=False)),
        (refused("[1214] Incorrect role information"), Dialect(), Dialect(system_role=False)),
        (refused("Conversation roles must alternate user/assistant/..."), Dialect(), Dialect(system_role=False)),
        (refused("Cannot have 2 or more assistant messages at the end"), Dialect(), Dialect(ends_with_user=True)),
        (refused("Expected last role User or Tool but got assistant"), Dialect(), Dialect(ends_with_user=True)),
        (refused("Input should be 'user' or 'assistant'"), Dialect(), Dialect(system_role=False)),
        (refused("'temperature' does not support 0.0"), Dialect(), Dialect(temperature=False)),
        (refused("This model does not support logprobs"), Dialect(), Dialect(logprobs=False)),
        (refused("unsupported parameter: stop"), Dialect(), Dialect(stop=False)),
        (refused("This response_format type is unavailable now"), Dialect(), JSON_OBJECT),
        (refused("This response_format type is unavailable now"), JSON_OBJECT, NO_SCHEMA),
        (refused("no field \"additionalProperties\" in 'generation_config.response_schema'"), Dialect(), JSON_OBJECT),
        (refused("JSON schema conversion failed: cannot use {}"), Dialect(), JSON_OBJECT),
        (refused("The schema exceeds the limit of 100 tokens"), Dialect(), JSON_OBJECT),
        (refused("This model only support stream mode"), Dialect(), Dialect(stream=True)),
        (
            refused("Unknown parameter: 'stream_options'"),
            Dialect(stream=True),
            Dialect(stream=True, stream_usage=False),
        ),
        (refused("only in v1/responses", 404), Dialect(), Dialect(api="responses")),
        (refused("Not Found", 404), Dialect(), Dialect(api="responses")),
    ],
)
def test_a_refusal_that_names_its_reason_is_followed(refusal: Refusal, before: Dialect, after: Dialect) -> None:
    assert judge(before, refusal, ALL) == after


@pytest.mark.parametrize(
    "refusal",
    [
        refused("Incorrect API key: max_tokens", 401),
        refused("Rate limit reached for max_tokens per minute", 429),
        refused("The model `gpt-9` does not exist", 404),
        refused("the moon is in the wrong phase"),
        refused("out of memory", 500),
        refused("the upstream is gone, the system is busy"),
    ],
)
def test_other_refusals_teach_nothing(refusal: Refusal) -> None:
    assert judge(Dialect(), refusal, ALL) is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        # The server's own count of the prompt.
        (
            "maximum context length is 8192 tokens, 9192 were requested (1000 in the messages, 8192 in the completion)",
            ShorterReply(max_tokens=8192 - 1000 - 16, window=8192),
        ),
        ("input length and `max_tokens` exceed limit: 1200 + 8192 > 8192", ShorterReply(max_tokens=6976, window=8192)),
        (
            "'max_tokens' is too large: 8192. maximum context length is 8192 tokens, request has 1100 input tokens",
            ShorterReply(max_tokens=7076, window=8192),
        ),
        ("exceeded model token limit: 8192 (requested: 9292)", ShorterReply(max_tokens=7076, window=8192)),
        # Our own estimate with a margin.
        ("Input and output tokens exceed the context window of 8192", ShorterReply(max_tokens=6926, window=8192)),
        # The prompt alone is too long.
        ("maximum prompt length is 900, the request contains 1100 tokens", TooLong(window=900)),
        ("prompt is too long: 210000 tokens > 200000 maximum", TooLong(window=200000)),
        ("Input is too long for requested model.", TooLong(window=0)),
        # No figure at all: a shorter reply is tried.
        ("Please reduce the length of the messages or completion.", ShorterReply(max_tokens=2048)),
    ],
)  # fmt: skip
def test_a_reply_is_shortened_where_the_prompt_fits(text: str, verdict: Remedy) -> None:
    assert judge(Dialect(), refused(text), ALL) == verdict


@pytest.mark.parametrize("status", [413, 429])
def test_a_reply_that_counts_against_tokens_per_minute_is_shortened(status: int) -> None:
    text = "Request too large on tokens per minute (TPM): Limit {}, Requested 9192"
    assert judge(Dialect(), refused(text.format(8000), status), ALL) == ShorterReply(max_tokens=6984)
    assert judge(Dialect(), refused(text.format(900), status), ALL) is None


def test_a_reply_is_shortened_to_what_the_account_can_afford() -> None:
    text = "This request requires more credits, or fewer max_tokens: you requested 8192, but can only afford {}"
    assert judge(Dialect(), refused(text.format(4000), 402), ALL) == ShorterReply(max_tokens=4000)
    assert judge(Dialect(), refused(text.format(3), 402), ALL) is None


def test_a_short_prompt_that_is_called_too_long_is_looked_into_like_unknown_words() -> None:
    vague = refused("Possible causes: the input exceeds the maximum context length, or invalid parameters")
    short, long = Sent(prompt_tokens=900, temperature=True), Sent(prompt_tokens=1_100, temperature=True)
    tried = DialectSearch(Dialect(), set())
    assert [tried.next(vague, short, Dialect()) for _ in range(4)] == [
        Dialect(temperature=False),
        Dialect(stream=True),
        Dialect(structured="none", system_role=False, temperature=False, logprobs=False, stop=False),
        TooLong(window=0),
    ]
    assert DialectSearch(Dialect(), set()).next(vague, long, Dialect()) == TooLong(window=0)
    assert DialectSearch(Dialect(), set()).next(refused(""), long, Dialect()) == TooLong(window=0)


def all_of(search: DialectSearch, refusal: Refusal, sent: Sent) -> list[Remedy]:
    tried: list[Remedy] = []
    while (verdict := search.next(refusal, sent, Dialect())) is not None:
        tried.append(verdict)
    return tried


def test_a_refusal_in_unknown_words_leaves_out_one_feature_after_the_other_and_then_all() -> None:
    ruled_out: set[Feature] = set()
    moon = refused("the moon is in the wrong phase")
    assert all_of(DialectSearch(Dialect(), ruled_out), moon, ALL) == [
        Dialect(logprobs=False),
        Dialect(stop=False),
        Dialect(structured="json_object"),
        Dialect(structured="none"),
        Dialect(system_role=False),
        Dialect(longest_reply=4096),
        Dialect(length_name="max_completion_tokens"),
        Dialect(temperature=False),
        Dialect(stream=True),
        Dialect(structured="none", system_role=False, temperature=False, logprobs=False, stop=False),
    ]
    assert all_of(DialectSearch(Dialect(), ruled_out), moon, ALL) == []


@pytest.mark.parametrize(
    "text",
    [
        "Die Eingabe überschreitet die maximale Kontextlänge von 8192 Token",
        "入力が長すぎます。最大 8192 トークンまでです",
        "Le texte dépasse la fenêtre de 8192 jetons (erreur 40013)",
    ],
)
def test_a_limit_below_the_prompt_is_a_window_in_any_language(text: str) -> None:
    assert judge(Dialect(), refused(text), Sent(prompt_tokens=9_000)) == TooLong(window=8_192)
    assert judge(Dialect(), refused(text), Sent(prompt_tokens=8_000)) is None


def test_only_what_the_request_has_is_left_out() -> None:
    tried = all_of(DialectSearch(Dialect(), set()), refused("the moon"), Sent(max_tokens=100))
    assert tried[:2] == [Dialect(longest_reply=64), Dialect(length_name="max_completion_tokens")]


@pytest.mark.parametrize(
    "refusal",
    [
        refused("flagged by our content policy"),
        refused("Your credit balance is too low"),
        refused("invalid model name"),
        refused("no such model", 404),
        refused("No endpoints found for it", 404),
        refused("the moon", 500),
    ],
)
def test_nothing_is_left_out_for_a_refusal_of_another_kind(refusal: Refusal) -> None:
    search = DialectSearch(Dialect(), set())
    assert search.next(refusal, ALL, Dialect()) is None
    assert search.refusal == refusal


def test_a_search_reports_the_refusal_that_it_did_not_understand() -> None:
    search = DialectSearch(Dialect(), set())
    search.next(refused("the moon"), Sent(schema=True), Dialect())
    assert search.next(refused("needs the word json"), Sent(schema=True), Dialect()) is not None
    assert search.refusal == refused("the moon")


def test_a_search_that_tried_the_other_api_in_vain_reports_the_first_refusal() -> None:
    search, first = DialectSearch(Dialect(), set()), refused("the deployment does not exist", 404)
    assert search.next(first, ALL, Dialect()) == Dialect(api="responses")
    assert search.next(refused("Not Found", 404), ALL, Dialect()) is None
    assert search.refusal == first


def test_what_worked_for_another_call_is_tried_first() -> None:
    assert DialectSearch(Dialect(), set()).next(refused("the moon"), ALL, JSON_OBJECT) == JSON_OBJECT


def test_a_reply_is_shortened_a_few_times_at_most() -> None:
    search = DialectSearch(Dialect(), set())
    vague = refused("reduce the length of the messages or completion")
    verdicts = [search.next(vague, ALL, Dialect()) for _ in range(5)]
    assert verdicts == [ShorterReply(max_tokens=2048)] * 4 + [TooLong(window=0)]


def test_what_was_sent_is_read_from_the_body() -> None:
    body = {"messages": [{"role": "system"}], "max_completion_tokens": 5, "response_format": {}, "logprobs": True}
    body |= {"stop": ["\n"]}
    messages = [Message(role="system", content="abcd")]
    assert sent_in(body, messages) == Sent(
        prompt_tokens=9, max_tokens=5, schema=True, system=True, logprobs=True, stop=True
    )


def test_a_reply_leaves_room_for_the_prompt_as_the_server_counts_it() -> None:
    digits = [Message(role="user", content="1234567890" * 800)]  # 2,008 tokens by our estimate
    ratio = tokens_ratio(None, 4_016, digits)
    assert (ratio, longest_beside(digits, ratio, 8_192, 8_192)) == (2.0, 8_192 - 4_016 - 16)
    assert tokens_ratio(ratio, 3_000, digits) == 2.0
    assert tokens_ratio(None, 4_000, [Message(role="user", content="hi")]) is None


@pytest.mark.parametrize(
    ("window", "longest"), [(128_000, 8_192), (8_192, 8_192 - 2_510 - 16), (2_400, 300), (2_050, 64)]
)
def test_a_reply_leaves_a_margin_for_a_prompt_that_was_only_estimated(window: int, longest: int) -> None:
    assert longest_beside([Message(role="user", content="1234567890" * 800)], None, 8_192, window) == longest

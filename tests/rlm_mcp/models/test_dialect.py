"""Decisions about requests, replies and errors, without a server."""

import json
import time
from contextlib import suppress
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.models.base import Message
from rlm_mcp.models.dialect import (
    BrokenOff,
    Dialect,
    NotAReply,
    ProviderReply,
    Refusal,
    arrange,
    first_dialect,
    is_strict,
    learn,
    model_names,
    read,
    refusal_in,
    request,
    retry_after_seconds,
    window_in,
)

WORDS = ["choices", "message", "content", "usage", "prompt_tokens", "error", "code", "output", "delta", "type", "cost"]


def chat(*pairs: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in pairs]  # type: ignore[arg-type] # written as text


def test_neighbours_of_one_role_are_joined_and_later_system_messages_become_the_users() -> None:
    messages = chat(
        ("system", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("system", "e"), ("user", "f")
    )
    joined = chat(("system", "a"), ("user", "b"), ("assistant", "c\n\nd"), ("user", "e\n\nf"))
    assert arrange(messages, Dialect()) == joined


def test_without_a_system_role_its_text_goes_to_the_user() -> None:
    arranged = arrange(chat(("system", "a"), ("user", "b")), Dialect(system_role=False))
    assert arranged == chat(("user", "a\n\nb"))


def test_a_chat_may_have_to_end_with_the_user() -> None:
    assert arrange(chat(("user", "a"), ("assistant", "b")), Dialect(ends_with_user=True))[-1].content == "Go on."


def test_openais_reasoning_models_begin_without_temperature() -> None:
    assert first_dialect("gpt-5-mini", "api.openai.com") == Dialect(
        length_name="max_completion_tokens", temperature=False
    )
    assert first_dialect("gpt-4o", "api.openai.com").temperature
    assert first_dialect("gpt-5", "gateway.example") == Dialect()


def test_the_responses_api_has_its_own_names() -> None:
    path, body = request(
        Dialect(api="responses"), "m", chat(("user", "hi")), max_tokens=5, temperature=None, schema={"type": "object"}
    )
    assert path == "/responses"
    assert body == {
        "model": "m",
        "store": False,
        "input": [{"role": "user", "content": "hi"}],
        "max_output_tokens": 16,
        "text": {"format": {"type": "json_schema", "name": "reply", "schema": {"type": "object"}, "strict": False}},
    }


# What servers really say.
REFUSALS = {
    "openai o-series": Refusal(
        status=400,
        text="Unsupported parameter: 'max_tokens' is not supported with this model."
        " Use 'max_completion_tokens' instead.",
        code="unsupported_parameter",
        param="max_tokens",
    ),
    "old server": Refusal(status=422, text="body.max_completion_tokens: Extra inputs are not permitted"),
    "small output": Refusal(
        status=400, text="max_tokens is too large: 16384. This model supports at most 4096 completion tokens"
    ),
    "gemma template": Refusal(status=500, text="System role not supported"),
    "taking turns": Refusal(status=400, text="Conversation roles must alternate user/assistant/user/assistant/..."),
    "llama.cpp prefill": Refusal(status=400, text="Cannot have 2 or more assistant messages at the end of the list."),
    "temperature": Refusal(
        status=400, text="Unsupported value: 'temperature' does not support 0.0 with this model.", param="temperature"
    ),
    "no schema": Refusal(status=400, text="This response_format type is unavailable now"),
    "streams only": Refusal(status=400, text="This model only support stream mode, please enable the stream parameter"),
    "responses only": Refusal(
        status=404, text="This model is only supported in v1/responses and not in v1/chat/completions.", param="model"
    ),
    "no chat": Refusal(status=404, text="Not Found"),
}


@pytest.mark.parametrize(
    ("refusal", "before", "after"),
    [
        ("openai o-series", Dialect(), Dialect(length_name="max_completion_tokens")),
        ("old server", Dialect(length_name="max_completion_tokens"), Dialect()),
        ("small output", Dialect(), Dialect(longest_reply=4096)),
        ("gemma template", Dialect(), Dialect(system_role=False)),
        ("taking turns", Dialect(), Dialect(system_role=False)),
        ("llama.cpp prefill", Dialect(), Dialect(ends_with_user=True)),
        ("temperature", Dialect(), Dialect(temperature=False)),
        ("no schema", Dialect(), Dialect(structured="json_object")),
        ("no schema", Dialect(structured="json_object"), Dialect(structured="none")),
        ("streams only", Dialect(), Dialect(stream=True)),
        ("responses only", Dialect(), Dialect(api="responses")),
        ("no chat", Dialect(), Dialect(api="responses")),
    ],
)
def test_a_refusal_teaches_a_dialect(refusal: str, before: Dialect, after: Dialect) -> None:
    assert learn(before, REFUSALS[refusal]) == after


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(status=401, text="Incorrect API key: max_tokens"),
        Refusal(status=429, text="Rate limit reached for max_tokens per minute"),
        Refusal(status=404, text="The model `gpt-9` does not exist", code="model_not_found"),
        Refusal(status=400, text="the moon is in the wrong phase"),
        Refusal(status=500, text="out of memory"),
    ],
)
def test_other_refusals_teach_nothing(refusal: Refusal) -> None:
    assert learn(Dialect(), refusal) is None


@pytest.mark.parametrize(
    ("refusal", "window"),
    [
        (
            Refusal(
                status=400,
                text="This model's maximum context length is 8192 tokens."
                " However, your messages resulted in 9000 tokens.",
                code="context_length_exceeded",
            ),
            8192,
        ),
        (
            refusal_in(
                400,
                '{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it",'
                '"type":"exceed_context_size_error","n_prompt_tokens":20000,"n_ctx":16384}}',
            ),
            16384,
        ),
        (Refusal(status=400, text="prompt is too long: 210000 tokens > 200000 maximum"), 200000),
        (Refusal(status=413, text="Request Entity Too Large"), 0),
        (Refusal(status=400, text="the moon is in the wrong phase"), None),
        (Refusal(status=429, text="Request too large: maximum context length"), None),
        (refusal_in(400, '{"error":{"message":"maximum context length","n_ctx":-5}}'), 0),
        (refusal_in(400, '{"error":{"message":"maximum context length","n_ctx":true}}'), 0),
        (refusal_in(400, '{"error":{"message":"maximum context length","n_ctx":1%s}}' % ("0" * 400)), 0),
        (Refusal(status=400, text="maximum context length is 999999999 tokens"), 0),
        (Refusal(status=400, text="maximum context length is 000 tokens"), 0),
    ],
)
def test_a_window_is_read_from_a_refusal(refusal: Refusal, window: int | None) -> None:
    assert window_in(refusal) == window


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"error": {"message": "m", "code": "c"}}', "m"),
        ('{"error": "m"}', "m"),
        ('{"detail": "m"}', "m"),
        ('{"message": "m"}', "m"),
        ("m", "m"),
    ],
)
def test_errors_come_in_many_shapes(body: str, text: str) -> None:
    assert refusal_in(400, body).text == text


DEEP = '{"error":' * 100_000
DIGITS = '{"error": {"code": ' + "9" * 5_000 + "}}"
NESTED = '{"error": ' + "[" * 900 + "]" * 900 + "}"


@pytest.mark.parametrize("body", [DEEP, "[" * 200_000, DIGITS, NESTED], ids=["deep", "list", "digits", "nested"])
def test_hostile_bodies_are_errors_in_words(body: str) -> None:
    assert refusal_in(404, body).status == 404
    assert model_names(body) == []
    with suppress(NotAReply):
        assert isinstance(read(body), Refusal)


@pytest.mark.parametrize("usage", ["NaN", "-Infinity", '"many"', "[]", "9" * 4_000, "1e308"])
def test_a_usage_of_any_kind_is_a_reply(usage: str) -> None:
    used = '{"prompt_tokens": X, "cost": X}'.replace("X", usage)
    reply = read('{"choices": [{"message": {"content": "ok"}}], "usage": ' + used + "}")
    assert isinstance(reply, ProviderReply)
    assert (reply.text, reply.cost_usd) == ("ok", None)


@pytest.mark.parametrize("said", ["Mon, 01 Jan 2024 00:00:00 +999999999999", "nan", "1e999", "-5", "9" * 5000, "x"])
def test_no_retry_after_is_an_internal_error(said: str) -> None:
    assert retry_after_seconds({"retry-after": said}) in {None, 0.0}


def test_a_gateway_puts_the_status_into_the_body() -> None:
    refusal = read('{"error": {"message": "upstream is busy", "code": 502}}')
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.text) == (502, "upstream is busy")


def test_a_tool_call_that_nobody_offered_is_kept_as_text() -> None:
    reply = read('{"choices": [{"message": {"content": null, "tool_calls": [{"function": {"name": "f"}}]}}]}')
    assert isinstance(reply, ProviderReply)
    assert reply.text == '<tool_call>{"name": "f"}</tool_call>'


def test_a_stream_is_put_together() -> None:
    stream = (
        ': keep-alive\n\ndata: {"model":"m","choices":[{"delta":{"reasoning":"hm "}}]}\n\n'
        'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
        'data: {"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}\n\n'
        'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"cost":0.5}}\n\ndata: [DONE]\n\n'
    )
    assert read(stream) == ProviderReply(
        text="ab", reasoning="hm ", prompt_tokens=3, completion_tokens=2, cost_usd=0.5, model="m"
    )


@pytest.mark.parametrize(
    ("body", "kind"), [("", BrokenOff), ("<html>", NotAReply), ("[]", NotAReply), ('{"ok": true}', NotAReply)]
)
def test_a_body_that_is_not_a_reply_is_described(body: str, kind: type[NotAReply]) -> None:
    with pytest.raises(kind):
        read(body)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@given(JUNK, st.booleans())
def test_any_body_is_read_or_refused(body: object, stream: bool) -> None:
    text = json.dumps(body)
    with suppress(NotAReply):
        read(f"data: {text}\n\n" if stream else text)
    refusal = refusal_in(400, text)
    assert (learn(Dialect(), refusal), window_in(refusal)) is not None


def test_a_stream_cut_inside_an_event_is_broken_off() -> None:
    with pytest.raises(BrokenOff):
        read('data: {"choices":[{"delta":{"con')


def test_strictness_looks_into_every_part() -> None:
    inner = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    assert is_strict(inner)
    assert not is_strict({"type": "array", "items": {"type": "object", "properties": {"a": {}}}})


def test_retry_after_is_seconds_milliseconds_or_a_date() -> None:
    assert retry_after_seconds({"retry-after": "2.5"}) == 2.5
    assert retry_after_seconds({"retry-after-ms": "250", "retry-after": "1"}) == 0.25
    assert retry_after_seconds({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0.0
    assert retry_after_seconds({"retry-after": "soon"}) is None
    assert retry_after_seconds({}) is None

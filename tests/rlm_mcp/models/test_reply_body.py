"""Bodies with status 200: replies, and trouble told in them."""

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.models.dialect import Dialect, Refusal, refusal_in, window_in
from rlm_mcp.models.learning import Sent, judge
from rlm_mcp.models.reply_body import BrokenOff, NotAReply, ProviderReply, WebPage, read

WORDS = ["choices", "message", "content", "usage", "prompt_tokens", "error", "code", "output", "delta", "type", "cost"]


@pytest.mark.parametrize("usage", ["NaN", "-Infinity", '"many"', "[]", "9" * 4_000, "1e308"])
def test_a_usage_of_any_kind_is_a_reply(usage: str) -> None:
    used = '{"prompt_tokens": X, "cost": X}'.replace("X", usage)
    reply = read('{"choices": [{"message": {"content": "ok"}}], "usage": ' + used + "}")
    assert isinstance(reply, ProviderReply)
    assert (reply.text, reply.cost_usd) == ("ok", None)


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
    ("body", "kind"),
    [("", BrokenOff), ("<html>", WebPage), ("Welcome", NotAReply), ("[]", NotAReply), ('{"ok": true}', NotAReply)],
)
def test_a_body_that_is_not_a_reply_is_described(body: str, kind: type[NotAReply]) -> None:
    with pytest.raises(kind) as error:
        read(body)
    assert type(error.value) is kind


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
    assert (judge(Dialect(), refusal, Sent(schema=True)), window_in(refusal)) is not None


def test_a_stream_cut_inside_an_event_is_broken_off() -> None:
    with pytest.raises(BrokenOff):
        read('data: {"choices":[{"delta":{"con')


def reply_in(body: object) -> ProviderReply:
    reply = read(json.dumps(body))
    assert isinstance(reply, ProviderReply)
    return reply


def stream(*choices: object, end: str = "\n\n", **more: object) -> str:
    events = [json.dumps({"choices": [choice], **more}, ensure_ascii=False) for choice in choices]
    return "".join(f"data: {event}{end}" for event in (*events, "[DONE]"))


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_reply_that_stands_in_the_field_for_reasoning_is_the_reply(name: str) -> None:
    message = {"content": None, name: "FINAL(1)"}
    whole = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert reply_in(whole) == ProviderReply(text="FINAL(1)")
    cut = reply_in({"choices": [{"message": message, "finish_reason": "length"}]})
    assert cut == ProviderReply(text="", reasoning="FINAL(1)", finish_reason="length")
    assert read(stream({"delta": message}, {"delta": {}, "finish_reason": "stop"})) == ProviderReply(text="FINAL(1)")


def test_reasoning_among_the_parts_of_a_reply_is_kept_apart() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "ok"}]
    assert reply_in({"choices": [{"message": {"content": parts}}]}) == ProviderReply(text="ok", reasoning="hm")


def test_a_tool_call_in_a_stream_is_the_same_text_as_without_streaming() -> None:
    function = {"name": "python", "arguments": '{"code": "n = 1"}'}
    pieces = [{"name": "python", "arguments": ""}, {"arguments": '{"code": "n'}, {"arguments": ' = 1"}'}]
    deltas = [{"delta": {"tool_calls": [{"index": 0, "function": piece}]}} for piece in pieces]
    streamed = read(stream(*deltas, {"delta": {}, "finish_reason": "tool_calls"}))
    for call in ({"tool_calls": [{"function": function}]}, {"function_call": function}):
        assert reply_in({"choices": [{"message": call, "finish_reason": "tool_calls"}]}) == streamed
    assert isinstance(streamed, ProviderReply)
    assert streamed.text == f"<tool_call>{json.dumps(function)}</tool_call>"


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\n"])
def test_a_stream_ends_its_lines_only_where_events_do(end: str) -> None:
    said = "a\u2028b\u2029c\u0085d\x0ce\x1cf"
    assert read(stream({"delta": {"content": said}, "finish_reason": "stop"}, end=end)) == ProviderReply(text=said)


def test_an_event_in_several_lines_and_comments_before_a_body_are_read() -> None:
    lines = 'data: {"choices":\ndata: [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
    assert read(lines) == ProviderReply(text="a")
    assert read(': PROCESSING\n\n: PROCESSING\n{"choices": [{"message": {"content": "a"}}]}') == ProviderReply(text="a")


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"message": "m", "code": 502}}]},
        {"choices": [{"message": {"content": "half"}, "error": {"message": "m", "code": 502}}]},
        {"choices": [], "error": {"message": "m", "code": 502}},
        {"choices": None, "base_resp": {"status_code": 1000, "status_msg": "m"}},
        {"object": "error", "message": "m", "code": 50001},
    ],
)
def test_trouble_told_with_status_200_is_an_error_of_the_server(body: dict[str, object]) -> None:
    refusal = read(json.dumps(body))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.text) == (502, "m")


def test_a_reply_without_choices_is_an_error_of_the_server() -> None:
    assert read('{"choices": [], "usage": {}}') == Refusal(status=502, text="a reply without choices")
    assert read("data: [DONE]\n\n") == Refusal(status=502, text="a reply without choices")


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ('event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}', 503),
        ('data: {"error": {"message": "m", "code": 429}}', 429),
        ('data: {"choices": [{"delta": {}, "finish_reason": "error", "error": {"message": "m"}}]}', 502),
        ('data: {"type": "response.failed", "response": {"error": {"message": "m"}}}', 502),
    ],
)
def test_an_error_in_a_stream_is_a_refusal(event: str, status: int) -> None:
    refusal = read(f'data: {{"choices": [{{"delta": {{"content": "half"}}}}]}}\n\n{event}\n\n')
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.text) == (status, "m")


@pytest.mark.parametrize("place", ["body", "x_groq", "choice"])
def test_usage_is_read_wherever_a_server_puts_it(place: str) -> None:
    usage = {"input_tokens": 3, "output_tokens": 2, "prompt_cache_hit_tokens": 1}
    choice = {"message": {"content": "a"}} | ({"usage": usage} if place == "choice" else {})
    elsewhere: dict[str, object] = {"usage": usage} if place == "body" else {"x_groq": {"usage": usage}}
    reply = reply_in({"choices": [choice]} | (elsewhere if place != "choice" else {}))
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_prompt_tokens) == (3, 2, 1)


def test_log_probabilities_are_read_token_by_token_or_not_at_all() -> None:
    def logprobs(content: object) -> tuple[tuple[str, float], ...]:
        choice = {"message": {"content": "yes"}, "logprobs": content}
        reply = read(json.dumps({"choices": [choice]}))
        assert isinstance(reply, ProviderReply)
        return reply.logprobs

    good = [{"token": "ye", "logprob": -0.5}, {"token": "s", "logprob": 0}]
    assert logprobs({"content": good}) == (("ye", -0.5), ("s", 0.0))
    bad: list[object] = [None, [], {"content": None}, {"content": [*good, {"token": "x"}]}]
    for content in [*bad, {"content": [{"token": "x", "logprob": 10**400}]}]:
        assert logprobs(content) == ()


def test_the_same_word_in_other_letters_is_no_alternative() -> None:
    others = [{"token": token, "logprob": math.log(p)} for token, p in (("Yes", 0.5), ("No", 0.1), (" yes", 0.4))]
    token = {"token": "Yes", "logprob": math.log(0.5), "top_logprobs": others}
    choice = {"message": {"content": "Yes"}, "logprobs": {"content": [token]}}
    reply = read(json.dumps({"choices": [choice]}))

    assert isinstance(reply, ProviderReply)
    assert [(word, round(math.exp(p), 6)) for word, p in reply.logprobs] == [("Yes", 0.9)]

"""What refusals say, in the words of many servers."""

import json
from collections.abc import Mapping
from contextlib import suppress

import pytest

from rlm_mcp.models.dialect import Dialect, Refusal, first_dialect, refusal_in, window_in
from rlm_mcp.models.reply_body import NotAReply, model_names, read


def test_openais_reasoning_models_begin_without_temperature_and_log_probabilities() -> None:
    assert first_dialect("gpt-5-mini", "api.openai.com") == Dialect(
        length_name="max_completion_tokens", temperature=False, logprobs=False
    )
    assert first_dialect("gpt-4o", "api.openai.com").temperature
    assert first_dialect("gpt-5", "gateway.example") == Dialect()


# Refusals of prompts that are too long, as servers word them (shortened): the window that they tell, 0 if none, with a
# status that is not 400, and the words.
TOO_LONG = """
8192 This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.
4097 maximum context length is 4097 tokens, you requested 4130 tokens (130 in your prompt; 4000 for the completion)
0 Your input exceeds the context window of this model. Please adjust your input and try again.
272000 Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.
0 Invalid 'input': string too long. Expected a string with maximum length 10485760
8000@413 Request body too large for gpt-4o model. Max size: 8000 tokens.
128000 prompt token count of 140000 exceeds the limit of 128000
200000 prompt is too long: 210000 tokens > 200000 maximum
200000 input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000
0@413 Request exceeds the maximum size
0 Input is too long for requested model.
8192 Too many input tokens. Max input tokens: 8192, request input token count: 9000
0 #/inputText: expected maxLength: 50000, actual: 100000, please reformat your input and try again.
1048576 The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).
32768 Unable to submit request because the input token count is 43071 but model only supports up to 32768.
32768 Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length
0 Please reduce the length of the messages or completion.
8192 Please reduce the length of the messages or completion. Current length is 10000 while limit is 8192
32769@422 `inputs` tokens + `max_new_tokens` must be <= 32769. Given: 40000 `inputs` tokens and 512 `max_new_tokens`
32768 The prompt is too long: 40000, model maximum context length: 32768
131072 maximum context length is 131072 tokens, requested 131134 (122942 in the messages, 8192 in the completion)
131072 This model's maximum prompt length is 131072 but the request contains 537812 tokens.
132000 too many tokens: size limit exceeded by 19296 tokens. Use fewer. The limit for this model is 132000 tokens.
4081 too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292.
128000 This endpoint's maximum context length is 128000 tokens, requested about 150000 (140000 of text input)
0 The total length of all messages is too long.
8192 You passed 8193 input tokens and requested 200 output tokens. However, the context length is only 8192 tokens
32768 The number of tokens in the prompt exceeds the model's maximum context length of 32768
0 Invalid 'messages': array too long. Expected an array with maximum length 2048, but got one with length 2305
0 Request payload size exceeds the limit: 20971520 bytes.
0 too many total text bytes
128000 Model context window is 128k tokens, you requested 256k tokens
8192 The model has a context of 8,192 tokens; your prompt is 9,321 tokens
8192 Your prompt has 9321 tokens. This model accepts 8192.
8192 9000 tokens requested, 8192 available
8192 The request has too many tokens (9000/8192)
4096 Token indices sequence length is longer than the specified maximum sequence length for this model (5000 > 4096)
8192 Context limit: 8192. Received: 9000.
8192 Input too long. Max 8192. See https://docs.example.com/errors/4004
200000 Account 123456789012 exceeded context limit of 200000
32768 model gpt-4-32k-0613: maximum context length is 32768 tokens (error 400, 2026-01-20)
0 Conversation length exceeded. Please start a new session
0 token limit
0 输入长度超过限制
8192 Requested token count exceeds maximum context length of 8192 tokens: 1000 tokens from the input messages
8192 The input (9000 tokens) is longer than the model's context length (8192 tokens).
8192 'max_tokens' is too large: 8192. maximum context length is 8192 tokens, 1000 input tokens (8192 > 8192 - 1000)
4096 The decoder prompt (length 5000) is longer than the maximum model length of 4096.
4242 This model's maximum context length is 4242 tokens. However, your request has 5000 input tokens.
4095@422 `inputs` must have less than 4095 tokens. Given: 5000
0 the request exceeds the available context size, try increasing it
16384 request (20000 tokens) exceeds the available context size (16384 tokens), try increasing it
0@500 input (5432 tokens) is too large to process. increase the physical batch size (current batch size: 2048)
4096 Requested tokens (5000) exceed context window of 4096
0 prompt too long; exceeded max context length by 123 tokens
0 input length exceeds maximum context length
0 The number of tokens to keep from the initial prompt is greater than the context length.
4096 Trying to keep the first 5000 tokens; the model is loaded with context length of only 4096 tokens, not enough
4096 Cannot truncate prompt with n_keep (5000) >= n_ctx (4096)
0 Context size has been exceeded.
4096 Prompt length 5000 is greater than max_seq_len 4096
4096 Context length 5000 is greater than max_seq_len 4096
8192 Prompt length (9000) exceeds maximum input length (8192). Set log level to info
8192 The sum of prompt length (1000), query length (0) and max_tokens (8192) should not exceed max_seq_len (8192)
4096 Request prompt has 5000 tokens in total, larger than the model input length limit 4096
8192 Invalid request: Your request exceeded model token limit: 8192 (requested: 10000)
0 Total tokens of image and text exceed max message tokens. Request id: 0217324725966514087c9e55
30720 <400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]
32768 length of prompt_tokens (40000) must be less than max_seq_len (32768).
32768 Requested input length 40000 exceeds maximum input length 32768
8192 The number of input and maximum output tokens (10000) exceeded this model context window limit (8192).
4096 the number of input tokens 5000 cannot exceed the total tokens limit 4096 for this model
8192 prompt tokens too long, over a maximum of 8192
0 invalid params, context window exceeds limit (2013)
0 invalid params, context window exceeds limit 2013
0 Prompt exceeds max length
0 Prompt 超长
8192 输入内容过长, 超过模型上下文长度限制 8192
8192 请求的 token 数量 12000 超过最大限制 8192
0 ERROR: The prompt size exceeds the context window size and cannot be processed.
199999 litellm.ContextWindowExceededError: AnthropicError - prompt is too long: 209353 tokens > 199999 maximum
16385 Error code: 400 - {'error': {'message': "maximum context length is 16385 tokens, you requested 20000
1048576 The prompt has 1,200,000 tokens, which is over the limit of 1,048,576 tokens.
128000 Prompt exceeds the 128K context window of this model
0 context_length_exceeded
0 Input token length too long
8192 The sum of prompt tokens and max_tokens must be at most 8192 (request id 20250422153215241482202).
8192 The input length 5000 plus max_tokens 4096 exceeds session_len 8192
0 Prompt is too long (2025-04-22 15:32:15, account 87654321)
0 Error code: 4096 - the prompt is too long
32768 Prompt too long; the limit for the $2000 plan is 32768 tokens
0 input too long (400)
0 Prompt exceeds max length [1261]
"""


@pytest.mark.parametrize("row", TOO_LONG.strip().splitlines())
def test_a_prompt_that_is_too_long_is_recognised_in_the_words_of_many_servers(row: str) -> None:
    numbers, text = row.split(" ", 1)
    window, _, status = numbers.partition("@")
    assert window_in(refusal_in(int(status or 400), json.dumps({"error": {"message": text}}))) == int(window)


# Refusals of other things, though some name tokens, limits or inputs.
NOT_TOO_LONG = """
the moon is in the wrong phase
max_tokens is too large: 16384. This model supports at most 4096 completion tokens
Input should be less than or equal to 2
Unsupported parameter: 'max_tokens' is not supported with this model.
Invalid max_tokens value, the valid range of max_tokens is [1, 8192]
`max_tokens` must be less than or equal to `32768`
The maximum tokens you requested exceeds the model limit of 4096.
too many tokens: max tokens must be 4096 or less for this model, received 9000
System role not supported
Model context window too small (minimum is 128k tokens)
input token limit exceeded for this minute
This request would exceed your account's rate limit
max_tokens must be less than maximum context length
Conversation roles must alternate user/assistant/user/assistant/...
The parameter max_tokens specified in the request is not valid: integer above maximum value
Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 342389.
Invalid JSON payload received.
Could not finish the message because max_tokens or model output limit was reached.
developer instruction is not enabled for model x
messages: at least one message is required
Range of max_tokens should be [1, 8192]
Malformed input request: #/max_tokens: 8192 is not less or equal to 4096
The response was filtered due to the prompt triggering content management policy.
max_tokens: 64000 > 8192
Unsupported value: 'messages[0].role' does not support 'system' with this model.
This model only support stream mode, please enable the stream parameter
"""


@pytest.mark.parametrize("text", NOT_TOO_LONG.strip().splitlines())
def test_a_refusal_of_another_kind_is_not_taken_for_a_prompt_that_is_too_long(text: str) -> None:
    assert window_in(Refusal(status=400, text=text)) is None


@pytest.mark.parametrize(
    ("status", "body", "window"),
    [
        (400, {"error": {"message": "the request exceeds the available context size", "n_ctx": 16384}}, 16384),
        (400, {"error": {"message": "maximum context length", "n_ctx": -5}}, 0),
        (400, {"error": {"message": "maximum context length", "n_ctx": True}}, 0),
        (400, {"error": {"message": "maximum context length", "n_ctx": 10**400}}, 0),
        (400, {"error": {"message": "maximum context length is 999999999 tokens"}}, 0),
        (400, {"error": {"message": "maximum context length is 000 tokens"}}, 0),
        (400, {"error": {"message": "context window exceeds limit: 8001", "code": 8001}}, 0),
        (400, {"object": "error", "message": "prompt is too long: 9000 tokens > 8192 maximum", "code": 400}, 8192),
        (400, {"detail": "Input is too long: at most 8192 tokens"}, 8192),
        (400, {"errors": [{"message": "the prompt exceeds the context window of 8192 tokens", "code": 5021}]}, 8192),
        (413, "Request Entity Too Large", 0),
        (429, {"error": {"message": "Request too large: maximum context length"}}, None),
        (400, {"error": {"message": "the moon is in the wrong phase"}}, None),
    ],
)
def test_a_window_is_read_where_a_server_puts_it(status: int, body: object, window: int | None) -> None:
    assert window_in(refusal_in(status, body if isinstance(body, str) else json.dumps(body))) == window


WRAPPED = {"error": {"message": "max_tokens: at most 4096", "type": "invalid_request_error"}}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "m", "code": "c"}}, "m"),
        ({"error": "m"}, "m"),
        ({"detail": "m"}, "m"),
        ({"message": "m"}, "m"),
        ("m", "m"),
        ([{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}], "m"),
        ({"detail": [{"loc": ["body", "max_tokens"], "msg": "at most 4096"}]}, "body.max_tokens: at most 4096"),
        ({"errors": [{"message": "m", "code": 5021}], "success": False}, "m"),
        ({"base_resp": {"status_code": 2013, "status_msg": "m"}}, "m"),
        ({"error": {"message": "p", "metadata": {"raw": json.dumps(WRAPPED)}}}, "p: max_tokens: at most 4096"),
        ({"error": {"message": "p", "metadata": {"raw": "overloaded"}}}, "p: overloaded"),
        ({"error": {"message": json.dumps(WRAPPED)}}, "max_tokens: at most 4096"),
    ],
)
def test_errors_come_in_many_shapes(body: object, text: str) -> None:
    assert refusal_in(400, body if isinstance(body, str) else json.dumps(body)).text == text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "upstream is busy", "code": 502}, 502),
        ({"message": "Overloaded", "type": "overloaded_error"}, 503),
        ({"message": "m", "code": "429"}, 429),
        ({"message": "Rate limit reached"}, 429),
        ({"message": "insufficient balance"}, 402),
        ({"message": "invalid params"}, 400),
        ({"message": "upstream idle timeout"}, 502),
    ],
)
def test_an_error_with_status_200_has_the_status_that_it_tells(error: Mapping[str, object], status: int) -> None:
    refusal = read(json.dumps({"error": error}))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.text) == (status, error["message"])


DEEP = '{"error":' * 100_000
DIGITS = '{"error": {"code": ' + "9" * 5_000 + "}}"
NESTED = '{"error": ' + "[" * 900 + "]" * 900 + "}"


@pytest.mark.parametrize("body", [DEEP, "[" * 200_000, DIGITS, NESTED], ids=["deep", "list", "digits", "nested"])
def test_hostile_bodies_are_errors_in_words(body: str) -> None:
    assert refusal_in(404, body).status == 404
    assert model_names(body) == []
    with suppress(NotAReply):
        assert isinstance(read(body), Refusal)

"""Models against a scripted server on loopback: requests, replies, retries and errors."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import pytest

from rlm_mcp.engine.budget import Ledger, paid_call
from rlm_mcp.errors import (
    BudgetExceeded,
    EndpointUnreachable,
    KeyRefused,
    ModelError,
    PromptOverWindow,
    ProviderFailed,
    RateLimited,
    RequestRefused,
    UnknownModel,
)
from rlm_mcp.models.base import Completion, Message, Profile, Usage, estimate_prompt
from rlm_mcp.models.exchange import LATE_SECONDS
from rlm_mcp.models.limiter import START
from rlm_mcp.models.openai import OpenAIModel, OpenAIProvider
from rlm_mcp.redact import Secret
from rlm_mcp.spending import RunLimits
from tests.peers.openai_server import Fault, OpenAIServer, Quirks, Request, Said

pytestmark = pytest.mark.anyio

HELLO = [Message(role="system", content="Be brief."), Message(role="user", content="Hello, who are you?")]
KEY = "sk-test-1234567890"
PRICED = Profile(usd_per_mtok_in=1.0, usd_per_mtok_out=10.0)


@dataclass
class Sleeper:
    """Stands in for anyio.sleep: records the seconds and returns at once."""

    asked: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def connected(
    server: OpenAIServer,
    *,
    name: str = "scripted",
    profile: Profile | None = None,
    sleep: Callable[[float], object] | None = None,
    path: str = "",
    late_seconds: float = LATE_SECONDS,
) -> AsyncIterator[OpenAIModel]:
    async with server:
        provider = OpenAIProvider(
            (server.base_url + path),
            Secret(KEY),
            sleep=sleep if isinstance(sleep, Sleeper) else Sleeper(),
            jitter=lambda: 0.0,
            late_seconds=late_seconds,
        )
        try:
            with anyio.fail_after(60):
                yield provider.model(name, profile or Profile())
        finally:
            await provider.aclose()


async def failure(server: OpenAIServer, *, name: str = "scripted", path: str = "") -> ModelError:
    async with connected(server, name=name, path=path) as model:
        with pytest.raises(ModelError) as error:
            await model.complete(HELLO)
    return error.value


async def test_a_reply_with_its_usage_and_price() -> None:
    async with connected(OpenAIServer(["I am a script."]), profile=PRICED) as model:
        completion = await model.complete(HELLO, max_tokens=50, temperature=0.2)
    assert completion == Completion(
        text="I am a script.",
        usage=Usage(prompt_tokens=8, completion_tokens=4, cost_usd=48e-6),
        model="scripted",
    )


async def test_a_request_has_the_model_the_messages_and_the_limits() -> None:
    server = OpenAIServer(["ok"])
    async with connected(server) as model:
        await model.complete(HELLO, max_tokens=50, temperature=0.2)
    assert server.requests[0].body == {
        "model": "scripted",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, who are you?"}],
        "max_tokens": 50,
        "temperature": 0.2,
    }
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_the_providers_own_figure_goes_before_the_price_table() -> None:
    async with connected(OpenAIServer([Said(text="ok", cost=0.25)]), profile=PRICED) as model:
        assert (await model.complete(HELLO)).usage.cost_usd == 0.25


async def test_reasoning_is_kept_apart_from_the_text() -> None:
    async with connected(OpenAIServer([Said(text="42", reasoning="six times seven")])) as model:
        completion = await model.complete(HELLO)
    assert (completion.text, completion.reasoning) == ("42", "six times seven")


async def test_an_empty_reply_is_a_reply() -> None:
    async with connected(OpenAIServer([""])) as model:
        assert (await model.complete(HELLO)).text == ""


async def test_without_usage_tokens_are_estimated_and_marked() -> None:
    async with connected(OpenAIServer(["four char"], quirks=Quirks(usage=False)), profile=PRICED) as model:
        usage = (await model.complete(HELLO)).usage
    assert usage == Usage(prompt_tokens=24, completion_tokens=3, estimated=True)


@pytest.mark.parametrize(
    "quirks",
    [
        Quirks(length_name="max_completion_tokens"),
        Quirks(longest_reply=20),
        Quirks(system_role=False),
        Quirks(temperature=False),
        Quirks(structured=False),
        Quirks(stream_only=True),
        Quirks(responses_only=True),
        Quirks(takes_turns=True),
        Quirks(length_name="max_completion_tokens", system_role=False, temperature=False, stream_only=True),
    ],
    ids=lambda quirks: str(quirks).replace("Quirks", ""),
)
async def test_a_dialect_is_learned_once_and_remembered(quirks: Quirks) -> None:
    server = OpenAIServer(["ok"], quirks=quirks)
    chat = [*HELLO, Message(role="assistant", content="One."), Message(role="assistant", content="Two.")]
    schema = {"type": "object", "properties": {"value": {"type": "string"}}}
    async with connected(server) as model:
        await model.complete(chat, max_tokens=50, temperature=0.2, schema=schema)
        learned = server.counts.requests
        completion = await model.complete(chat, max_tokens=50, temperature=0.2, schema=schema)
    assert completion.text == "ok"
    assert (completion.usage.prompt_tokens > 0, completion.usage.failed_requests) == (True, 0)
    assert server.counts.requests == learned + 1


async def test_bodies_in_parts_and_streams_nobody_asked_for_are_read() -> None:
    for quirks in (Quirks(parts=True), Quirks(always_streams=True)):
        async with connected(OpenAIServer(["in several pieces"], quirks=quirks)) as model:
            assert (await model.complete(HELLO)).text == "in several pieces"


async def test_the_error_for_a_wrong_key_does_not_contain_it() -> None:
    error = await failure(OpenAIServer(["ok"], api_key="another"))
    assert isinstance(error, KeyRefused)
    assert "refused the API key (401: Incorrect API key provided: [key]" in str(error)
    assert "set RLM_MCP_API_KEY to a key of this provider" in str(error)
    assert KEY not in str(error)


@pytest.mark.parametrize("key_in_json", [KEY, KEY.replace("-", "\\u002d")])
async def test_a_reply_that_echoes_the_key_comes_without_it(key_in_json: str) -> None:
    body = (
        '{"model": "m KEY", "choices": [{"finish_reason": "KEY", "message": {"content": "Bearer KEY!",'
        ' "reasoning": "it is KEY", "tool_calls": [{"function": {"name": "KEY"}}]}}]}'
    ).replace("KEY", key_in_json)
    async with connected(OpenAIServer(lambda _: Fault(body=body))) as model:
        completion = await model.complete(HELLO)
    assert completion.text == 'Bearer [key]!\n<tool_call>{"name": "[key]"}</tool_call>'
    assert (completion.reasoning, completion.finish_reason, completion.model) == ("it is [key]", "[key]", "m [key]")


async def test_a_placeholder_for_a_key_is_a_word_of_replies() -> None:
    async with OpenAIServer(["ollama serves models"]) as server:
        provider = OpenAIProvider(server.base_url, Secret("ollama"))
        completion = await provider.model("scripted", Profile()).complete(HELLO)
        await provider.aclose()
    assert completion.text == "ollama serves models"


async def pay_often(ledger: Ledger, model: OpenAIModel, asked: list[Message]) -> None:
    for _ in range(100):
        await paid_call(ledger, model, asked, kind="sub", max_tokens=64)


USED = ['{"prompt_tokens": 0, "completion_tokens": 0, "cost": 0}', '{"prompt_tokens": -9}', '{"cost": 0}']


@pytest.mark.parametrize("usage", USED)
async def test_a_provider_that_reports_nothing_cannot_make_a_budget_endless(
    usage: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = '{"choices": [{"message": {"content": "fine and dandy"}}], "usage": ' + usage + "}"
    asked = [Message(role="user", content="many words " * 2_000)]
    ledger = Ledger(RunLimits(max_usd=0.1))
    async with connected(OpenAIServer(lambda _: Fault(body=body)), profile=PRICED) as model:
        with pytest.raises(BudgetExceeded, match=r"of \$0\.1"):
            await pay_often(ledger, model, asked)
    assert ledger.spent().prompt_tokens == 16 * estimate_prompt(asked)
    assert [record.levelname for record in caplog.records if "an estimate is charged" in record.message] == ["WARNING"]


async def test_an_unknown_model_names_the_near_ones() -> None:
    error = await failure(OpenAIServer(["ok"], models=["gpt-small", "gpt-large"]), name="gpt-smal")
    assert isinstance(error, UnknownModel)
    assert "has no model 'gpt-smal' (404: The model `gpt-smal` does not exist" in str(error)


async def test_the_error_for_a_wrong_base_url_says_how_one_ends() -> None:
    error = await failure(OpenAIServer(["ok"]), path="/chat")
    assert isinstance(error, EndpointUnreachable)
    assert "has no chat completions (404: Not Found): check RLM_MCP_BASE_URL" in str(error)


async def test_a_page_in_place_of_a_reply_is_quoted() -> None:
    server = OpenAIServer([Fault(body="<html>Welcome</html>")] * 3)
    error = await failure(server)
    assert isinstance(error, ProviderFailed)
    assert "answered with no JSON, but '<html>Welcome</html>' (3 times): check RLM_MCP_BASE_URL" in str(error)
    assert (server.counts.requests, error.failed_requests, error.unanswered_requests) == (3, 3, 3)


async def test_a_page_that_a_gateway_shows_for_a_moment_is_asked_past() -> None:
    sleep = Sleeper()
    replies: list[Fault | str] = [
        Fault(body="<!DOCTYPE html><title>One moment</title>"),
        Fault(body="\n <html>"),
        "hello",
    ]
    async with connected(OpenAIServer(replies), sleep=sleep) as model:
        completion = await model.complete(HELLO)
    assert (completion.text, completion.usage.failed_requests, len(sleep.asked)) == ("hello", 2, 2)


async def test_a_redirect_is_named_and_not_followed() -> None:
    elsewhere = OpenAIServer(["ok"])
    async with elsewhere:
        url = elsewhere.base_url
        error = await failure(OpenAIServer([Fault(status=307, location=url)]))
    assert isinstance(error, EndpointUnreachable)
    assert f"redirects to another address (307: {url}): set RLM_MCP_BASE_URL to it" in str(error)
    assert elsewhere.counts.requests == 0


async def test_an_endpoint_that_is_down_is_tried_three_times() -> None:
    server = OpenAIServer(["ok"])
    async with server:
        url = server.base_url
    sleep = Sleeper()
    provider = OpenAIProvider(url, Secret(""), sleep=sleep, jitter=lambda: 1.0)
    with anyio.fail_after(60), pytest.raises(EndpointUnreachable) as error:
        await provider.model("scripted", Profile()).complete(HELLO)
    await provider.aclose()
    assert str(error.value).startswith(f"nothing answers at {url} (3 times): ")
    assert str(error.value).endswith("start the server there or set RLM_MCP_BASE_URL")
    assert sleep.asked == [0.2, 0.4]
    assert (error.value.failed_requests, error.value.unanswered_requests) == (3, 0)


async def test_429_waits_for_retry_after() -> None:
    sleep = Sleeper()
    server = OpenAIServer(["ok"], faults={0: Fault(status=429, retry_after=0.02), 1: Fault(status=429)})
    async with connected(server, sleep=sleep) as model:
        completion = await model.complete(HELLO)
    assert (completion.text, completion.usage.failed_requests, sleep.asked) == ("ok", 2, [0.02, 1.0])


async def test_a_retry_after_of_an_hour_is_an_error() -> None:
    error = await failure(OpenAIServer(["ok"], faults=lambda request: Fault(status=429, retry_after=3600)))
    assert isinstance(error, RateLimited)
    assert "asks to wait 3600 s" in str(error)


async def test_an_account_out_of_credit_is_not_asked_again() -> None:
    server = OpenAIServer([Fault(status=429, message="You exceeded your current quota, check your plan and billing")])
    error = await failure(server)
    assert "is out of credit (429" in str(error)
    assert server.counts.requests == 1


async def test_server_errors_are_retried_and_then_reported() -> None:
    sleep = Sleeper()
    async with connected(
        OpenAIServer(["ok"], faults={0: Fault(status=500), 1: Fault(status=502)}), sleep=sleep
    ) as model:
        completion = await model.complete(HELLO)
    assert (completion.usage.failed_requests, sleep.asked) == (2, [0.25, 0.5])
    error = await failure(OpenAIServer([Fault(status=500, message="out of memory")]))
    assert isinstance(error, ProviderFailed)
    assert "failed 5 times, last with 500: out of memory; try later" in str(error)


@pytest.mark.parametrize("drop", ["before", "during"])
async def test_a_broken_connection_is_tried_again_and_may_have_been_billed(drop: str) -> None:
    fault = Fault(drop="before" if drop == "before" else "during")
    async with connected(OpenAIServer(["ok" * 500], faults={0: fault})) as model:
        usage = (await model.complete(HELLO)).usage
    assert (usage.failed_requests, usage.unanswered_requests) == (1, 1)


async def test_a_stream_that_breaks_off_is_a_broken_connection() -> None:
    half = 'data: {"choices":[{"delta":{"content":"half of"},"finish_reason":null}]}\n\n'
    async with connected(OpenAIServer(["whole"], faults={0: Fault(body=half)})) as model:
        completion = await model.complete(HELLO)
    assert (completion.text, completion.usage.unanswered_requests) == ("whole", 1)


async def test_a_window_that_the_server_names_is_remembered() -> None:
    server = OpenAIServer(["ok"], quirks=Quirks(window_tokens=500))
    prompt = [Message(role="user", content="x" * 40_000)]
    async with connected(server) as model:
        for _ in range(2):
            with pytest.raises(PromptOverWindow, match="is over the window of model 'scripted', 500 tokens"):
                await paid_call(Ledger(), model, prompt, kind="sub")
    assert (server.counts.requests, model.profile.window_tokens) == (1, 500)


async def test_another_400_is_quoted() -> None:
    error = await failure(OpenAIServer([Fault(status=400, message="the moon is in the wrong phase")]))
    assert isinstance(error, RequestRefused)
    assert "refused a request to model 'scripted' (400: the moon is in the wrong phase)" in str(error)


async def test_a_refusal_in_unknown_words_is_looked_into_once() -> None:
    def faults(request: Request) -> Fault | None:
        whimsical = request.messages[0]["role"] == "system" and "rain" in request.last
        return Fault(status=400, message="the moon is in the wrong phase") if whimsical else None

    server = OpenAIServer(["ok"], faults=faults)
    rain = [HELLO[0], Message(role="user", content="rain")]
    async with connected(server) as model:
        assert (await model.complete(rain, max_tokens=50)).usage.failed_requests == 1
        assert (await model.complete(rain, max_tokens=50)).usage.failed_requests == 0
    never = OpenAIServer([Fault(status=400, message="the moon is in the wrong phase")])
    async with connected(never) as model:
        for requests in (4, 5):
            with pytest.raises(RequestRefused, match="the moon is in the wrong phase"):
                await model.complete(HELLO)
            assert never.counts.requests == requests


async def test_a_reply_is_shortened_to_what_the_server_counts_beside_the_prompt() -> None:
    def faults(request: Request) -> Fault | None:
        asked = request.body["max_tokens"]
        words = f"maximum context length is 8192 tokens, {asked + 1_500} requested (1500 in the messages, {asked} more)"
        return Fault(status=400, message=words) if asked + 1_500 > 8_192 else None

    server = OpenAIServer(["ok"], faults=faults)
    async with connected(server) as model:
        await model.complete(HELLO, max_tokens=8_000)
    assert [request.body["max_tokens"] for request in server.requests] == [8_000, 6_676]
    assert model.profile.window_tokens == 8_192


async def test_a_window_below_a_prompt_that_was_answered_is_not_believed() -> None:
    server = OpenAIServer(["ok"], faults={1: Fault(status=400, message="the prompt is over the limit of 4096 tokens")})
    long = [Message(role="user", content="word " * 4_000)]
    async with connected(server) as model:
        await model.complete(long)
        with pytest.raises(PromptOverWindow, match="refused the prompt of 20,000 characters as too long"):
            await model.complete(long)
    assert model.profile.window_tokens == 128_000


async def test_a_request_that_no_wait_brings_under_a_rate_limit_is_reported_at_once() -> None:
    words = "Request too large on tokens per min (TPM): Limit 30000, Requested 40000"
    server = OpenAIServer([Fault(status=429, message=words)])
    error = await failure(server)
    assert isinstance(error, RateLimited)
    assert f"takes no request of this size at any time (429: {words}): send less at once" in str(error)
    assert server.counts.requests == 1


async def test_a_reply_without_choices_is_asked_for_again() -> None:
    sleep = Sleeper()
    async with connected(OpenAIServer(["ok"], faults={0: Fault(body='{"choices": []}')}), sleep=sleep) as model:
        completion = await model.complete(HELLO)
    assert (completion.text, completion.usage.failed_requests, sleep.asked) == ("ok", 1, [0.25])


async def test_a_404_for_a_model_that_is_served_repeats_the_reason() -> None:
    reason = "no endpoint of this model fits the data policy of the account"
    error = await failure(OpenAIServer([Fault(status=404, message=reason)]))
    assert isinstance(error, RequestRefused)
    assert f"lists model 'scripted' but refused a request to it (404: {reason})" in str(error)


async def test_a_redirect_on_the_same_host_is_followed() -> None:
    server = OpenAIServer(["ok"], faults={0: Fault(status=307, location="/v1/chat/completions")})
    async with connected(server) as model:
        assert (await model.complete(HELLO)).text == "ok"
    around = await failure(OpenAIServer([Fault(status=307, location="/v1/chat/completions")]))
    assert "redirects in a circle (307: http://127.0.0.1:" in str(around)


async def test_strict_schemas_are_marked_as_strict() -> None:
    server = OpenAIServer(["{}"])
    closed = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    async with connected(server) as model:
        await model.complete(HELLO, schema=closed)
        await model.complete(HELLO, schema={"type": "object", "properties": {"a": {"type": "string"}}})
    strict = [request.body["response_format"]["json_schema"]["strict"] for request in server.requests]
    assert strict == [True, False]


async def test_replies_under_way_when_a_call_is_cancelled_are_counted() -> None:
    server, ledger = OpenAIServer(["a reply"], latency=0.01), Ledger()
    async with server:
        provider = OpenAIProvider(server.base_url, Secret(KEY), late_seconds=5.0)
        model = provider.model("scripted", Profile())
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for number in range(8):
                    message = Message(role="user", content=f"question {number}")
                    group.start_soon(partial(paid_call, ledger, model, [message], kind="sub"))
                while server.counts.requests < 8:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        await provider.aclose()
    spent, counts = ledger.spent(), server.counts
    assert (spent.prompt_tokens, spent.completion_tokens) == (counts.prompt_tokens, counts.completion_tokens)
    assert (spent.sub_calls, spent.failed_calls, spent.unanswered_prompt_tokens) == (8, 0, 0)


async def test_requests_without_a_reply_when_a_call_is_cancelled_are_estimated_apart() -> None:
    server, ledger = OpenAIServer(["never"], latency=3600), Ledger()
    async with connected(server, late_seconds=0.0) as model, anyio.create_task_group() as group:
        for _ in range(START + 5):  # the last five wait for their turn, and are never sent
            group.start_soon(partial(paid_call, ledger, model, HELLO, kind="sub"))
        while server.counts.in_flight < START:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    spent = ledger.spent()
    assert (spent.prompt_tokens, spent.failed_calls) == (0, START)
    assert spent.unanswered_prompt_tokens == START * estimate_prompt(HELLO)


async def test_cancelling_closes_the_connection_at_once() -> None:
    server = OpenAIServer(["never"], latency=3600)
    async with connected(server) as model:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(model.complete, HELLO)
            while server.counts.in_flight < 3:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert server.counts.requests == 3


async def test_many_calls_at_once_count_exactly_what_the_server_counted() -> None:
    def faults(request: Request) -> Fault | None:
        kinds = {3: Fault(status=429), 7: Fault(status=500), 11: Fault(drop="before"), 13: Fault(drop="during")}
        return kinds.get(request.number % 17)

    server = OpenAIServer(lambda request: "reply to " + request.last, faults=faults)
    spent = Usage()
    async with connected(server) as model, anyio.create_task_group() as group:

        async def ask(number: int) -> None:
            nonlocal spent
            usage = (await model.complete([Message(role="user", content=f"question {number}")])).usage
            spent = replace(
                spent,
                prompt_tokens=spent.prompt_tokens + usage.prompt_tokens,
                completion_tokens=spent.completion_tokens + usage.completion_tokens,
                failed_requests=spent.failed_requests + usage.failed_requests,
            )

        for number in range(200):
            group.start_soon(ask, number)
    counts = server.counts
    assert (spent.prompt_tokens, spent.completion_tokens) == (counts.prompt_tokens, counts.completion_tokens)
    assert counts.replies == 200
    assert spent.failed_requests == counts.requests - 200

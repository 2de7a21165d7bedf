"""Models behind an OpenAI-compatible endpoint. The only importer of `openai`, and only when asked: that takes 0.6 s.

The client library sends one request and reads one body. What a body means is decided in dialect.py, whether to send
again in retries.py, how many at once in limiter.py; this file does what they decide and words what goes wrong.
"""

import asyncio
import importlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import anyio.to_thread

from rlm_mcp.budget import over_window
from rlm_mcp.errors import (
    EndpointUnreachable,
    KeyRefused,
    ModelError,
    PromptOverWindow,
    ProviderFailed,
    RateLimited,
    RequestRefused,
    UnknownModel,
)
from rlm_mcp.models import dialect as dialects
from rlm_mcp.models.base import Completion, Message, Profile, Usage, estimate_prompt, estimate_tokens
from rlm_mcp.models.dialect import BrokenOff, NotAReply, Refusal, Reply
from rlm_mcp.models.limiter import Limiter, Slot
from rlm_mcp.models.profiles import is_local
from rlm_mcp.models.retries import Failure, FailureKind, next_wait
from rlm_mcp.secret import Secret

if TYPE_CHECKING:
    import httpx2
    import openai

# A long reply of a slow local model: 16,000 tokens at 20 a second are 13 minutes.
REPLY_SECONDS = 900.0
CONNECT_SECONDS = 5.0
# Of a provider's own words: enough for the reason, not for a page of HTML.
QUOTED_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response of HTTP, whatever its status."""

    status: int
    text: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """A request that brought no response. `sent` says that the provider may have seen, and may bill it."""

    kind: FailureKind
    why: str
    sent: bool


@dataclass(slots=True)
class _Tally:
    """The failures of one call so far."""

    by_kind: Counter[FailureKind] = field(default_factory=Counter)
    failed: int = 0
    unanswered: int = 0


class OpenAIProvider:
    """One endpoint: its address, key, connections and limiter, shared by its models. Close it with `aclose`."""

    def __init__(
        self,
        base_url: str,
        api_key: Secret,
        *,
        limiter: Limiter | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.host = urlsplit(base_url).hostname or ""
        self.limiter = limiter or Limiter()
        self.sleep = sleep
        self.jitter = jitter
        self._api_key = api_key
        self._client: openai.AsyncOpenAI | None = None
        self._connecting = anyio.Lock()

    def __repr__(self) -> str:
        return f"<OpenAIProvider {self.base_url}, {self.limiter!r}>"

    def model(self, name: str, profile: Profile) -> "OpenAIModel":
        """A model that this endpoint serves; nothing is asked yet."""
        return OpenAIModel(self, name, profile)

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer | NoAnswer:
        """Sends one request when the limiter lets it, and tells the limiter how it went."""
        client = await self._connected()
        async with self.limiter.slot() as slot:
            await anyio.lowlevel.checkpoint_if_cancelled()  # a slot that came with the cancellation sends nothing
            answer = await _send(client, path, body)
            _report(slot, answer)
        return answer

    async def model_names(self) -> list[str]:
        """What the endpoint says it serves; empty where it does not say."""
        client = await self._connected()
        with anyio.move_on_after(CONNECT_SECONDS):
            answer = await _send(client, "/models", None)
            if isinstance(answer, Answer) and answer.status == 200:
                return dialects.model_names(answer.text)
        return []

    def scrub(self, text: str) -> str:
        """A provider's words, short and without keys."""
        text = " ".join(self._api_key.scrub(text).split())
        return text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + "…"

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _connected(self) -> "openai.AsyncOpenAI":
        if self._client is not None:
            return self._client
        async with self._connecting:
            if self._client is None:
                await anyio.to_thread.run_sync(importlib.import_module, "openai")
                self._client = _connect(self.base_url, self._api_key)
        return self._client


class OpenAIModel:
    """One model of a provider. It remembers the dialect that worked, and the window if the server names one."""

    def __init__(self, provider: OpenAIProvider, name: str, profile: Profile) -> None:
        self.name = name
        self.profile = profile
        self._endpoint = provider
        self._dialect = dialects.first_dialect(name, provider.host)
        if not profile.structured_output:
            self._dialect = replace(self._dialect, structured="none")

    def __repr__(self) -> str:
        return f"<OpenAIModel {self.name} at {self.provider}>"

    @property
    def provider(self) -> str:
        """The base URL."""
        return self._endpoint.base_url

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: Mapping[str, object] | None = None,
    ) -> Completion:
        """One reply; sent again on 429, 5xx and broken connections, and in another dialect where the server asks."""
        tally, dialect = _Tally(), self._dialect
        tried = {dialect}
        while True:
            path, body = dialects.request(
                dialect, self.name, messages, max_tokens=max_tokens, temperature=temperature, schema=schema
            )
            result = await self._ask(path, body, tally)
            if isinstance(result, Reply):
                self._dialect = dialect
                return self._completion(result, messages, tally)
            # Another call may have learned the same meanwhile.
            learned = self._dialect if self._dialect not in tried else dialects.learn(dialect, result)
            if learned is not None and learned not in tried:
                tried.add(learned)
                dialect = learned
            else:
                await self._retry_or_raise(result, messages, tally)

    async def _ask(self, path: str, body: Mapping[str, Any], tally: _Tally) -> Reply | Refusal:
        """Sends until there is an answer that is a reply or says why not."""
        while True:
            answer = self._read(await self._endpoint.post(path, body), tally)
            if isinstance(answer, Reply):
                return answer
            tally.failed += 1
            if isinstance(answer, Refusal):
                return answer
            tally.unanswered += answer.sent
            tally.by_kind[answer.kind] += 1
            wait = next_wait(Failure(kind=answer.kind), tally.by_kind[answer.kind], self._endpoint.jitter)
            if wait is None:
                raise self._error(EndpointUnreachable, self._unreachable(answer, tally), tally)
            await self._endpoint.sleep(wait)

    def _read(self, answer: Answer | NoAnswer, tally: _Tally) -> Reply | Refusal | NoAnswer:
        if isinstance(answer, NoAnswer):
            return answer
        if answer.status >= 300:
            return replace(dialects.refusal_in(answer.status, answer.text), retry_after=answer.retry_after)
        try:
            return dialects.read(answer.text)
        except BrokenOff as error:
            return NoAnswer(kind="broken", why=str(error), sent=True)
        except NotAReply as error:
            tally.failed += 1
            text = (
                f"{self.provider} answered with {self._endpoint.scrub(str(error))}: check RLM_MCP_BASE_URL, the base of"
            )
            raise self._error(ProviderFailed, f"{text} an OpenAI-compatible API usually ends in /v1", tally) from error

    async def _retry_or_raise(self, refusal: Refusal, messages: Sequence[Message], tally: _Tally) -> None:
        """Waits before the same request goes out again, or raises what this refusal means."""
        if (window := dialects.window_in(refusal)) is not None:
            if window:
                self.profile = replace(self.profile, window_tokens=window)
            text = str(over_window(self, messages))
            raise self._error(PromptOverWindow, text, tally)
        kind = _retried_as(refusal)
        if kind is not None:
            tally.by_kind[kind] += 1
            failure = Failure(kind=kind, retry_after=refusal.retry_after)
            if (wait := next_wait(failure, tally.by_kind[kind], self._endpoint.jitter)) is not None:
                await self._endpoint.sleep(wait)
                return
        raise await self._meaning(refusal, tally)

    def _completion(self, reply: Reply, messages: Sequence[Message], tally: _Tally) -> Completion:
        prompt, completion = reply.prompt_tokens, reply.completion_tokens
        counted = prompt is not None and completion is not None
        cost = reply.cost_usd
        if cost is None and prompt is not None and completion is not None:
            cost = self.profile.cost_usd(prompt, completion, reply.cached_prompt_tokens)
        usage = Usage(
            prompt_tokens=estimate_prompt(messages) if prompt is None else prompt,
            completion_tokens=estimate_tokens(reply.reasoning + reply.text) if completion is None else completion,
            cached_prompt_tokens=reply.cached_prompt_tokens,
            cost_usd=cost,
            estimated=not counted,
            failed_requests=tally.failed,
            unanswered_requests=tally.unanswered,
        )
        return Completion(
            text=reply.text,
            usage=usage,
            finish_reason=reply.finish_reason,
            model=reply.model or self.name,
            reasoning=reply.reasoning,
        )

    # --- what goes wrong, in words --------------------------------------------------------------------------------

    def _unreachable(self, answer: NoAnswer, tally: _Tally) -> str:
        times = f" ({tally.failed} times)" if tally.failed > 1 else ""
        if answer.kind == "unreachable":
            return (
                f"nothing answers at {self.provider}{times}: {self._endpoint.scrub(answer.why)}; start the server there"
                " or set RLM_MCP_BASE_URL"
            )
        if answer.kind == "timeout":
            return f"{self.provider} did not answer within {REPLY_SECONDS:g} s{times}: send less at once or try later"
        return f"{self.provider} broke off the connection{times}: {self._endpoint.scrub(answer.why)}; try later"

    async def _meaning(self, refusal: Refusal, tally: _Tally) -> ModelError:
        """The error that a refusal amounts to."""
        quoted = self._endpoint.scrub(refusal.text) or "no reason given"
        match refusal.status:
            case 401 | 403:
                text = f"{self.provider} refused the API key ({refusal.status}: {quoted}): set RLM_MCP_API_KEY"
                return self._error(KeyRefused, f"{text} to a key of this provider", tally)
            case 404 | 405:
                return await self._not_found(refusal, quoted, tally)
            case 402 | 429:
                return self._error(RateLimited, self._limited(refusal, quoted, tally), tally)
            case status if status >= 500 or status in {408, 409, 425}:
                text = f"{self.provider} failed {tally.failed} times, last with {status}: {quoted}; try later"
                return self._error(ProviderFailed, text, tally)
            case status:
                text = (
                    f"{self.provider} refused a request to model {self.name!r} ({status}: {quoted}): change the model"
                )
                return self._error(RequestRefused, f"{text} or what is asked of it", tally)

    async def _not_found(self, refusal: Refusal, quoted: str, tally: _Tally) -> ModelError:
        names = await self._endpoint.model_names()
        if (not names or self.name in names) and not refusal.says("model"):
            text = f"{self.provider} has no chat completions ({refusal.status}: {quoted}): check RLM_MCP_BASE_URL;"
            return self._error(EndpointUnreachable, f"{text} it usually ends in /v1", tally)
        near = get_close_matches(self.name, names, n=3, cutoff=0.3) or names[:5]
        serves = f"it serves {', '.join(near)}{' and others' if len(names) > len(near) else ''}" if near else quoted
        text = f"{self.provider} has no model {self.name!r} ({refusal.status}): {serves}; set RLM_MCP_MODEL or"
        return self._error(UnknownModel, f"{text} RLM_MCP_SUB_MODEL to one that it serves", tally)

    def _limited(self, refusal: Refusal, quoted: str, tally: _Tally) -> str:
        if _out_of_credit(refusal):
            return f"the account at {self.provider} is out of credit ({refusal.status}: {quoted}): top it up"
        if refusal.retry_after is not None and tally.failed == 1:
            return f"{self.provider} asks to wait {refusal.retry_after:g} s (429: {quoted}): come back then"
        return f"{self.provider} answered 429 {tally.failed} times ({quoted}): try later or lower RLM_MCP_CONCURRENCY"

    def _error(self, kind: type[ModelError], text: str, tally: _Tally) -> ModelError:
        return kind(text, failed_requests=tally.failed, unanswered_requests=tally.unanswered)


def _connect(base_url: str, api_key: Secret) -> "openai.AsyncOpenAI":
    import httpx2
    import openai

    timeout = httpx2.Timeout(REPLY_SECONDS, connect=CONNECT_SECONDS, pool=None)
    if _is_plain(base_url):
        from rlm_mcp.models.plainhttp import PlainTransport

        http_client = openai.DefaultAsyncHttpxClient(transport=PlainTransport(), timeout=timeout, trust_env=False)
    else:
        # No cap of its own on connections: the limiter is the cap.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256)
        http_client = openai.DefaultAsyncHttpxClient(limits=limits, timeout=timeout, trust_env=not is_local(base_url))
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=api_key.reveal() or "none",  # local servers want none, the library wants one
        max_retries=0,  # retries.py decides, so that every request is counted and the limiter sees every 429
        timeout=timeout,
        http_client=http_client,
    )


def _is_plain(base_url: str) -> bool:
    """Whether plainhttp.py serves: a local server without TLS, on asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # trio
        return False
    return base_url.startswith("http://") and is_local(base_url)


async def _send(client: "openai.AsyncOpenAI", path: str, body: Mapping[str, Any] | None) -> Answer | NoAnswer:
    import httpx2
    import openai

    try:
        if body is None:
            response = await client.get(path, cast_to=httpx2.Response)
        else:
            response = await client.post(path, cast_to=httpx2.Response, body=body)
    except openai.APIStatusError as error:
        return _answer(error.response)
    except openai.APITimeoutError as error:
        connecting = isinstance(error.__cause__, httpx2.ConnectTimeout)
        kind: FailureKind = "unreachable" if connecting else "timeout"
        return NoAnswer(kind=kind, why="no connection in time", sent=not connecting)
    except openai.APIConnectionError as error:
        refused = isinstance(error.__cause__, httpx2.ConnectError)
        why = str(error.__cause__ or error) or type(error.__cause__).__name__
        return NoAnswer(kind="unreachable" if refused else "broken", why=why, sent=not refused)
    return _answer(response)


def _answer(response: "httpx2.Response") -> Answer:
    return Answer(
        status=response.status_code,
        text=response.text,
        retry_after=dialects.retry_after_seconds(response.headers),
    )


def _report(slot: Slot, answer: Answer | NoAnswer) -> None:
    if isinstance(answer, NoAnswer):
        slot.failed()
    elif answer.status in {429, 503, 529}:
        slot.refused(answer.retry_after)
    elif answer.status < 300:
        slot.answered()
    else:
        slot.failed()


def _retried_as(refusal: Refusal) -> FailureKind | None:
    if refusal.status == 429:
        return None if _out_of_credit(refusal) else "rate"
    return "server" if refusal.status >= 500 or refusal.status in {408, 409, 425} else None


def _out_of_credit(refusal: Refusal) -> bool:
    return refusal.status == 402 or refusal.says("insufficient_quota") or refusal.says("billing")

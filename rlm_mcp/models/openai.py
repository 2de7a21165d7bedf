"""Models behind an OpenAI-compatible endpoint.

This file ties the parts together: sender.py sends one request, dialect.py writes and reads bodies, retries.py decides
whether to try again, limiter.py bounds the requests in flight, and failures.py words the errors. The sender is imported
on the first request, because that takes 0.5 s.
"""

import importlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import anyio.to_thread

from rlm_mcp.models import failures
from rlm_mcp.models.base import Attempts, Completion, Message, Profile
from rlm_mcp.models.connections import Connections
from rlm_mcp.models.dialect import Dialect, Refusal, first_dialect, refusal_in
from rlm_mcp.models.exchange import (
    CONNECT_SECONDS,
    LATE_SECONDS,
    HTTPResponse,
    NoResponse,
    endpoint_url,
    redirect_target,
    same_origin,
)
from rlm_mcp.models.failures import Tally
from rlm_mcp.models.learning import DialectSearch, Feature, ShorterReply, TooLong, longest_beside, sent_in, tokens_ratio
from rlm_mcp.models.limiter import Limiter, Slot
from rlm_mcp.models.reply_body import BrokenOff, NotAReply, ProviderReply, WebPage, model_names, read
from rlm_mcp.models.request_body import request
from rlm_mcp.models.retries import Failure, next_wait
from rlm_mcp.models.usage_check import usage_of
from rlm_mcp.redact import Secret, ellipsize

if TYPE_CHECKING:
    from rlm_mcp.models.sender import Sender

log = logging.getLogger(__name__)

# How much of a provider's error is read: enough for the reason that gateways wrap, not for a page of HTML.
READ_CHARS = 4_000
# Redirects within the configured host: a slash at the end, a prefix of a gateway.
MOST_REDIRECTS = 3
# A provider's name of a model or of an end is not longer.
NAME_CHARS = 300


class OpenAIProvider:
    """An endpoint with its key, connections and limiter, which its models share. Close it with `aclose`."""

    def __init__(
        self,
        base_url: str,
        api_key: Secret,
        *,
        limiter: Limiter | None = None,
        late_seconds: float = LATE_SECONDS,
        connections: Connections | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`late_seconds` and `connections` are as in Sender; `sleep` and `jitter` time the waits between tries."""
        self.base_url = base_url.rstrip("/")
        self.host = urlsplit(base_url).hostname or ""
        self.limiter = limiter or Limiter()
        self.sleep = sleep
        self.jitter = jitter
        self._api_key = api_key
        self._late_seconds = late_seconds
        self._connections = connections
        self._sender: Sender | None = None
        self._connecting = anyio.Lock()
        self._moved: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<OpenAIProvider {self.base_url}, {self.limiter!r}>"

    def model(self, name: str, profile: Profile) -> "OpenAIModel":
        """Returns a model of this endpoint without sending anything."""
        return OpenAIModel(self, name, profile)

    async def post(self, path: str, body: Mapping[str, Any], attempts: Attempts) -> HTTPResponse | NoResponse:
        """Sends one request when the limiter permits it, and reports the outcome to the limiter."""
        sender = self._sender or await self._connected()
        async with self.limiter.slot() as slot:
            await anyio.lowlevel.checkpoint_if_cancelled()  # the slot may have come together with a cancellation
            await attempts.begin()
            began = time.monotonic()
            answer = await self._send(sender, path, body)
            attempts.seconds, attempts.is_under_way = attempts.seconds + time.monotonic() - began, False
            _report(slot, answer)
        return answer

    async def _send(self, sender: "Sender", path: str, body: Mapping[str, Any]) -> HTTPResponse | NoResponse:
        """Sends a request, again to the address on the same host to which the server redirects it."""
        answer = await sender.send(self._moved.get(path, path), body)
        for _ in range(MOST_REDIRECTS):
            target = (
                redirect_target(endpoint_url(self.base_url, path), answer) if isinstance(answer, HTTPResponse) else ""
            )
            if not target or not same_origin(target, self.base_url):
                return answer
            answer = await sender.send(target, body)
            self._moved[path] = target
        self._moved.pop(path, None)
        return answer

    async def model_names(self) -> list[str]:
        """Returns the models that the endpoint lists; none if it does not list them."""
        sender = self._sender or await self._connected()
        with anyio.move_on_after(CONNECT_SECONDS):
            answer = await sender.send("/models", None)
            if isinstance(answer, HTTPResponse) and answer.status == 200:
                return [self.scrub(name) for name in model_names(answer.text)]
        return []

    def scrub(self, text: str) -> str:
        """Removes keys from a provider's words and shortens them."""
        text = " ".join(self._api_key.scrub(text).split())
        return ellipsize(text, READ_CHARS)

    def mask_key(self, text: str) -> str:
        """Removes the key of this endpoint from a reply."""
        return self._api_key.mask_in_reply(text)

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._sender is not None:
            await self._sender.aclose()
            self._sender = None

    async def _connected(self) -> "Sender":
        async with self._connecting:
            if self._sender is None:
                await anyio.to_thread.run_sync(importlib.import_module, "rlm_mcp.models.sender")
                from rlm_mcp.models.sender import Sender

                self._sender = Sender(
                    self.base_url, self._api_key, late_seconds=self._late_seconds, connections=self._connections
                )
        return self._sender


class OpenAIModel:
    """A model of a provider. Remembers the dialect that worked, and the window if an error of the server names it."""

    def __init__(self, provider: OpenAIProvider, name: str, profile: Profile) -> None:
        self.name = name
        self.profile = profile
        self._endpoint = provider
        self._dialect = first_dialect(name, provider.host)
        if not profile.structured_output:
            self._dialect = replace(self._dialect, structured="none")
        self._ruled_out: set[Feature] = set()
        self._largest_prompt = 0
        self._tokens_ratio: float | None = None
        self._doubted = False

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
        logprobs: bool = False,
        stop: Sequence[str] = (),
        attempts: Attempts | None = None,
    ) -> Completion:
        """Returns one reply.

        Retries on 429, 5xx, web pages and broken connections, and changes the request as an error asks.
        """
        tally, search = Tally(attempts or Attempts()), DialectSearch(self._dialect, self._ruled_out)
        longest = self._longest_reply(max_tokens, messages)
        while True:
            path, body = request(
                search.dialect,
                self.name,
                messages,
                max_tokens=longest,
                temperature=temperature,
                schema=schema,
                logprobs=logprobs,
                stop=stop,
            )
            result = await self._ask(path, body, tally)
            if isinstance(result, ProviderReply):
                self._dialect = search.dialect
                return self._completion(result, messages, max_tokens, tally)
            match search.next(result, sent_in(body, messages), self._dialect):
                case Dialect():
                    pass
                case ShorterReply(max_tokens=fewer, window=window):
                    longest = fewer
                    self._learn_window(window)
                case TooLong(window=window):
                    learned = self._learn_window(window)
                    raise failures.refused_as_too_long(self, messages, search.refusal or result, tally, told=learned)
                case None:
                    await self._retry_or_raise(result, search.refusal or result, tally)

    def _longest_reply(self, max_tokens: int | None, messages: Sequence[Message]) -> int | None:
        """The longest reply that fits beside the prompt, by the server's count of earlier prompts."""
        if max_tokens is None:
            return None
        return longest_beside(messages, self._tokens_ratio, max_tokens, self.profile.window_tokens)

    def _learn_window(self, window: int) -> bool:
        """Notes the window that the server told, unless a prompt that it answered was longer."""
        is_believed = window > self._largest_prompt
        if is_believed:
            self.profile = replace(self.profile, window_tokens=window)
        return is_believed

    async def _ask(self, path: str, body: Mapping[str, Any], tally: Tally) -> ProviderReply | Refusal:
        """Sends a request, again if it got no response, and returns the reply or the refusal."""
        while True:
            answer = self._read(await self._endpoint.post(path, body, tally.attempts), tally)
            if isinstance(answer, ProviderReply):
                return answer
            tally.attempts.failed += 1
            if isinstance(answer, Refusal):
                return answer
            tally.attempts.unanswered += answer.sent
            if not await self._waited(Failure(kind=answer.kind), tally):
                raise failures.unreachable(self.provider, answer, tally)

    def _read(self, answer: HTTPResponse | NoResponse, tally: Tally) -> ProviderReply | Refusal | NoResponse:
        if isinstance(answer, NoResponse):
            return replace(answer, why=self._endpoint.scrub(answer.why))
        if answer.status >= 300:
            moved_to = redirect_target(self.provider, answer)
            return self._quoted(refusal_in(answer.status, moved_to or answer.text), answer.retry_after)
        try:
            # Masked before and after reading: an error quotes the beginning of a body, and JSON may escape the key.
            found = read(self._endpoint.mask_key(answer.text))
        except BrokenOff as error:
            return NoResponse(kind="broken", why=str(error), sent=True)
        except WebPage as error:
            return NoResponse(kind="page", why=self._endpoint.scrub(str(error)), sent=True)
        except NotAReply as error:
            tally.attempts.failed += 1
            tally.attempts.unanswered += 1  # with status 200 it may have been billed
            raise failures.no_reply(self.provider, self._endpoint.scrub(str(error)), tally) from error
        return self._quoted(found, answer.retry_after) if isinstance(found, Refusal) else self._masked(found)

    def _masked(self, reply: ProviderReply) -> ProviderReply:
        """Returns the reply without the key, which an endpoint could put into the guest, the record and the answer."""
        mask = self._endpoint.mask_key
        return replace(
            reply,
            text=mask(reply.text),
            reasoning=mask(reply.reasoning),
            finish_reason=ellipsize(mask(reply.finish_reason), NAME_CHARS),
            model=ellipsize(mask(reply.model), NAME_CHARS),
        )

    def _quoted(self, refusal: Refusal, retry_after: float | None) -> Refusal:
        """Returns the refusal in words that can be shown."""
        scrub = self._endpoint.scrub
        return replace(
            refusal,
            text=scrub(refusal.text),
            code=scrub(refusal.code),
            param=scrub(refusal.param),
            retry_after=refusal.retry_after if retry_after is None else retry_after,
        )

    async def _retry_or_raise(self, refusal: Refusal, told: Refusal, tally: Tally) -> None:
        """Waits before the same request is sent again, or raises the error for the refusal `told`."""
        kind = failures.retried_as(refusal)
        if kind is not None and await self._waited(Failure(kind=kind, retry_after=refusal.retry_after), tally):
            return
        served = await self._endpoint.model_names() if told.status in {404, 405} else []
        raise failures.refused(self.provider, self.name, told, served, tally)

    async def _waited(self, failure: Failure, tally: Tally) -> bool:
        """Waits before the next try and returns True, or returns False if there is none left."""
        tally.by_kind[failure.kind] += 1
        wait = next_wait(failure, tally.by_kind[failure.kind], self._endpoint.jitter)
        if wait is not None:
            await self._endpoint.sleep(wait)
        return wait is not None

    def _completion(
        self, reply: ProviderReply, messages: Sequence[Message], max_tokens: int | None, tally: Tally
    ) -> Completion:
        usage = usage_of(reply, messages, max_tokens, self.profile)
        if not usage.estimated:
            self._largest_prompt = max(self._largest_prompt, usage.prompt_tokens)
            self._tokens_ratio = tokens_ratio(self._tokens_ratio, usage.prompt_tokens, messages)
        if usage.doubt and not self._doubted:
            self._doubted = True
            log.warning("%s: model %s: %s; an estimate is charged instead", self.provider, self.name, usage.doubt)
        usage = replace(
            usage,
            failed_requests=tally.attempts.failed,
            unanswered_requests=tally.attempts.unanswered,
            request_seconds=tally.attempts.seconds,
        )
        return Completion(
            text=reply.text,
            usage=usage,
            finish_reason=reply.finish_reason,
            model=reply.model or self.name,
            reasoning=reply.reasoning,
            logprobs=reply.logprobs,
        )


def _report(slot: Slot, answer: HTTPResponse | NoResponse) -> None:
    if isinstance(answer, NoResponse):
        slot.failed()
    elif answer.status in {429, 503, 529}:
        slot.refused(answer.retry_after)
    elif answer.status < 300:
        slot.answered()
    else:
        slot.failed()

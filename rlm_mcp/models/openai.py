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

from rlm_mcp.errors import PromptOverWindow
from rlm_mcp.models import dialect as dialects
from rlm_mcp.models import failures
from rlm_mcp.models.base import Attempts, Completion, Message, Profile
from rlm_mcp.models.dialect import BrokenOff, NotAReply, ProviderReply, Refusal
from rlm_mcp.models.exchange import CONNECT_SECONDS, LATE_SECONDS, HTTPResponse, NoResponse
from rlm_mcp.models.failures import Tally
from rlm_mcp.models.limiter import Limiter, Slot
from rlm_mcp.models.retries import Failure, next_wait
from rlm_mcp.models.usage_check import usage_of
from rlm_mcp.redact import Secret, ellipsize

if TYPE_CHECKING:
    from rlm_mcp.models.sender import Sender

log = logging.getLogger(__name__)

# How much of a provider's error is quoted: enough for the reason, not for a page of HTML.
QUOTED_CHARS = 300


class OpenAIProvider:
    """An endpoint with its key, connections and limiter, which its models share. Close it with `aclose`."""

    def __init__(
        self,
        base_url: str,
        api_key: Secret,
        *,
        limiter: Limiter | None = None,
        late_seconds: float = LATE_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`late_seconds` is as in Sender; `sleep` and `jitter` time the waits between tries."""
        self.base_url = base_url.rstrip("/")
        self.host = urlsplit(base_url).hostname or ""
        self.limiter = limiter or Limiter()
        self.sleep = sleep
        self.jitter = jitter
        self._api_key = api_key
        self._late_seconds = late_seconds
        self._sender: Sender | None = None
        self._connecting = anyio.Lock()

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
            began, attempts.is_under_way = time.monotonic(), True
            answer = await sender.send(path, body)
            attempts.seconds, attempts.is_under_way = attempts.seconds + time.monotonic() - began, False
            _report(slot, answer)
        return answer

    async def model_names(self) -> list[str]:
        """Returns the models that the endpoint lists; none if it does not list them."""
        sender = self._sender or await self._connected()
        with anyio.move_on_after(CONNECT_SECONDS):
            answer = await sender.send("/models", None)
            if isinstance(answer, HTTPResponse) and answer.status == 200:
                return [self.scrub(name) for name in dialects.model_names(answer.text)]
        return []

    def scrub(self, text: str) -> str:
        """Removes keys from a provider's words and shortens them."""
        text = " ".join(self._api_key.scrub(text).split())
        return ellipsize(text, QUOTED_CHARS)

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

                self._sender = Sender(self.base_url, self._api_key, late_seconds=self._late_seconds)
        return self._sender


class OpenAIModel:
    """A model of a provider. Remembers the dialect that worked, and the window if an error of the server names it."""

    def __init__(self, provider: OpenAIProvider, name: str, profile: Profile) -> None:
        self.name = name
        self.profile = profile
        self._endpoint = provider
        self._dialect = dialects.first_dialect(name, provider.host)
        if not profile.structured_output:
            self._dialect = replace(self._dialect, structured="none")
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
        attempts: Attempts | None = None,
    ) -> Completion:
        """Returns one reply. Retries on 429, 5xx and broken connections, and changes the dialect if an error asks."""
        tally, dialect = Tally(attempts or Attempts()), self._dialect
        tried = {dialect}
        while True:
            path, body = dialects.request(
                dialect, self.name, messages, max_tokens=max_tokens, temperature=temperature, schema=schema
            )
            result = await self._ask(path, body, tally)
            if isinstance(result, ProviderReply):
                self._dialect = dialect
                return self._completion(result, messages, max_tokens, tally)
            # A concurrent call may have learned another dialect already.
            learned = self._dialect if self._dialect not in tried else dialects.learn(dialect, result)
            if learned is not None and learned not in tried:
                tried.add(learned)
                dialect = learned
            else:
                await self._retry_or_raise(result, messages, tally)

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
            return self._quoted(dialects.refusal_in(answer.status, answer.location or answer.text), answer.retry_after)
        try:
            # Masked before and after reading: an error quotes the beginning of a body, and JSON may escape the key.
            read = dialects.read(self._endpoint.mask_key(answer.text))
        except BrokenOff as error:
            return NoResponse(kind="broken", why=str(error), sent=True)
        except NotAReply as error:
            tally.attempts.failed += 1
            tally.attempts.unanswered += 1  # with status 200 it may have been billed
            raise failures.no_reply(self.provider, self._endpoint.scrub(str(error)), tally) from error
        return self._quoted(read, answer.retry_after) if isinstance(read, Refusal) else self._masked(read)

    def _masked(self, reply: ProviderReply) -> ProviderReply:
        """Returns the reply without the key, which an endpoint could put into the guest, the record and the answer."""
        mask = self._endpoint.mask_key
        return replace(
            reply,
            text=mask(reply.text),
            reasoning=mask(reply.reasoning),
            finish_reason=ellipsize(mask(reply.finish_reason), QUOTED_CHARS),
            model=ellipsize(mask(reply.model), QUOTED_CHARS),
        )

    def _quoted(self, refusal: Refusal, retry_after: float | None) -> Refusal:
        """Returns the refusal in words that can be shown."""
        scrub = self._endpoint.scrub
        return replace(
            refusal,
            text=scrub(refusal.text),
            code=scrub(refusal.code),
            param=scrub(refusal.param),
            retry_after=retry_after,
        )

    async def _retry_or_raise(self, refusal: Refusal, messages: Sequence[Message], tally: Tally) -> None:
        """Waits before the same request is sent again, or raises the error for this refusal."""
        if (window := dialects.window_in(refusal)) is not None:
            if window:
                self.profile = replace(self.profile, window_tokens=window)
            raise tally.error(PromptOverWindow, str(failures.over_window(self, messages)))
        kind = failures.retried_as(refusal)
        if kind is not None and await self._waited(Failure(kind=kind, retry_after=refusal.retry_after), tally):
            return
        served = await self._endpoint.model_names() if refusal.status in {404, 405} else []
        raise failures.refused(self.provider, self.name, refusal, served, tally)

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

"""Sampling requests of one run, held until a client can have its model answer them.

A handshake-era connection that offers sampling attaches a handler, which sends every request to that client for as long
as the connection lives. Clients of protocol version 2026-07-28 cannot be sent requests: a tool call ends with the open
requests as its result, and the client's next call brings the answers. A request therefore waits in this queue, and a
run goes on when its client reconnects or when another client polls it.

Such a client does not report that its user declined: it drops the call and does not repeat it. Two rules make up for
that. Once a request has been sent, its time limit starts anew and is shorter than the limit for being picked up at all.
A request that was sent MOST_SENT times counts as declined when a call comes without an answer to it.
"""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, Protocol

import anyio

from rlm_mcp.errors import ProviderFailed
from rlm_mcp.models.sampling import Sampled, Sampler

PICKUP_SECONDS = 600.0
"""How long a request waits for a client to pick it up; then the run ends, and can be resumed."""

ANSWER_SECONDS, EXTRA_SECONDS = 180.0, 5.0
"""The time limit for the answer to a request that was sent: two minutes for a user to click and one for a model to
reply, plus EXTRA_SECONDS for every further request sent with it, because their answers come back together."""

MOST_SENT = 2
"""A request is sent once more in case the client was lost or its user made a mistake; after that it was declined."""

CLIENT = "client"
"""The name of the client's own model where a model is named: RLM_MCP_MODEL=client, sub_model="client"."""


class HandlerGone(Exception):
    """The connection of a handler has ended. The request is still open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRequest:
    """A chat that begins with the user and alternates; the model's next turn is wanted."""

    turns: Sequence[tuple[Literal["user", "assistant"], str]]
    system: str
    max_tokens: int
    temperature: float | None

    @property
    def chars(self) -> int:
        """Length of the system prompt and all turns in characters."""
        return len(self.system) + sum(len(text) for _, text in self.turns)


class SamplingHandler(Protocol):
    """Sends a request to a client. Raises HandlerGone, or a ModelError if the client refuses."""

    async def __call__(self, request: SamplingRequest, /) -> Sampled:
        """The reply of the client's model."""


class SamplingQueue(Sampler, Protocol):
    """The sampling requests of one run, which a SamplingModel calls.

    A call raises ProviderFailed if it was refused or not answered in time. Everything happens on the event loop.
    `tests/rlm_mcp/models/test_sampling_queue.py` is what every implementation has to pass.
    """

    on_request: Callable[[], None]
    """called when a request waits for a client, also again after it was sent in vain"""

    def attach(self, handler: SamplingHandler) -> None:
        """Sends all requests through this handler from now on, including those that are open."""

    def unanswered(self) -> Mapping[str, SamplingRequest]:
        """The requests without an answer by name, the oldest first; empty while a handler sends them."""

    def mark_sent(self, names: Collection[str]) -> None:
        """Notes that these requests were sent together to a client, whose next call brings the answers."""

    def unsent(self, names: Collection[str]) -> Collection[str]:
        """Those of these requests that have never been sent."""

    def fail_unanswered(self) -> None:
        """Fails the requests that were sent MOST_SENT times; call it after all answers of a client's call are in."""

    def answer(self, name: str, answer: Sampled | ProviderFailed) -> None:
        """Answers a request. An answer to a request that is no longer open, or has one, is ignored."""


@dataclass(slots=True, kw_only=True)
class _OpenRequest:
    """A request without an answer. `changed` is set when it was answered or sent, or a handler was attached."""

    request: SamplingRequest
    seconds: float
    changed: anyio.Event = field(default_factory=anyio.Event)
    times_sent: int = 0
    answer: Sampled | ProviderFailed | None = None

    def notify(self) -> None:
        """Wakes the task that waits for the answer."""
        self.changed.set()
        self.changed = anyio.Event()


class LocalSamplingQueue:
    """The requests of a run of this process, whose clients come to the same process."""

    def __init__(
        self,
        *,
        pickup_seconds: float = PICKUP_SECONDS,
        answer_seconds: Callable[[int], float] = lambda sent: ANSWER_SECONDS + EXTRA_SECONDS * (sent - 1),
    ) -> None:
        """`answer_seconds` is the time limit for answers to that many requests that were sent together."""
        self._pickup_seconds = pickup_seconds
        self._answer_seconds = answer_seconds
        self._open: dict[str, _OpenRequest] = {}
        self._handler: SamplingHandler | None = None
        self._names = (f"{secrets.token_hex(3)}-{number}" for number in count(1))
        self.on_request: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<LocalSamplingQueue, {len(self._open)} open, {'with' if self._handler else 'without'} a handler>"

    async def __call__(
        self,
        turns: Sequence[tuple[Literal["user", "assistant"], str]],
        *,
        system: str,
        max_tokens: int,
        temperature: float | None,
    ) -> Sampled:
        """Waits for the answer to one request. Raises ProviderFailed if it was refused or not answered in time."""
        request = SamplingRequest(turns=turns, system=system, max_tokens=max_tokens, temperature=temperature)
        name, waiting = next(self._names), _OpenRequest(request=request, seconds=self._pickup_seconds)
        self._open[name] = waiting
        try:
            while waiting.answer is None:
                await (self._wait(waiting) if self._handler is None else self._send(waiting, self._handler))
        finally:
            del self._open[name]
        if isinstance(waiting.answer, ProviderFailed):
            raise waiting.answer
        return waiting.answer

    async def _send(self, waiting: _OpenRequest, handler: SamplingHandler) -> None:
        """Sends a request through the handler; if the handler is gone, the request stays open."""
        try:
            waiting.answer = await handler(waiting.request)
        except HandlerGone:
            if self._handler is handler:
                self._handler = None

    async def _wait(self, waiting: _OpenRequest) -> None:
        """Waits until something changes for a request; gives it up after its time limit."""
        if waiting.times_sent == 0:
            self.on_request()
        with anyio.move_on_after(waiting.seconds):
            await waiting.changed.wait()
            return
        waiting.answer = ProviderFailed(
            _unanswered(f"within {waiting.seconds:.0f} s")
            if waiting.times_sent
            else f"no client answered a question to its model within {self._pickup_seconds:.0f} s: keep calling "
            "rlm_result from a client that offers sampling, or set RLM_MCP_MODEL"
        )

    def attach(self, handler: SamplingHandler) -> None:
        """Sends all requests through this handler from now on, including those that are open."""
        self._handler = handler
        for waiting in self._open.values():
            waiting.notify()

    def unanswered(self) -> Mapping[str, SamplingRequest]:
        """The requests without an answer by name, the oldest first; empty while a handler sends them."""
        return {} if self._handler else {name: w.request for name, w in self._open.items() if w.answer is None}

    def mark_sent(self, names: Collection[str]) -> None:
        """Notes that these requests were sent together to a client, whose next call brings the answers."""
        for name in names:
            waiting = self._open[name]
            waiting.times_sent += 1
            waiting.seconds = self._answer_seconds(len(names))
            waiting.notify()

    def unsent(self, names: Collection[str]) -> Collection[str]:
        """Those of these requests that have never been sent."""
        return [name for name in names if self._open[name].times_sent == 0]

    def fail_unanswered(self) -> None:
        """Fails the requests that were sent MOST_SENT times; call it after all answers of a client's call are in."""
        for waiting in self._open.values():
            if waiting.answer is None and waiting.times_sent >= MOST_SENT:
                waiting.answer = ProviderFailed(_unanswered(f"though it was asked {waiting.times_sent} times"))
                waiting.notify()

    def answer(self, name: str, answer: Sampled | ProviderFailed) -> None:
        """Answers a request. An answer to a request that is no longer open is ignored."""
        waiting = self._open.get(name)
        if waiting is not None and waiting.answer is None:
            waiting.answer = answer
            waiting.notify()


def _unanswered(how: str) -> str:
    return (
        f"the client did not answer a sampling request {how}: its user may have declined; allow it there, set "
        "RLM_MCP_MODEL, or go without (the prompt be_the_root)"
    )

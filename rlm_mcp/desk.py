"""Where a run lays its questions to the client's model, until a client comes by that can have them answered.

A handshake-era connection that offers sampling leaves a courier, who takes every question to it as long as it lives.
Clients of 2026-07-28 cannot be asked: they take the open questions with them when a call ends, and bring the answers
with the next one. So a question waits here; a run whose client reconnects, or polls from elsewhere, goes on.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, Protocol

import anyio

from rlm_mcp.errors import ProviderFailed
from rlm_mcp.models.sampling import Sampled

PATIENCE_SECONDS = 600.0
"""A question that nobody has taken for so long is not going to be: the run ends, and can be resumed."""

CLIENT = "client"
"""The name of the client's own model, where a model is named: RLM_MCP_MODEL=client, sub_model="client"."""


class CourierGone(Exception):
    """The connection of a courier has ended. The question is still open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A chat that begins with the user and takes turns; the model's next turn is wanted."""

    turns: Sequence[tuple[Literal["user", "assistant"], str]]
    system: str
    max_tokens: int
    temperature: float | None

    @property
    def chars(self) -> int:
        """How long it is."""
        return len(self.system) + sum(len(text) for _, text in self.turns)


class Courier(Protocol):
    """Takes a question to a client. Raises CourierGone, or a ModelError where the client refuses."""

    async def __call__(self, question: Question) -> Sampled:
        """What the client's model answered."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """A question that waits."""

    question: Question
    settled: anyio.Event = field(default_factory=anyio.Event)
    answer: Sampled | ProviderFailed | None = None


class Desk:
    """The questions of one run. A `Sample`, as a SamplingModel wants one."""

    def __init__(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience = patience_seconds
        self._open: dict[str, _Open] = {}
        self._courier: Courier | None = None
        self._names = (f"{secrets.token_hex(3)}-{number}" for number in count(1))
        self.on_question: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Desk, {len(self._open)} open questions, {'a' if self._courier else 'no'} courier>"

    async def __call__(
        self,
        turns: Sequence[tuple[Literal["user", "assistant"], str]],
        *,
        system: str,
        max_tokens: int,
        temperature: float | None,
    ) -> Sampled:
        """Waits for the answer to one question. Raises ProviderFailed when it was refused or nobody took it."""
        question = Question(turns=turns, system=system, max_tokens=max_tokens, temperature=temperature)
        name, waiting = next(self._names), _Open(question=question)
        self._open[name] = waiting
        try:
            while waiting.answer is None:
                await self._carry(waiting)
        finally:
            del self._open[name]
        if isinstance(waiting.answer, ProviderFailed):
            raise waiting.answer
        return waiting.answer

    async def _carry(self, waiting: _Open) -> None:
        """One try: by the courier, or else by whoever comes."""
        courier = self._courier
        if courier is not None:
            try:
                waiting.answer = await courier(waiting.question)
            except CourierGone:
                if self._courier is courier:
                    self._courier = None
            return
        self.on_question()
        with anyio.move_on_after(self._patience):
            await waiting.settled.wait()
            waiting.settled = anyio.Event()
            return
        waiting.answer = ProviderFailed(
            f"no client answered a question to its model within {self._patience:.0f} s: keep calling rlm_result from a "
            "client that offers sampling, or set RLM_MCP_MODEL"
        )

    def employ(self, courier: Courier) -> None:
        """Has all questions taken by this courier from now on, the open ones too."""
        self._courier = courier
        for waiting in self._open.values():
            waiting.settled.set()

    def questions(self) -> Mapping[str, Question]:
        """What waits for an answer, the oldest first; nothing while a courier takes care of it."""
        return {} if self._courier else {name: w.question for name, w in self._open.items() if w.answer is None}

    def answer(self, name: str, answer: Sampled | ProviderFailed) -> None:
        """Settles a question. One that is not open any more is nobody's business."""
        waiting = self._open.get(name)
        if waiting is not None and waiting.answer is None:
            waiting.answer = answer
            waiting.settled.set()

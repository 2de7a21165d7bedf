"""Where a run lays its questions to the client's model, until a client comes by that can have them answered.

A handshake-era connection that offers sampling leaves a courier, who takes every question to it as long as it lives.
Clients of 2026-07-28 cannot be asked: they take the open questions with them when a call ends, and bring the answers
with the next one. So a question waits here; a run whose client reconnects, or polls from elsewhere, goes on.

Of a user who declines, such a client says nothing: it gives the call up and does not repeat it. So the time for an
answer begins anew whenever a question is taken along, shorter than the time for somebody to come by; and a call that
comes without the answer to a question that was taken along twice tells that there will be none.
"""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, Protocol

import anyio

from rlm_mcp.errors import ProviderFailed
from rlm_mcp.models.sampling import Sampled

PATIENCE_SECONDS = 600.0
"""A question that nobody has taken for so long is not going to be: the run ends, and can be resumed."""

ANSWER_SECONDS, MORE_SECONDS = 180.0, 5.0
"""For the answer to a question that was taken along: two minutes for a user to click, and one for a model to reply; and
for every further question that was taken with it, because they come back together."""

MOST_TAKEN = 2
"""Once, and once more in case that client was lost or its user mistaken; after that he has declined."""

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
    patience_seconds: float
    changed: anyio.Event = field(default_factory=anyio.Event)
    """it is settled, or taken along, or there is a courier"""
    taken: int = 0
    """how often it was taken along"""
    answer: Sampled | ProviderFailed | None = None

    def change(self) -> None:
        """Makes whoever waits look again."""
        self.changed.set()
        self.changed = anyio.Event()


class Desk:
    """The questions of one run. A `Sample`, as a SamplingModel wants one."""

    def __init__(
        self,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        answer_seconds: Callable[[int], float] = lambda together: ANSWER_SECONDS + MORE_SECONDS * (together - 1),
    ) -> None:
        self._patience = patience_seconds
        self._answer_seconds = answer_seconds
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
        name, waiting = next(self._names), _Open(question=question, patience_seconds=self._patience)
        self._open[name] = waiting
        try:
            while waiting.answer is None:
                await (self._wait(waiting) if self._courier is None else self._send(waiting, self._courier))
        finally:
            del self._open[name]
        if isinstance(waiting.answer, ProviderFailed):
            raise waiting.answer
        return waiting.answer

    async def _send(self, waiting: _Open, courier: Courier) -> None:
        """By courier; a question that he brings back is open as before."""
        try:
            waiting.answer = await courier(waiting.question)
        except CourierGone:
            if self._courier is courier:
                self._courier = None

    async def _wait(self, waiting: _Open) -> None:
        """For whoever comes by, as long as nothing changes."""
        if waiting.taken == 0:
            self.on_question()
        with anyio.move_on_after(waiting.patience_seconds):
            await waiting.changed.wait()
            return
        waiting.answer = ProviderFailed(
            _unanswered(f"within {waiting.patience_seconds:.0f} s")
            if waiting.taken
            else f"no client answered a question to its model within {self._patience:.0f} s: keep calling rlm_result "
            "from a client that offers sampling, or set RLM_MCP_MODEL"
        )

    def employ(self, courier: Courier) -> None:
        """Has all questions taken by this courier from now on, the open ones too."""
        self._courier = courier
        for waiting in self._open.values():
            waiting.change()

    def questions(self) -> Mapping[str, Question]:
        """What waits for an answer, the oldest first; nothing while a courier takes care of it."""
        return {} if self._courier else {name: w.question for name, w in self._open.items() if w.answer is None}

    def take(self, names: Collection[str]) -> None:
        """A client takes these along, to come back with the answers."""
        for name in names:
            waiting = self._open[name]
            waiting.taken += 1
            waiting.patience_seconds = self._answer_seconds(len(names))
            waiting.change()

    def untaken(self, names: Collection[str]) -> Collection[str]:
        """Those of these that nobody has taken along yet."""
        return [name for name in names if self._open[name].taken == 0]

    def expect_no_more(self) -> None:
        """A client comes by with all the answers it has: questions that were taken often enough have none."""
        for waiting in self._open.values():
            if waiting.answer is None and waiting.taken >= MOST_TAKEN:
                waiting.answer = ProviderFailed(_unanswered(f"though it was asked {waiting.taken} times"))
                waiting.change()

    def answer(self, name: str, answer: Sampled | ProviderFailed) -> None:
        """Settles a question. One that is not open any more is nobody's business."""
        waiting = self._open.get(name)
        if waiting is not None and waiting.answer is None:
            waiting.answer = answer
            waiting.change()


def _unanswered(how: str) -> str:
    return (
        f"the client did not answer a sampling request {how}: its user may have declined; allow it there, set "
        "RLM_MCP_MODEL, or go without (the prompt be_the_root)"
    )

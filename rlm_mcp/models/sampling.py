"""The model of an MCP client that offers sampling. The messages of MCP are made in the package `server`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rlm_mcp.models.base import Attempts, Completion, Message, Profile, Usage, estimate_prompt, estimate_tokens
from rlm_mcp.models.dialect import Dialect
from rlm_mcp.models.request_body import arrange

# A sampling request must have a limit; this is the one for callers that give none.
USUAL_REPLY_TOKENS = 8_192
SAMPLING = "sampling"
"""The provider of a client's model. It does not say whose client, so its replies are never kept for later runs."""

# stopReason of MCP -> finish_reason
_REASONS = {"endTurn": "stop", "stopSequence": "stop", "maxTokens": "length"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The reply of a client's model. `stop_reason` is a value of MCP, None if the client gave none."""

    text: str
    model: str = ""
    stop_reason: str | None = None


class Sampler(Protocol):
    """Sends one sampling request. Raises errors.ModelError, also if the user declines."""

    async def __call__(
        self,
        turns: Sequence[tuple[Literal["user", "assistant"], str]],
        *,
        system: str,
        max_tokens: int,
        temperature: float | None,
    ) -> Sampled:
        """Returns the reply to a chat that begins with the user and alternates."""


class SamplingModel:
    """A model that the client chooses, runs and pays for. Its tokens are estimates and its cost is unknown."""

    def __init__(self, sample: Sampler, *, profile: Profile | None = None) -> None:
        self.name = "client"
        self.provider = SAMPLING
        self.profile = profile or Profile(structured_output=False)
        self._sample = sample

    def __repr__(self) -> str:
        return "<SamplingModel>"

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: Mapping[str, object] | None = None,  # noqa: ARG002 # sampling cannot enforce a schema; the prompt states it
        logprobs: bool = False,  # noqa: ARG002 # sampling gives none
        stop: Sequence[str] = (),  # noqa: ARG002 # only weak models get one, and a client's model is none
        attempts: Attempts | None = None,
    ) -> Completion:
        """Returns one reply of the client's model."""
        arranged = arrange(messages, Dialect())
        system = arranged.pop(0).content if arranged and arranged[0].role == "system" else ""
        turns: list[tuple[Literal["user", "assistant"], str]] = [
            ("assistant" if message.role == "assistant" else "user", message.content) for message in arranged
        ]
        attempts = attempts or Attempts()
        await attempts.begin()
        sampled = await self._sample(
            turns, system=system, max_tokens=max_tokens or USUAL_REPLY_TOKENS, temperature=temperature
        )
        attempts.is_under_way = False
        usage = Usage(
            prompt_tokens=estimate_prompt(messages), completion_tokens=estimate_tokens(sampled.text), estimated=True
        )
        return Completion(
            text=sampled.text,
            usage=usage,
            finish_reason=_REASONS.get(sampled.stop_reason or "endTurn", "stop"),
            model=sampled.model or self.name,
        )

"""The client's own model, where the connection offers sampling. What MCP calls it is the server's business."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rlm_mcp.models.base import Attempts, Completion, Message, Profile, Usage, estimate_prompt, estimate_tokens
from rlm_mcp.models.dialect import Dialect, arrange

# Sampling needs a limit with every request; this one is for callers that name none.
USUAL_REPLY_TOKENS = 8_192
# stopReason in the words of MCP -> ours
_REASONS = {"endTurn": "stop", "stopSequence": "stop", "maxTokens": "length"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What a client answered. `stop_reason` is in the words of MCP, None where it did not say."""

    text: str
    model: str = ""
    stop_reason: str | None = None


class Sampler(Protocol):
    """Asks the client's model once. Raises errors.ModelError, also when the user declines."""

    async def __call__(
        self,
        turns: Sequence[tuple[Literal["user", "assistant"], str]],
        *,
        system: str,
        max_tokens: int,
        temperature: float | None,
    ) -> Sampled:
        """The reply to a chat that begins with the user and takes turns."""


class SamplingModel:
    """A model that the client runs, pays and chooses. No usage is reported: tokens are estimates, cost is unknown."""

    def __init__(self, sample: Sampler, *, profile: Profile | None = None) -> None:
        self.name = "client"
        self.provider = "sampling"
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
        schema: Mapping[str, object] | None = None,  # noqa: ARG002 # sampling cannot bind a reply; the prompt says it too
        attempts: Attempts | None = None,
    ) -> Completion:
        """One reply of the client's model."""
        arranged = arrange(messages, Dialect())
        system = arranged.pop(0).content if arranged and arranged[0].role == "system" else ""
        turns: list[tuple[Literal["user", "assistant"], str]] = [
            ("assistant" if message.role == "assistant" else "user", message.content) for message in arranged
        ]
        attempts = attempts or Attempts()
        attempts.is_under_way = True
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

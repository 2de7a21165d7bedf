"""A model that replies from a list or a function, for tests, demos and benchmarks.

It ships with the package, so that the loop can run without a network and without patching.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import anyio

from rlm_mcp.errors import ProviderFailed
from rlm_mcp.models.base import Attempts, Completion, Message, Profile, Usage, estimate_prompt, estimate_tokens

ScriptedReply = str | Completion | Exception
Script = Sequence[ScriptedReply | Callable[["ScriptedCall"], ScriptedReply]] | Callable[["ScriptedCall"], ScriptedReply]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedCall:
    """The arguments of one call of a scripted model."""

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    schema: Mapping[str, object] | None = None
    stop: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The text of the last message."""
        return self.messages[-1].content


class ScriptedModel:
    """A model that replies with the next entry of `replies`, or with the result of `replies` if it is a function.

    An entry is a text, a Completion, an exception to raise, or a function of the call that returns one of these. Token
    counts are estimated from the texts, marked as reported and priced by `profile`. `calls` keeps every call. A call
    after the last entry raises ProviderFailed. `seconds` is how long each reply takes.
    """

    def __init__(
        self, replies: Script, *, name: str = "scripted", profile: Profile | None = None, seconds: float = 0.0
    ) -> None:
        self.name = name
        self.provider = "scripted"
        self.profile = profile or Profile()
        self.calls: list[ScriptedCall] = []
        self._replies = replies
        self._seconds = seconds

    def __repr__(self) -> str:
        return f"<ScriptedModel {self.name}, {len(self.calls)} calls>"

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: Mapping[str, object] | None = None,
        logprobs: bool = False,  # noqa: ARG002 # a script puts them into its Completion
        stop: Sequence[str] = (),
        attempts: Attempts | None = None,
    ) -> Completion:
        """Returns the next reply, or raises it if it is an exception."""
        asked = ScriptedCall(
            messages=tuple(messages), max_tokens=max_tokens, temperature=temperature, schema=schema, stop=tuple(stop)
        )
        attempts = attempts or Attempts()
        await attempts.begin()
        index = len(self.calls)
        self.calls.append(asked)
        await anyio.sleep(self._seconds)
        attempts.is_under_way = False
        answer = self._answer(index, asked)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Completion):
            return replace(answer, model=answer.model or self.name)
        return Completion(text=answer, usage=self._usage(asked, answer), model=self.name)

    def _answer(self, index: int, asked: ScriptedCall) -> ScriptedReply:
        if callable(self._replies):
            return self._replies(asked)
        if index >= len(self._replies):
            return ProviderFailed(f"the script of model {self.name!r} has {len(self._replies)} replies: add one more")
        entry = self._replies[index]
        return entry(asked) if callable(entry) else entry

    def _usage(self, asked: ScriptedCall, text: str) -> Usage:
        prompt, completion = estimate_prompt(asked.messages), estimate_tokens(text)
        return Usage(
            prompt_tokens=prompt, completion_tokens=completion, cost_usd=self.profile.cost_usd(prompt, completion)
        )

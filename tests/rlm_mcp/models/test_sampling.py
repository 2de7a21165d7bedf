from collections.abc import Sequence

import pytest

from rlm_mcp.models.base import Completion, Message, Usage
from rlm_mcp.models.sampling import Sampled, SamplingModel

pytestmark = pytest.mark.anyio


async def test_a_chat_is_sampled_with_its_system_text_apart() -> None:
    asked: list[object] = []

    async def sample(
        turns: Sequence[tuple[str, str]], *, system: str, max_tokens: int, temperature: float | None
    ) -> Sampled:
        asked.append((list(turns), system, max_tokens, temperature))
        return Sampled(text="four char", model="theirs", stop_reason="maxTokens")

    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="a"),
        Message(role="assistant", content="b"),
        Message(role="user", content="c"),
        Message(role="user", content="d"),
    ]
    completion = await SamplingModel(sample).complete(messages, temperature=0.5)
    assert asked == [([("user", "a"), ("assistant", "b"), ("user", "c\n\nd")], "Be brief.", 8192, 0.5)]
    assert completion == Completion(
        text="four char",
        usage=Usage(prompt_tokens=47, completion_tokens=3, estimated=True),
        finish_reason="length",
        model="theirs",
    )

"""Input rounds of the stateless protocol: a call ends with questions, and the client repeats it with their answers.

2026-07-28 has no requests from server to client; `InputRequiredResult` takes their place. The SDK's `Resolve(...)`
makes such rounds for questions that are known before a tool begins. Those of a run come up while it goes on, any number
of them, so its rounds are made here. The SDK seals the state that travels with them and binds it to the caller and the
arguments.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from mcp.server.mcpserver import Context as Request
from mcp_types import InputRequest, InputRequiredResult

STATELESS = "2026-07-28"
"""The first version without requests from server to client. Versions are dates and compare as text."""

MOST_ROUNDS = 8
"""Client SDKs repeat one call at most ten times; then it has to end with a result."""


def is_stateless(request: Request[Any, Any]) -> bool:
    """Whether the client of this request can only be asked by ending the call."""
    return request.protocol_version is not None and request.protocol_version >= STATELESS


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRound:
    """How often a call has been repeated with answers, and the run it is about, once there is one."""

    number: int = 0
    run_id: str | None = None

    @classmethod
    def of(cls, request: Request[Any, Any]) -> Self:
        """The round that a request belongs to."""
        if request.protocol_version is None or request.request_state is None:
            return cls()
        return cls(**json.loads(request.request_state))

    def ask(self, questions: Mapping[str, InputRequest], *, run_id: str | None = None) -> InputRequiredResult:
        """The result that ends the call with questions; its repetition is the next round."""
        following = InputRound(number=self.number + 1, run_id=run_id or self.run_id)
        return InputRequiredResult(input_requests=dict(questions), request_state=json.dumps(asdict(following)))

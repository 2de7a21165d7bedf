"""What a tool asks its client in the middle of a call: whether to go ahead, and what its model says to a question.

On handshake-era connections the server sends a request, and a handler goes on doing so after the call, as long as the
connection lives. 2026-07-28 has no such requests: the call ends with the open questions, and the client repeats it with
their answers (`InputRequiredResult`). The SDK's `Resolve(...)` does that for questions known before a tool begins; a
run's come up while it goes on, any number of them, so the rounds are made here. Only what the client declared is asked.
The state that rides along is sealed by the SDK and bound to the caller and the arguments.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from mcp import MCPError
from mcp.server.elicitation import AcceptedElicitation, render_elicitation_schema
from mcp.server.mcpserver import Context as Request
from mcp.shared.exceptions import MCPDeprecationWarning, NoBackChannelError
from mcp_types import (
    CONNECTION_CLOSED,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, Field, ValidationError

from rlm_mcp.errors import ProviderFailed, RlmError
from rlm_mcp.models.sampling import Sampled
from rlm_mcp.models.sampling_queue import HandlerGone, SamplingHandler, SamplingQueue, SamplingRequest

STATELESS = "2026-07-28"
"""The first version without requests from server to client. Versions are dates and compare as text."""

MOST_ROUNDS = 8
"""Client SDKs repeat one call at most ten times; then its result has to be a result."""

ROUND_CHARS = 400_000
"""Questions of one round together, but at least one: a reply of megabytes is refused by some clients."""

CONFIRMATION = "confirm"


class Declined(RlmError):
    """The user said no."""


class GoAhead(BaseModel):
    """What the user is shown as a form."""

    go_ahead: bool = Field(title="Start the run", description="Start the run and spend up to this")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """How often a call has been repeated with answers, and the run it is about, once there is one."""

    number: int = 0
    run_id: str | None = None

    @classmethod
    def of(cls, request: Request[Any, Any]) -> Self:
        """The round that a request belongs to."""
        if request.protocol_version is None or request.request_state is None:
            return cls()
        return cls(**json.loads(request.request_state))

    def asks(self, questions: Mapping[str, InputRequest], *, run_id: str | None = None) -> InputRequiredResult:
        """Ends the call with questions; its repetition is the next round."""
        state = {"number": self.number + 1, "run_id": run_id or self.run_id}
        return InputRequiredResult(input_requests=dict(questions), request_state=json.dumps(state))


# --- may it be started?


async def confirm(request: Request[Any, Any], text: str) -> InputRequiredResult | None:
    """Has the user agree to `text`; None once he has. Raises Declined.

    Asks nobody where the client cannot ask its user: then the limits of the run have to do.
    """
    if not _can_confirm(request):
        return None
    if _is_stateless(request):
        answer = (request.input_responses or {}).get(CONFIRMATION)
        if answer is None:
            form = ElicitRequestFormParams(message=text, requested_schema=render_elicitation_schema(GoAhead))
            return Round.of(request).asks({CONFIRMATION: ElicitRequest(params=form)})
        agreed = isinstance(answer, ElicitResult) and answer.action == "accept" and _agrees(answer.content)
    else:
        try:
            outcome = await request.elicit(text, GoAhead)
        except (MCPError, ValueError):  # refused by an error, or with a form that is not ours
            agreed = False
        else:
            agreed = isinstance(outcome, AcceptedElicitation) and outcome.data.go_ahead
    if not agreed:
        raise Declined(
            "The user declined the run: nothing was started and nothing was spent. Do not start it again unasked; "
            "offer a smaller limit (max_usd), mode='direct', or inspect_context, which is free."
        )
    return None


def _agrees(content: Any) -> bool:
    try:
        return GoAhead.model_validate(content).go_ahead
    except ValidationError:
        return False


def _can_confirm(request: Request[Any, Any]) -> bool:
    elicitation = None if request.client_capabilities is None else request.client_capabilities.elicitation
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return _is_stateless(request) or request.session.can_send_request


# --- what does the model say?


def offers_sampling(request: Request[Any, Any]) -> bool:
    """Whether the client that sent this request has its own model answer questions."""
    capabilities = request.client_capabilities
    return capabilities is not None and capabilities.sampling is not None and request.protocol_version is not None


def visit(request: Request[Any, Any], queue: SamplingQueue) -> None:
    """Takes the answers that a call about a run brings, or attaches a handler for the run's requests."""
    if _is_stateless(request):
        for name, answer in (request.input_responses or {}).items():
            queue.answer(name, _sampled(answer))
        if offers_sampling(request):
            queue.fail_unanswered()
    elif offers_sampling(request):
        queue.attach(_handler(request))


def has_to_return(request: Request[Any, Any], queue: SamplingQueue) -> bool:
    """Whether the run waits for answers that this client brings, which it does only when the call has ended."""
    return _is_stateless(request) and offers_sampling(request) and bool(queue.unanswered())


def take_along(request: Request[Any, Any], queue: SamplingQueue, *, run_id: str) -> InputRequiredResult | None:
    """The questions that the call ends with; None where it has ended so too often, and the next call takes them."""
    this = Round.of(request)
    if this.number >= MOST_ROUNDS:
        return None
    questions = open_questions(queue)
    queue.mark_sent(questions)
    return this.asks(questions, run_id=run_id)


def shown_questions(queue: SamplingQueue) -> Mapping[str, InputRequest]:
    """The requests without an answer, for a client that polls until it has answered them."""
    questions = open_questions(queue)
    queue.mark_sent(queue.unsent(questions))
    return questions


def open_questions(queue: SamplingQueue) -> Mapping[str, InputRequest]:
    """The requests without an answer in the types of MCP, no more than one round should hold."""
    taken: dict[str, InputRequest] = {}
    room = ROUND_CHARS
    for name, question in queue.unanswered().items():
        room -= question.chars
        if room < 0 and taken:
            break
        taken[name] = CreateMessageRequest(params=_params(question))
    return taken


def answered(queue: SamplingQueue, responses: Mapping[str, Any]) -> None:
    """Gives the queue answers that came as JSON, as those of a task do."""
    for name, response in responses.items():
        try:
            queue.answer(name, _sampled(CreateMessageResult.model_validate(response)))
        except ValidationError:
            queue.answer(name, ProviderFailed("the client answered a sampling request with something else"))


def _handler(request: Request[Any, Any]) -> SamplingHandler:
    """A handler that asks the client over its connection for as long as that lives."""
    session = request.session

    async def carry(question: SamplingRequest) -> Sampled:
        params = _params(question)
        with warnings.catch_warnings():  # deprecated with the protocol version that it belongs to; we know
            warnings.simplefilter("ignore", MCPDeprecationWarning)
            asked = session.create_message(
                params.messages,
                max_tokens=params.max_tokens,
                system_prompt=params.system_prompt,
                temperature=params.temperature,
            )
        try:
            return _sampled_text(await asked)
        except NoBackChannelError as error:
            raise HandlerGone from error
        except MCPError as error:
            if error.error.code == CONNECTION_CLOSED:
                raise HandlerGone from error
            raise ProviderFailed(
                f"the client did not answer a sampling request ({error}): allow it there, or set RLM_MCP_MODEL"
            ) from error

    return carry


def _params(question: SamplingRequest) -> CreateMessageRequestParams:
    turns = question.turns
    return CreateMessageRequestParams(
        messages=[SamplingMessage(role=role, content=TextContent(type="text", text=text)) for role, text in turns],
        max_tokens=question.max_tokens,
        system_prompt=question.system or None,
        temperature=question.temperature,
    )


def _sampled(answer: Any) -> Sampled | ProviderFailed:
    if isinstance(answer, CreateMessageResult | CreateMessageResultWithTools):
        return _sampled_text(answer)
    return ProviderFailed("the client answered a sampling request with something else")


def _sampled_text(result: CreateMessageResult | CreateMessageResultWithTools) -> Sampled:
    pieces = result.content if isinstance(result.content, list) else [result.content]
    text = "\n".join(piece.text for piece in pieces if isinstance(piece, TextContent))
    return Sampled(text=text, model=result.model, stop_reason=result.stop_reason)


def _is_stateless(request: Request[Any, Any]) -> bool:
    return request.protocol_version is not None and request.protocol_version >= STATELESS

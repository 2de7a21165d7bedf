"""Sampling requests of a run, which the client's own model answers, over either protocol era.

On handshake-era connections the server sends a request, and a handler goes on doing so after the call, as long as the
connection lives. Clients of 2026-07-28 get the requests when a call ends, and bring the answers when they repeat it
(input_rounds.py), or poll them as part of a task. Only clients that declared sampling are asked.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from mcp import MCPError
from mcp.server.mcpserver import Context as Request
from mcp.shared.exceptions import MCPDeprecationWarning, NoBackChannelError
from mcp_types import (
    CONNECTION_CLOSED,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    CreateMessageResultWithTools,
    InputRequest,
    InputRequiredResult,
    SamplingMessage,
    TextContent,
)
from pydantic import ValidationError

from rlm_mcp.errors import ProviderFailed
from rlm_mcp.models.sampling import Sampled
from rlm_mcp.models.sampling_queue import HandlerGone, SamplingHandler, SamplingQueue, SamplingRequest
from rlm_mcp.server.input_rounds import MOST_ROUNDS, InputRound, is_stateless

ROUND_CHARS = 400_000
"""Requests of one round together, but at least one: some clients refuse a reply of megabytes."""


def offers_sampling(request: Request[Any, Any]) -> bool:
    """Whether the client of this request declared that its own model answers sampling requests."""
    capabilities = request.client_capabilities
    return capabilities is not None and capabilities.sampling is not None and request.protocol_version is not None


def connect_client(request: Request[Any, Any], queue: SamplingQueue) -> None:
    """Takes the answers that a call about a run brings, or attaches a handler for the run's requests."""
    if is_stateless(request):
        for name, answer in (request.input_responses or {}).items():
            queue.answer(name, _sampled(answer))
        if offers_sampling(request):
            queue.fail_unanswered()
    elif offers_sampling(request):
        queue.attach(_handler(request))


def must_return_requests(request: Request[Any, Any], queue: SamplingQueue) -> bool:
    """Whether the run waits for answers that this client brings only after the call has ended."""
    return is_stateless(request) and offers_sampling(request) and bool(queue.unanswered())


def return_requests(request: Request[Any, Any], queue: SamplingQueue, *, run_id: str) -> InputRequiredResult | None:
    """The result that ends the call with the pending requests. None after MOST_ROUNDS: the next call returns them."""
    this = InputRound.of(request)
    if this.number >= MOST_ROUNDS:
        return None
    requests = pending_requests(queue)
    queue.mark_sent(requests)
    return this.ask(requests, run_id=run_id)


def poll_requests(queue: SamplingQueue) -> Mapping[str, InputRequest]:
    """The pending requests, for a client that polls until it has answered them."""
    requests = pending_requests(queue)
    queue.mark_sent(queue.unsent(requests))
    return requests


def pending_requests(queue: SamplingQueue) -> Mapping[str, InputRequest]:
    """The requests without an answer in the types of MCP, at most ROUND_CHARS of them."""
    pending: dict[str, InputRequest] = {}
    room = ROUND_CHARS
    for name, sampling in queue.unanswered().items():
        room -= sampling.chars
        if room < 0 and pending:
            break
        pending[name] = CreateMessageRequest(params=_params(sampling))
    return pending


def accept_answers(queue: SamplingQueue, responses: Mapping[str, Any]) -> None:
    """Gives the queue answers that came as JSON, which is how a task's answers come."""
    for name, response in responses.items():
        try:
            queue.answer(name, _sampled(CreateMessageResult.model_validate(response)))
        except ValidationError:
            queue.answer(name, ProviderFailed("the client answered a sampling request with something else"))


def _handler(request: Request[Any, Any]) -> SamplingHandler:
    """A handler that asks the client over its connection for as long as that lives."""
    session = request.session

    async def ask_client(sampling: SamplingRequest) -> Sampled:
        params = _params(sampling)
        with warnings.catch_warnings():  # known: deprecated with the protocol version that it belongs to
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

    return ask_client


def _params(sampling: SamplingRequest) -> CreateMessageRequestParams:
    turns = sampling.turns
    return CreateMessageRequestParams(
        messages=[SamplingMessage(role=role, content=TextContent(type="text", text=text)) for role, text in turns],
        max_tokens=sampling.max_tokens,
        system_prompt=sampling.system or None,
        temperature=sampling.temperature,
    )


def _sampled(answer: Any) -> Sampled | ProviderFailed:
    if isinstance(answer, CreateMessageResult | CreateMessageResultWithTools):
        return _sampled_text(answer)
    return ProviderFailed("the client answered a sampling request with something else")


def _sampled_text(result: CreateMessageResult | CreateMessageResultWithTools) -> Sampled:
    pieces = result.content if isinstance(result.content, list) else [result.content]
    text = "\n".join(piece.text for piece in pieces if isinstance(piece, TextContent))
    return Sampled(text=text, model=result.model, stop_reason=result.stop_reason)

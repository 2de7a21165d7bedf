"""Confirmation of a costly run by the client's user, over either protocol era."""

from typing import Any

from mcp import MCPError
from mcp.server.elicitation import AcceptedElicitation, render_elicitation_schema
from mcp.server.mcpserver import Context as Request
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from pydantic import BaseModel, Field, ValidationError

from rlm_mcp.errors import RlmError
from rlm_mcp.server.input_rounds import InputRound, is_stateless

CONFIRMATION = "confirm"


class Declined(RlmError):
    """The user declined."""


class GoAhead(BaseModel):
    """The form that the user sees."""

    go_ahead: bool = Field(title="Start the run", description="Start the run and spend up to this")


async def confirm(request: Request[Any, Any], text: str) -> InputRequiredResult | None:
    """Asks the user to agree to `text`. None: the user agreed, or the client cannot ask. Raises Declined.

    A client that cannot ask its user is bound by the limits of the run alone.
    """
    if not _can_confirm(request):
        return None
    if not is_stateless(request):
        agreed = await _ask_over_connection(request, text)
    elif (answer := (request.input_responses or {}).get(CONFIRMATION)) is None:
        form = ElicitRequestFormParams(message=text, requested_schema=render_elicitation_schema(GoAhead))
        return InputRound.of(request).ask({CONFIRMATION: ElicitRequest(params=form)})
    else:
        agreed = isinstance(answer, ElicitResult) and answer.action == "accept" and _agrees(answer.content)
    if not agreed:
        raise Declined(
            "The user declined the run: nothing was started and nothing was spent. Do not start it again unasked; "
            "offer a smaller limit (max_usd), mode='direct', or inspect_context, which is free."
        )
    return None


async def _ask_over_connection(request: Request[Any, Any], text: str) -> bool:
    try:
        outcome = await request.elicit(text, GoAhead)
    except (MCPError, ValueError):  # refused by an error, or with a form that is not ours
        return False
    return isinstance(outcome, AcceptedElicitation) and outcome.data.go_ahead


def _agrees(content: Any) -> bool:
    try:
        return GoAhead.model_validate(content).go_ahead
    except ValidationError:
        return False


def _can_confirm(request: Request[Any, Any]) -> bool:
    elicitation = None if request.client_capabilities is None else request.client_capabilities.elicitation
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return is_stateless(request) or request.session.can_send_request

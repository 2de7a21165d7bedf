"""A tool call about a run: the user's consent to its cost, and the wait for its end."""

from typing import Any

import anyio
from mcp.server.mcpserver import Context as Request
from mcp_types import CallToolResult, InputRequiredResult

from rlm_mcp.server.cancellations import is_connection_lost
from rlm_mcp.server.client_timeouts import limits_of
from rlm_mcp.server.elicitation import confirm
from rlm_mcp.server.presenters import estimate_text, run_result, running_message
from rlm_mcp.server.result_text import send
from rlm_mcp.server.sampling import connect_client, must_return_requests, offers_sampling, return_requests
from rlm_mcp.workspace.launch import SolveRequest
from rlm_mcp.workspace.workspace import Workspace

WAITS_FOR_CLIENT = (
    "It waits for the model of a client that offers sampling, and this one does not: call rlm_result from one that "
    "does, or stop it with cancel_run."
)


async def confirm_cost(
    request: Request[Any, Any], workspace: Workspace, asked: SolveRequest
) -> InputRequiredResult | None:
    """Has the user agree to a run that may cost more than the operator's threshold. None: it may be started."""
    threshold = workspace.confirm_usd
    sampling = offers_sampling(request)
    if threshold is None or not await workspace.runs.is_new(asked, sampling=sampling):
        return None
    guess = await workspace.runs.estimate(asked, sampling=sampling)
    if guess.usd is None or guess.usd[1] <= threshold:
        return None
    return await confirm(request, f"Start this run? {estimate_text(guess)} Question: {asked.query[:300]}")


async def wait_for_run(
    request: Request[Any, Any], workspace: Workspace, run_id: str, seconds: float, *, offset: int = 0, call: str = ""
) -> CallToolResult | InputRequiredResult:
    """Waits for the end of a run, with progress, at most as long as the client's own time-out allows.

    `call` is the id of a call that ends the run when it is given up (workers/open_calls.py).
    Ends with sampling requests where the run has some and this client gets them only at the end of a call.
    """
    runs, limits = workspace.runs, limits_of(request)
    longest = limits.seconds if workspace.longest_wait is None else workspace.longest_wait
    run_id = await runs.full_id(run_id)
    await workspace.recovery.resume_if_left(run_id)
    queue = runs.sampling_queue(run_id)
    if queue is not None:
        connect_client(request, queue)
    async with workspace.calls.waiting(run_id, call):
        with anyio.move_on_after(min(seconds, longest)):
            beats = 0  # the protocol wants a growing number, also while nothing happens
            async for progress in runs.follow(run_id):
                if queue is not None and must_return_requests(request, queue):
                    if (ending := return_requests(request, queue, run_id=run_id)) is not None:
                        return ending
                    break
                beats += 1
                await request.report_progress(beats, None, str(progress))
        state = await runs.state(run_id)
        if state.status == "completed" and await is_connection_lost(request):
            await workspace.calls.keep_for_repeat(run_id)
    message = ""
    if state.status == "running":
        is_stuck = queue is not None and bool(queue.unanswered()) and not offers_sampling(request)
        message = WAITS_FOR_CLIENT if is_stuck else running_message(state, runs.progress(run_id), longest)
    return send(run_result(state, message=message, offset=offset, room=limits.chars))

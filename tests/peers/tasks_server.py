"""A server whose tools become tasks, for judges that ask for tools of certain names: our Tasks extension over these.

`python -m tests.peers.tasks_server` serves it over streamable HTTP and logs its address; it has our notifications, too.
The tools' names, arguments and doings are those that the conformance suite describes.
"""

from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
import uvicorn
from anyio.abc import TaskGroup
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context as Request
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve, Sample
from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    CreateMessageResult,
    ErrorData,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel

from rlm_mcp.errors import UnknownRun
from rlm_mcp.server.notifications import Notifications
from rlm_mcp.server.tasks_extension import IDENTIFIER, Tasks, TaskState

AFTER_ASKING = "test_tool_with_task"
"""Asks its caller first, in rounds of the same call, and becomes a task when it has the answer."""


@dataclass(slots=True, kw_only=True)
class Job:
    """Work at it, its open questions and the answers that came."""

    task: TaskState
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    answers: dict[str, Any] = field(default_factory=dict)
    news: anyio.Event = field(default_factory=anyio.Event)

    def show(self, **changes: Any) -> None:
        """Changes what `look` shows."""
        self.task = replace(self.task, updated_at=_now(), **changes)

    async def ask(self, questions: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """The answers, once there is one for each question."""
        self.show(status="input_required", questions=questions)
        while self.task.questions:
            self.news = anyio.Event()
            await self.news.wait()
        self.show(status="working")
        return self.answers


_job: ContextVar[Job] = ContextVar("job")


class Jobs:
    """Calls of the tools that take long, each on a task of the given group; a `Background` as run_tasks.py is one."""

    tools = frozenset({
        "slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input", AFTER_ASKING
    })  # fmt: skip

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._jobs: dict[str, Job] = {}

    async def begin(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> TaskState | HandlerResult:
        if params.name == AFTER_ASKING and not params.input_responses:
            return await call_next(ctx)
        task_id, now = f"job-{len(self._jobs) + 1}", _now()
        job = self._jobs[task_id] = Job(
            task=TaskState(
                task_id=task_id, status="working", message=params.name, created_at=now, updated_at=now, poll_ms=100
            )
        )
        self._group.start_soon(self._work, job, call_next(ctx))
        return job.task

    async def get(self, task_id: str) -> TaskState:
        return self._find(task_id).task

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        job = self._find(task_id)
        job.answers |= {name: response for name, response in responses.items() if name in job.task.questions}
        left = {name: question for name, question in job.task.questions.items() if name not in job.answers}
        job.show(questions=left)
        job.news.set()

    async def cancel(self, task_id: str) -> None:
        self._find(task_id).scope.cancel()

    def _find(self, task_id: str) -> Job:
        try:
            return self._jobs[task_id]
        except KeyError as error:
            raise UnknownRun(f"there is no task {task_id[:80]!r}") from error

    async def _work(self, job: Job, call: Awaitable[HandlerResult]) -> None:
        _job.set(job)
        with job.scope:
            try:
                result = await call
            except MCPError as error:
                job.show(status="failed", error=ErrorData(code=error.error.code, message=error.error.message))
            else:
                assert isinstance(result, CallToolResult)
                job.show(status="completed", result=result)
        if job.scope.cancelled_caught:
            job.show(status="cancelled", questions={})


class Name(BaseModel):
    """The form that asks for a name."""

    name: str


def _asks_name() -> Elicit[Name]:
    return Elicit("What is your name?", Name)


def _asks_model() -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(text="Say hello."))], max_tokens=20)


def _question(message: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"confirm": {"type": "boolean"}}, "required": ["confirm"]}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def build_tasks_server(group: TaskGroup) -> MCPServer[None]:
    """The server; its jobs run in the group until they end or it does."""
    notifications = Notifications()
    server: MCPServer[None] = MCPServer(
        "tasks-fixture",
        version="1",
        extensions=[Tasks(Jobs(group))],
        subscriptions=notifications.bus,
        middleware=[notifications.middleware],
        log_level="CRITICAL",
    )

    @server.tool()
    async def greet(name: str) -> str:
        """Greets, at once."""
        return f"Hello, {name}!"

    @server.tool()
    async def slow_compute(seconds: float, label: str = "") -> str:
        """Takes a while."""
        await anyio.sleep(seconds)
        return f"computed {label} in {seconds} s"

    @server.tool()
    async def failing_job(request: Request[Any, Any]) -> str:
        """Fails as a tool; only as a task."""
        require_client_extension(request.request_context, IDENTIFIER)
        raise ToolError("this job always fails")

    @server.tool()
    async def protocol_error_job() -> str:
        """Fails as a request."""
        raise MCPError(INTERNAL_ERROR, "this job always breaks")

    @server.tool()
    async def confirm_delete(filename: str) -> str:
        """Asks one question while it is a task."""
        answers = await _job.get().ask({"confirm": _question(f"Delete {filename}?")})
        return f"{filename}: {answers['confirm']}"

    @server.tool()
    async def multi_input() -> str:
        """Asks two questions at once while it is a task."""
        answers = await _job.get().ask({"first": _question("The first?"), "second": _question("The second?")})
        return f"{sorted(answers)}"

    @server.tool()
    async def test_tool_with_task(name: Annotated[Name, Resolve(_asks_name)]) -> str:
        """Asks for a name, then becomes a task."""
        return f"Hello, {name.name}!"

    @server.tool()
    async def test_missing_capability(reply: Annotated[CreateMessageResult, Resolve(_asks_model)]) -> str:
        """Needs the client's model."""
        return str(reply.content)

    return server


def _now() -> str:
    return datetime.now(UTC).isoformat()


async def _serve() -> None:
    async with anyio.create_task_group() as group:
        app = build_tasks_server(group).streamable_http_app()
        config = uvicorn.Config(app, host="127.0.0.1", port=0, access_log=False, timeout_graceful_shutdown=1)
        await uvicorn.Server(config).serve()
        group.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(_serve)

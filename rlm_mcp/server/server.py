"""The MCP server: tools, resources and prompts over a workspace, in both protocol eras.

    async with open_workspace(load_settings()) as workspace:
        server = build_server(workspace)

The SDK's MCPServer does the protocol. This file puts the parts together and translates: aliases of argument names into
real ones, and our errors, whose text is written for readers, into the kinds that the SDK passes on.
"""

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Any, Protocol, cast

from mcp.server.apps import client_supports_apps
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.caching import CacheHint
from mcp.server.context import ServerMiddleware
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context as Request
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.server.request_state import RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, GetPromptResult, InputRequiredResult, Resource
from pydantic import AnyUrl, ValidationError

from rlm_mcp.errors import OutOfRange, RlmError, UnknownContext, UnknownPath, UnknownRun
from rlm_mcp.server.apps import PAGES, RunApps
from rlm_mcp.server.argument_aliases import resolve_aliases, unknown
from rlm_mcp.server.cancellations import Cancellations
from rlm_mcp.server.client_timeouts import limits_of
from rlm_mcp.server.list_cache import ListCache
from rlm_mcp.server.notifications import Notifications
from rlm_mcp.server.prompts import INSTRUCTIONS, add_prompts
from rlm_mcp.server.resources import Resources
from rlm_mcp.server.result_text import sendable, without_copy
from rlm_mcp.server.run_tasks import RunTasks
from rlm_mcp.server.skills_extension import Skills
from rlm_mcp.server.tasks_extension import Tasks
from rlm_mcp.server.tool_hints import tell_icon
from rlm_mcp.server.tools import Tools
from rlm_mcp.settings import local_roots
from rlm_mcp.version import __version__
from rlm_mcp.workspace.workspace import Workspace

FRESH_MS = 1_000
"""Lists change with every registration and every run; clients with a subscription are notified anyway."""

FIXED_MS = 3_600_000
"""Tools, prompts and templates never change while a process runs."""


class LineWriter(Protocol):
    """Where lines of text are written."""

    async def write(self, line: str) -> object:
        """Writes a line, which ends with a newline."""

    async def flush(self) -> object:
        """Sends what was written."""


class RlmServer(MCPServer[None]):
    """An MCPServer over a workspace whose errors are sentences for models."""

    def __init__(
        self,
        workspace: Callable[[], Workspace],
        notifications: Notifications,
        *,
        before: Sequence[ServerMiddleware[None]] = (),
        token_verifier: TokenVerifier | None = None,
        auth: AuthSettings | None = None,
        state_key: bytes | None = None,
    ) -> None:
        """`state_key` seals the state of requests that wait for input; None: a key that ends with the process."""
        self._resources = Resources(workspace)
        cancellations = Cancellations()
        tools = Tools(workspace, cancellations).all()
        self._arguments = {tool.name: tuple(tool.parameters["properties"]) for tool in tools}
        super().__init__(
            "rlm-mcp",
            title="RLM: reason over inputs larger than a context window",
            instructions=INSTRUCTIONS,
            version=__version__,
            tools=tools,
            extensions=[RunApps(workspace), Skills(), Tasks(RunTasks(workspace))],
            subscriptions=notifications.bus,
            middleware=[*before, tell_icon, cancellations.middleware, notifications.middleware, ListCache().middleware],
            token_verifier=token_verifier,
            auth=auth,
            request_state_security=None if state_key is None else RequestStateSecurity(keys=[state_key]),
            warn_on_duplicate_tools=False,
            log_level="WARNING",
            cache_hints={
                "tools/list": CacheHint(ttl_ms=FIXED_MS, scope="public"),
                "prompts/list": CacheHint(ttl_ms=FIXED_MS, scope="public"),
                "resources/templates/list": CacheHint(ttl_ms=FIXED_MS, scope="public"),
                "resources/list": CacheHint(ttl_ms=FRESH_MS),
                "resources/read": CacheHint(ttl_ms=FRESH_MS),
            },
        )
        self._resources.add_to(self)
        add_prompts(self)

    async def run_on_lines(self, stdin: AsyncIterable[str], stdout: LineWriter) -> None:
        """Serves one connection as on stdio, over lines of text from and to elsewhere."""
        async with stdio_server(cast("Any", stdin), cast("Any", stdout)) as (read, write):  # it takes anyio's files
            await self._lowlevel_server.run(read, write, self._lowlevel_server.create_initialization_options())

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Request[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Resolves aliases of argument names and has the SDK run the tool; our errors keep their own text."""
        try:
            if name not in self._arguments:
                raise unknown("tool", name, self._arguments)
            result = await super().call_tool(name, resolve_aliases(name, arguments, self._arguments[name]), context)
        except RlmError as error:
            raise ToolError(sendable(str(error))) from error
        except ToolError as error:
            match error.__cause__:
                case RlmError() as ours:
                    raise ToolError(sendable(str(ours))) from ours
                case ValidationError() as invalid:
                    raise ToolError(f"{name}: {_sentence(invalid)}") from error
                case _:
                    raise
        if context is None or limits_of(context).reads != "both" or not isinstance(result, CallToolResult):
            return result
        return without_copy(result, has_page=name in PAGES and client_supports_apps(context))

    async def list_resources(self) -> list[Resource]:
        """Every context and the newest runs of the caller."""
        return await self._resources.listing()

    async def read_resource(
        self, uri: AnyUrl | str, context: Request[None, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Reads through the templates. An unknown id is "not found"; other errors keep their own text."""
        try:
            return await super().read_resource(uri, context)
        except ResourceNotFoundError as error:
            raise ResourceNotFoundError(
                f"no resource is at {str(uri)[:200]}: resources/list and resources/templates/list tell what there is"
            ) from error
        except ResourceError as error:
            match error.__cause__:
                case ValidationError() as invalid:
                    raise MCPError(INVALID_PARAMS, f"{str(uri)[:200]}: {_sentence(invalid)}") from error
                case UnknownContext() | UnknownPath() | UnknownRun() | OutOfRange() as missing:
                    raise ResourceNotFoundError(sendable(str(missing))) from missing
                case RlmError() as ours:
                    raise ResourceError(sendable(str(ours))) from ours
                case _:
                    raise

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Request[None, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """Renders a prompt. Unknown names and wrong arguments are invalid parameters, explained in a sentence."""
        prompts = {prompt.name: prompt.arguments or [] for prompt in await self.list_prompts()}
        if name not in prompts:
            raise MCPError(INVALID_PARAMS, str(unknown("prompt", name, prompts)))
        takes = [argument.name for argument in prompts[name]]
        if sorted(arguments or ()) != sorted(takes):
            given = ", ".join(map(repr, arguments or ()))[:200] or "none"
            raise MCPError(INVALID_PARAMS, f"{name} takes the arguments {', '.join(takes)}; given: {given}")
        return await super().get_prompt(name, arguments, context)


def build_server(workspace: Workspace) -> RlmServer:
    """A server over an open workspace. The caller closes the workspace after serving.

    Paths now come from the model of a client, so from here on a workspace without roots accepts sources from the home
    and working directories only.
    """
    workspace.contexts.store.confine(local_roots())
    notifications = Notifications()
    workspace.on_change(notifications.announce)
    return RlmServer(lambda: workspace, notifications)


def _sentence(invalid: ValidationError) -> str:
    """An error of pydantic in one line, without its dump: `contexts: Input should be a valid list (given 5)`."""
    wrong = []
    for error in invalid.errors(include_url=False)[:5]:
        place = ".".join(str(part) for part in error["loc"]) or "arguments"
        given = "" if error["type"] == "missing" else f" (given {repr(error['input'])[:80]})"
        wrong.append(f"{place}: {error['msg']}{given}")
    return "; ".join(wrong)

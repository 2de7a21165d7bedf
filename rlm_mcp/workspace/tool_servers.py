"""Other MCP servers, named in the settings, whose allowed tools code of a run may call: `tools.SERVER.tool(…)`.

A server is started when the first run begins and serves all runs of the workspace. A task of its own holds the
connection, since that must be closed by the task that opened it. One that ended is started anew by the next run.
"""

import logging
import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.errors import SettingsError, SubCallFailed
from rlm_mcp.redact import ellipsize, escape_controls, without_keys
from rlm_mcp.repl.guest_functions import LINE_CHARS, MAX_FUNCTIONS, REASON_CHARS, GuestFunction
from rlm_mcp.settings import ToolServer

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

log = logging.getLogger(__name__)

START_SECONDS = 20.0
ENDED = "its MCP server has ended, and only the next run starts it again"


class ToolServers:
    """The servers of one workspace; their connections end with `tasks`."""

    def __init__(self, servers: Mapping[str, ToolServer], tasks: TaskGroup, *, start_seconds: float) -> None:
        """A server that does not answer within `start_seconds` cannot be used."""
        self._servers = servers
        self._start_seconds = start_seconds
        self._tasks = tasks
        self._starting = anyio.Lock()
        self._open: dict[str, tuple[GuestFunction, ...]] = {}

    def __repr__(self) -> str:
        return f"<ToolServers {', '.join(self._servers) or 'none'}, {len(self._open)} open>"

    async def functions(self) -> tuple[GuestFunction, ...]:
        """The allowed tools of all servers, which are started if they are not. Raises SettingsError."""
        found: list[GuestFunction] = []
        async with self._starting:
            for name, server in self._servers.items():
                if name not in self._open:
                    self._open[name] = await self._tasks.start(partial(self._serve, name, server))
                found += self._open[name]
        if len(found) > MAX_FUNCTIONS:
            raise SettingsError(f"tools allows {len(found)} tools: allow at most {MAX_FUNCTIONS}")
        return tuple(found)

    async def _serve(self, name: str, server: ToolServer, *, task_status: anyio.abc.TaskStatus[Any]) -> None:
        """Holds the connection to one server. Raises SettingsError to the caller of `functions`."""
        from mcp import Client
        from mcp.client.stdio import StdioServerParameters

        command, *arguments = server.command
        environment = {key: value.reveal() for key, value in server.env.items()}
        parameters = StdioServerParameters(command=command, args=arguments, env=environment)
        is_ready = False
        try:
            with anyio.fail_after(self._start_seconds) as starting:
                async with Client(parameters) as client:
                    tools = await _list_tools(client)
                    starting.deadline = math.inf
                    ended = anyio.Event()
                    functions = tuple(_function(name, tool, client, ended) for tool in _allowed(name, server, tools))
                    is_ready = True
                    task_status.started(functions)
                    await ended.wait()
                    log.warning("the MCP server tools.%s ended; the next run starts it again", name)
        except Exception as error:  # noqa: BLE001 - the SDK does not say what it raises
            cause = _cause(error)
            if not is_ready:
                if isinstance(cause, SettingsError):
                    raise cause from None
                raise SettingsError(
                    f"the MCP server tools.{name} cannot be used ({_words(cause)}): check its command, or remove it "
                    "from the settings"
                ) from None
            log.warning("the connection to the MCP server tools.%s ended: %s", name, _words(cause))
        finally:
            self._open.pop(name, None)


@asynccontextmanager
async def open_tool_servers(
    servers: Mapping[str, ToolServer], *, start_seconds: float = START_SECONDS
) -> AsyncIterator[ToolServers]:
    """The servers of a workspace, none of which is started yet; those that are end on leaving."""
    async with anyio.create_task_group() as tasks:
        try:
            yield ToolServers(servers, tasks, start_seconds=start_seconds)
        finally:
            tasks.cancel_scope.cancel()


async def _list_tools(client: "Client") -> list["Tool"]:
    found: list[Tool] = []
    cursor: str | None = None
    while len(found) < 1_000:
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _allowed(name: str, server: ToolServer, tools: Sequence["Tool"]) -> list["Tool"]:
    by_name = {tool.name: tool for tool in tools}
    if missing := [tool for tool in server.allow if tool not in by_name]:
        has = escape_controls(ellipsize(", ".join(by_name), 500))
        raise SettingsError(f"tools.{name} allows {missing[0]!r}, which that server does not have; it has: {has}")
    return [by_name[tool] for tool in server.allow]


def _function(server: str, tool: "Tool", client: "Client", ended: anyio.Event) -> GuestFunction:
    from mcp import MCPError
    from mcp.types import CONNECTION_CLOSED

    properties = _mapping(tool.input_schema.get("properties"))
    name = f"tools.{server}." + re.sub(r"\W", "_", tool.name, flags=re.ASCII)

    async def call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
        if len(args) > len(properties):
            raise SubCallFailed(f"{name} takes {len(properties)} arguments, not {len(args)}")
        if ended.is_set():
            raise SubCallFailed(f"{name} failed: {ENDED}")
        given = dict(zip(properties, args, strict=False)) | dict(kwargs)
        try:
            result = await client.call_tool(tool.name, given)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                ended.set()
            raise
        return _answer(name, result)

    return GuestFunction(name=name, line=_line(name, tool, properties), call=call)


def _line(name: str, tool: "Tool", properties: Mapping[str, Any]) -> str:
    required = tool.input_schema.get("required") or ()
    shown = ", ".join(
        f"{key}{'' if key in required else '=None'}: {_mapping(schema).get('type', 'any')}"
        for key, schema in properties.items()
    )
    told = (tool.description or tool.title or "").strip().partition("\n")[0]
    return ellipsize(escape_controls(" ".join(f"{name}({shown}): {told}".split())), LINE_CHARS)


def _answer(name: str, result: "CallToolResult") -> object:
    """The result as code gets it: the structured result without its wrapper, else the text."""
    texts = [getattr(part, "text", f"[{part.type} left out]") for part in result.content]
    text = "\n".join(texts)
    if result.is_error:
        raise SubCallFailed(ellipsize(without_keys(f"{name} failed: {text}"), REASON_CHARS))
    structured = result.structured_content
    if structured is None:
        return text
    return structured["result"] if isinstance(structured, dict) and list(structured) == ["result"] else structured


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _cause(error: BaseException) -> BaseException:
    """The first error within the groups of anyio."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return ellipsize(without_keys(" ".join(str(error).split())) or type(error).__name__, 200)

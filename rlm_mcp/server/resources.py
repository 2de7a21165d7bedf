"""Contexts and runs as MCP resources: templates that read them piece by piece, their list, completions.

Reading a context returns its description and says how to read on; one of 10 GB costs no more than a small one.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.resources import ResourceTemplate
from mcp_types import (
    Annotations,
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    Resource,
    ResourceTemplateReference,
)

from rlm_mcp.contexts.types import Context
from rlm_mcp.records.types import RunState
from rlm_mcp.server.presenters import context_result, run_result
from rlm_mcp.server.result_text import fields_of
from rlm_mcp.workspace.change_feed import run_uri
from rlm_mcp.workspace.workspace import Workspace

PIECE_CHARS = 200_000
"""The longest piece of lines or of a file. Applications show it to people; models page through the tools instead."""

LISTED_RUNS = 20
"""The newest runs that `resources/list` names; older ones are read by their URI. Some clients make a tool of each."""

COMPLETED_RUNS = 1_000
"""The newest runs whose ids are completed."""

COMPLETIONS = 100
"""The protocol's own bound."""


class Resources:
    """The resources of whichever workspace belongs to the caller of the current request."""

    def __init__(self, workspace: Callable[[], Workspace]) -> None:
        self._workspace = workspace

    def add_to(self, server: MCPServer[Any]) -> None:
        """Registers templates and completions."""
        for template in _templates():
            bound = template.model_copy(update={"fn": partial(template.fn, self), "context_kwarg": None})
            server._resource_manager._templates[bound.uri_template] = bound  # noqa: SLF001 - the SDK adds functions only
        server.completion()(self.complete)  # type: ignore[no-untyped-call] # the SDK leaves it unannotated

    async def listing(self) -> list[Resource]:
        """Every context and the newest runs."""
        workspace = self._workspace()
        runs = await workspace.runs.list_page(limit=LISTED_RUNS)
        return [_context_entry(c) for c in await workspace.contexts.list_all()] + [_run_entry(r) for r in runs.runs]

    async def context(self, context_id: str) -> str:
        """The description of a context."""
        workspace = self._workspace()
        stored = await workspace.contexts.get(context_id)
        overview = await workspace.contexts.describe(stored)
        shown = context_result(stored).model_dump() | {
            "structure": overview.structure,
            "head": overview.head,
            "tail": overview.tail,
            "largest_files": [asdict(file) for file in overview.largest_files],
            "how_to_read_on": [
                f"{stored.uri}/lines/1-200 (lines 1 to 200; add ?path= for one file)",
                f"{stored.uri}/files/<path>",
                f"tool inspect_context(context={stored.name!r}, search=… or code=…)",
            ],
        }
        return json.dumps(shown, ensure_ascii=False, indent=1)

    async def context_lines(self, context_id: str, start: int, end: int, path: str = "") -> str:
        """Some lines."""
        workspace = self._workspace()
        stored = await workspace.contexts.get(context_id)
        return await self._piece(workspace, stored, start, end, path or None)

    async def context_file(self, context_id: str, path: str) -> str:
        """One file, or its beginning."""
        workspace = self._workspace()
        return await self._piece(workspace, await workspace.contexts.get(context_id), 1, None, path)

    async def _piece(self, workspace: Workspace, stored: Context, start: int, end: int | None, path: str | None) -> str:
        lines = await workspace.contexts.read_lines(stored, start, end, path, max_chars=PIECE_CHARS)
        if not lines.truncated or lines.next_start_line is None:
            return lines.text
        until = "-".join(map(str, (lines.next_start_line, end or lines.next_start_line + 999)))
        query = "" if path is None else f"?path={path}"
        return f"{lines.text}\n[cut here; read on at {stored.uri}/lines/{until}{query}]"

    async def run(self, run_id: str) -> str:
        """A run as `rlm_result` shows it."""
        state = await self._workspace().runs.state(run_id)
        return json.dumps(fields_of(run_result(state)), ensure_ascii=False, indent=1)

    async def answer(self, run_id: str) -> str:
        """The answer as text, an object as JSON."""
        answer = (await self._workspace().runs.state(run_id)).answer
        return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, indent=1)

    async def trace(self, run_id: str) -> str:
        """The events of the run."""
        return await self._workspace().runs.trace(run_id)

    async def complete(
        self,
        ref: PromptReference | ResourceTemplateReference,  # noqa: ARG002 - the names of the arguments suffice
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        """Names of contexts, ids of runs, paths in the context that was chosen before."""
        workspace = self._workspace()
        match argument.name:
            case "context" | "context_id":
                contexts = await workspace.contexts.list_all()
                names = [c.name if argument.name == "context" else c.context_id for c in contexts]
            case "run_id":
                names = [run.run_id for run in (await workspace.runs.list_page(limit=COMPLETED_RUNS)).runs]
            case "path" if context is not None and context.arguments and "context_id" in context.arguments:
                names = await workspace.contexts.list_paths(context.arguments["context_id"])
            case _:
                return None
        begun = argument.value.lower()
        fitting = [name for name in names if begun in name.lower()]
        fitting.sort(key=lambda name: not name.lower().startswith(begun))
        return Completion(values=fitting[:COMPLETIONS], total=len(fitting), has_more=len(fitting) > COMPLETIONS)


@cache
def _templates() -> Sequence[ResourceTemplate]:
    """The templates of no workspace, of which every server has copies: making them takes 15 ms."""
    made = partial(ResourceTemplate.from_function, context_kwarg="self")  # no part of a URI
    return [
        made(
            Resources.context,
            "rlm://contexts/{context_id}",
            title="Context",
            description="What a context is made of, and how to read it.",
            mime_type="application/json",
        ),
        made(
            Resources.context_lines,
            "rlm://contexts/{context_id}/lines/{start}-{end}{?path}",
            title="Lines of a context",
            description="Lines start to end (1-based, both included) of a context, or of one of its files.",
            mime_type="text/plain",
        ),
        made(
            Resources.context_file,
            "rlm://contexts/{context_id}/files/{+path}",
            title="File of a context",
            description="One file of a context; a long one is cut and says where to read on.",
            mime_type="text/plain",
        ),
        made(
            Resources.run,
            "rlm://runs/{run_id}",
            title="Run",
            description="A run as it stands: status, answer, citations, usage. `rlm-mcp runs view ID` makes its page.",
            mime_type="application/json",
        ),
        made(
            Resources.answer,
            "rlm://runs/{run_id}/answer",
            title="Answer of a run",
            description="The whole answer of a run.",
            mime_type="text/plain",
        ),
        made(
            Resources.trace,
            "rlm://runs/{run_id}/trace",
            title="Trace of a run",
            description="Everything that happened in a run, one JSON object a line.",
            mime_type="application/x-ndjson",
        ),
    ]


def _context_entry(context: Context) -> Resource:
    return Resource(
        uri=context.uri,
        name=context.name,
        title=f"Context {context.name}",
        description=f"{context.kind}, {context.chars} characters in {context.lines} lines, {context.files} files",
        mime_type="application/json",
        size=context.bytes,
        annotations=Annotations(audience=["user", "assistant"], priority=0.6, last_modified=context.created_at),
    )


def _run_entry(run: RunState) -> Resource:
    return Resource(
        uri=run_uri(run.run_id),
        name=run.run_id,
        title=f"Run: {run.query[:80]}",
        description=f"{run.status}, {run.iterations} iterations, answer of {run.answer_chars} characters",
        mime_type="application/json",
        annotations=Annotations(audience=["user", "assistant"], priority=0.4, last_modified=run.created_at),
    )

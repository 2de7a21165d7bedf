"""The MCP Skills extension (`io.modelcontextprotocol/skills`, SEP-2640): how to use this server, loaded when needed.

A skill is a directory of `skills/`, each file of which is a resource. The plugin for command-line clients has a copy.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding, ResourceBinding
from mcp.server.mcpserver.resources import TextResource
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, PaginatedRequestParams, RequestParams

IDENTIFIER = "io.modelcontextprotocol/skills"
SKILL_FILE = "SKILL.md"
CACHE_MS = 86_400_000
"""Skills change with the version of the server only."""


class SkillParams(RequestParams):
    """Names a skill."""

    uri: str


class Skills(Extension):
    """The skills in a directory, `skills/` by default, each of which is a directory without others in it."""

    identifier = IDENTIFIER

    def __init__(self, directory: Traversable = files("rlm_mcp.server") / "skills") -> None:  # noqa: B008 - a constant
        self._texts = {
            f"skill://{skill.name}/{file.name}": file.read_text("utf-8")
            for skill in sorted(directory.iterdir(), key=lambda entry: entry.name)
            for file in sorted(skill.iterdir(), key=lambda entry: entry.name)
        }
        self._entries = {uri: self._entry(uri) for uri in self._texts if uri.endswith(f"/{SKILL_FILE}")}

    def resources(self) -> Sequence[ResourceBinding]:
        """The files of all skills."""
        return [ResourceBinding(self._resource(uri, text)) for uri, text in self._texts.items()]

    def methods(self) -> Sequence[MethodBinding]:
        """The methods that list skills and describe one."""
        return [
            MethodBinding("skills/list", PaginatedRequestParams, self._list),
            MethodBinding("skills/get", SkillParams, self._get),
        ]

    async def _list(self, _: ServerRequestContext[Any, Any], params: PaginatedRequestParams) -> HandlerResult:
        if params.cursor is not None:
            raise MCPError(INVALID_PARAMS, "skills/list has one page: leave out the cursor")
        return _cacheable({"skills": list(self._entries.values())})

    async def _get(self, _: ServerRequestContext[Any, Any], params: SkillParams) -> HandlerResult:
        if params.uri not in self._entries:
            known = ", ".join(self._entries)
            raise MCPError(INVALID_PARAMS, f"no skill is at {params.uri[:200]!r}; there are: {known}")
        return _cacheable({"skill": self._entries[params.uri]})

    def _entry(self, uri: str) -> dict[str, Any]:
        root = uri.removesuffix(SKILL_FILE)
        manifest = [_manifest_row(at, text) for at, text in self._texts.items() if at.startswith(root)]
        return {"uri": uri, "frontmatter": frontmatter(self._texts[uri]), "resources": manifest}

    def _resource(self, uri: str, text: str) -> TextResource:
        head = self._entries[uri]["frontmatter"] if uri in self._entries else {}
        return TextResource(
            uri=uri,
            name=head.get("name") or uri.rpartition("/")[2],
            description=head.get("description"),
            mime_type="text/markdown",
            text=text,
        )


def frontmatter(text: str) -> dict[str, str]:
    """The fields at the beginning of a skill, each of which stands on one line here."""
    head = text.split("---\n", 2)[1]
    return dict(line.split(": ", 1) for line in head.splitlines())


def _manifest_row(uri: str, text: str) -> dict[str, Any]:
    data = text.encode()
    return {"uri": uri, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


def _cacheable(result: dict[str, Any]) -> dict[str, Any]:
    return {"resultType": "complete", **result, "ttlMs": CACHE_MS, "cacheScope": "public"}

"""Writes the pages that are generated from the code: `python docs/generate.py`. A test checks that they are current."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mcp.server.mcpserver.tools import Tool
from mcp_types import ToolAnnotations
from pydantic import RootModel

from rlm_mcp.server.tools import Tools
from rlm_mcp.settings import SETTINGS, Settings
from rlm_mcp.workspace.workspace import Workspace

DOCS = Path(__file__).parent

TOOLS_HEAD = """\
# Tools

Every tool accepts the `context_id` or the `name` of a context. A result has the same facts as structured content and as
text. It is no longer than what the [client passes on](clients.md#results-and-waits) to its model, 8,000 characters by
default; a shortened result says how to get the rest. Arguments under another usual name (`question` for `query`) are
understood, other unknown ones are refused with the valid names.
"""

SETTINGS_HEAD = """\
# Settings

Flags override environment variables, which override `~/.config/rlm-mcp/config.toml` (or its place in
`$XDG_CONFIG_HOME`). `rlm-mcp config` shows the values in force and their origin. An invalid name or value is refused
with the nearest valid one.

Each setting has one name: `max_usd` in the file is `--max-usd` as a flag and `RLM_MCP_MAX_USD` in the environment.
Settings with a star have no flag. A tool call may choose models and limits for its run, but only lower a limit that is
set here.

```toml
model = "gpt-5"
sub_model = "gpt-5-mini"
max_usd = 2.0
roots = ["~/work", "/var/log"]

[prices]
my-model = [0.25, 2.0]
```

| in the file | default | |
|---|---|---|
"""


def settings_page() -> str:
    """docs/settings.md."""
    bare = Settings(data_dir=Path("~/.local/share/rlm-mcp"), cache_dir=Path("~/.cache/rlm-mcp"))
    rows = (
        f"| `{name}`{'' if setting.has_flag else '*'} "
        f"| {setting.default or bare.value_of(name)} | {setting.meaning} |\n"
        for name, setting in SETTINGS.items()
    )
    return SETTINGS_HEAD + "".join(rows)


def tools_page() -> str:
    """docs/tools.md."""
    return TOOLS_HEAD + "".join(_tool(tool) for tool in Tools(_no_workspace).all())


def _no_workspace() -> Workspace:
    raise NotImplementedError("tools are only described here, not called")


def _tool(tool: Tool) -> str:
    lines = [f"\n## {tool.name}\n", f"{tool.description}\n", f"{_effects(tool.annotations or ToolAnnotations())}\n"]
    lines += ["| argument | type | default | |", "|---|---|---|---|"]
    required = tool.parameters.get("required", [])
    for name, schema in tool.parameters["properties"].items():
        default = "required" if name in required else _default(schema)
        lines.append(f"| `{name}` | {_type(schema)} | {default} | {schema.get('description', '')} |")
    lines.append(f"\nResult: {_result(tool)}.")
    return "\n".join(lines) + "\n"


def _result(tool: Tool) -> str:
    """The fields of its result, or the tool that has the same and is described before."""
    fields = list(_fields(tool))
    same = next(other.name for other in Tools(_no_workspace).all() if list(_fields(other)) == fields)
    return ", ".join(f"`{name}`" for name in fields) if same == tool.name else f"that of [{same}](#{same})"


def _fields(tool: Tool) -> Iterable[str]:
    """The fields of a result, also those that the schema of another tool lists already."""
    model = tool.fn_metadata.output_model
    if model is None or issubclass(model, RootModel):
        return (tool.fn_metadata.output_schema or {})["properties"]
    return model.model_fields


def _effects(annotations: ToolAnnotations) -> str:
    effects = ["read-only" if annotations.read_only_hint else "changes stored data"]
    effects += ["may remove or stop something"] if annotations.destructive_hint else []
    effects += ["idempotent"] if annotations.idempotent_hint else []
    effects += ["calls a model provider"] if annotations.open_world_hint else ["no external access"]
    return "*" + "; ".join(effects).capitalize() + ".*"


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = f"{schema['type']} of {schema['items']['type']}s" if schema["type"] == "array" else str(schema["type"])
    bounds = " ".join(_bounds(schema))
    return f"{kind} {bounds}".strip()


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    if "minimum" in schema:
        yield f"from {schema['minimum']}"
    if "maximum" in schema:
        yield f"to {schema['maximum']}"


def _default(schema: Mapping[str, Any]) -> str:
    return f"`{schema['default']}`" if "default" in schema else ""


def skill_copy() -> str:
    """The skill of the server, which the plugin brings too."""
    return (DOCS.parent / "rlm_mcp/server/skills/long-inputs/SKILL.md").read_text("utf-8")


PAGES = {
    "settings.md": settings_page,
    "tools.md": tools_page,
    "../plugin/skills/long-inputs/SKILL.md": skill_copy,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), "utf-8")

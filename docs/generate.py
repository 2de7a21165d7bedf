"""Writes the pages that tell what the code says of itself: `python docs/generate.py`. A test compares them with it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcp.server.mcpserver.tools import Tool
from mcp_types import ToolAnnotations

from rlm_mcp.server.argument_aliases import NEAR_MISSES
from rlm_mcp.server.tools import Tools
from rlm_mcp.settings import SETTINGS, Settings, flag_of
from rlm_mcp.workspace.workspace import Workspace

DOCS = Path(__file__).parent

TOOLS_HEAD = """\
# Tools

Seven tools, the same in both protocol eras. This page is written from the code by `python docs/generate.py`.

A context is named by its `context_id` or its `name` everywhere. Every result holds the same facts twice: structured,
and as compact text; an error is a sentence that says what to do. A result stays under 32,000 characters; what is cut
says so and how to get the rest. Arguments that a tool does not have are refused with the names it has; the near
misses listed are understood.
"""

SETTINGS_HEAD = """\
# Settings

Flags over environment over `~/.config/rlm-mcp/config.toml` (`XDG_CONFIG_HOME` counts). `rlm-mcp config` shows what is
in force and where each value comes from; a name or value that is none is refused with the nearest right one. This page
is written from the code by `python docs/generate.py`.

Each setting has one name: `max_usd` in the file is `--max-usd` as a flag and `RLM_MCP_MAX_USD` in the environment. A
tool call may choose models and limits for its run; a limit that is set here it can only lower.

```toml
model = "gpt-5"
sub_model = "gpt-5-mini"
max_usd = 2.0
roots = ["~/work", "/var/log"]

[prices]
my-model = [0.25, 2.0]
```

| in the file | flag | default | |
|---|---|---|---|
"""


def settings_page() -> str:
    """docs/settings.md."""
    bare = Settings(data_dir=Path("~/.local/share/rlm-mcp"), cache_dir=Path("~/.cache/rlm-mcp"))
    rows = (
        f"| `{name}` | {f'`{flag_of(name)}`' if setting.has_flag else ''} | {setting.default or bare.value_of(name)} |"
        f" {setting.meaning} |\n"
        for name, setting in SETTINGS.items()
    )
    return SETTINGS_HEAD + "".join(rows)


def tools_page() -> str:
    """docs/tools.md."""
    return TOOLS_HEAD + "".join(_tool(tool) for tool in Tools(_nobody).all())


def _nobody() -> Workspace:
    raise NotImplementedError("the tools are described here, not called")


def _tool(tool: Tool) -> str:
    lines = [f"\n## {tool.name}\n", f"{tool.description}\n", f"{_manners(tool.annotations or ToolAnnotations())}\n"]
    lines += ["| argument | type | default | |", "|---|---|---|---|"]
    required = tool.parameters.get("required", [])
    for name, schema in tool.parameters["properties"].items():
        default = "required" if name in required else _default(schema)
        lines.append(f"| `{name}` | {_type(schema)} | {default} | {schema.get('description', '')} |")
    if missed := NEAR_MISSES.get(tool.name):
        lines.append("\nUnderstood too: " + ", ".join(f"`{one}` for `{other}`" for one, other in missed.items()) + ".")
    fields = (tool.fn_metadata.output_schema or {}).get("properties", {})
    lines.append("\nResult: " + ", ".join(f"`{name}`" for name in fields) + ".")
    return "\n".join(lines) + "\n"


def _manners(annotations: ToolAnnotations) -> str:
    said = ["reads only" if annotations.read_only_hint else "changes what is stored"]
    said += ["may remove or stop something"] if annotations.destructive_hint else []
    said += ["the same call twice does no more than once"] if annotations.idempotent_hint else []
    said += ["calls a model provider"] if annotations.open_world_hint else ["reaches nothing outside"]
    return "*" + "; ".join(said).capitalize() + ".*"


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = f"{schema['type']} of {schema['items']['type']}s" if schema["type"] == "array" else str(schema["type"])
    bounds = " ".join(_bounds(schema))
    return f"{kind} {bounds}".strip()


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    if "exclusiveMinimum" in schema:
        yield f"above {schema['exclusiveMinimum']}"
    if "minimum" in schema:
        yield f"from {schema['minimum']}"
    if "maximum" in schema:
        yield f"to {schema['maximum']}"


def _default(schema: Mapping[str, Any]) -> str:
    return f"`{schema['default']}`" if "default" in schema else ""


PAGES = {"settings.md": settings_page, "tools.md": tools_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), "utf-8")

"""The published schemas of the tools, in few tokens: a client pays for tools/list in every conversation.

Clients pass them on to providers as they are, so they keep to what all large providers take: Gemini refuses a whole
list of tools for an exclusive bound or an object without properties. The arguments are validated by their Python types.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def input_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's argument schema in fewer tokens: no titles, no null branches, no empty defaults.

    Leaving an argument out says the same as null, which the server accepts whatever the schema says.
    """
    return {
        "type": "object",
        "properties": {name: _argument(content) for name, content in schema["properties"].items()},
        **({"required": schema["required"]} if "required" in schema else {}),
    }


def _argument(schema: Mapping[str, Any]) -> dict[str, Any]:
    branches = [branch for branch in schema.get("anyOf", ()) if branch != {"type": "null"}]
    plain = dict(schema) | (branches[0] if len(branches) == 1 else {})
    silent = {"title", "anyOf", "additionalProperties", "exclusiveMinimum"} | (
        {"default"} if plain.get("default") in (None, "", 0) else set()
    )
    argument = {name: content for name, content in plain.items() if name not in silent}
    if "exclusiveMinimum" in plain:
        above = {"description": f"above {plain['exclusiveMinimum']}", "minimum": plain["exclusiveMinimum"]}
        argument = above | argument
    if argument["type"] == "object":
        argument |= {
            "type": "string",
            "description": f"{argument['description']}, as JSON text",
        }  # objects are taken, too
    return argument


def output_schema(schema: Mapping[str, Any], *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a result and their types, one level deep.

    MCP wants an object at the root and clients refuse a union there, so the fields of all kinds of a union are listed,
    and those that every kind has can be required.
    """
    kinds = list(_kinds(schema))
    fields: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        for name, content in kind["properties"].items():
            fields.setdefault(name, _field_type(content))
    properties = {name: content for name, content in fields.items() if name not in leave_out}
    required = [name for name in kinds[0]["required"] if all(name in kind["required"] for kind in kinds)]
    return {"type": "object", "properties": properties, "required": required[:1]}


def _kinds(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The members of a union of results, or the one result."""
    if "oneOf" not in schema:
        yield schema
        return
    for member in schema["oneOf"]:
        yield schema["$defs"][member["$ref"].rpartition("/")[2]]


def _field_type(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The type of a field; branches where there are several: some clients refuse a list of types."""
    if "anyOf" in schema:
        return {"anyOf": [_field_type(branch) for branch in schema["anyOf"]]}
    return {"type": schema.get("type", "object")}

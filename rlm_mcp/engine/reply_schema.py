"""Reply schemas: JSON Schemas and short types, how a model is told of one, and how its reply is read by it.

Code gives a JSON Schema or a short type: "yes|no" (one of these words), "int", "float", "bool", "str", "list[str]",
"list[yes|no]", "dict", or {"name": "str", "age": "int"} for an object with these fields. Providers can bind replies to
objects only, so anything else travels as {"value": …}. Pure functions; json_schema.py checks values.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from rlm_mcp.engine.json_schema import Schema, best_error, check_schema, weight
from rlm_mcp.errors import SchemaError
from rlm_mcp.redact import ellipsize

VALUE = "value"
_SCALARS: dict[str, dict[str, object]] = {
    "str": {"type": "string"},
    "string": {"type": "string"},
    "text": {"type": "string"},
    "int": {"type": "integer"},
    "integer": {"type": "integer"},
    "float": {"type": "number"},
    "number": {"type": "number"},
    "bool": {"type": "boolean"},
    "boolean": {"type": "boolean"},
    "dict": {"type": "object"},
    "object": {"type": "object"},
    "list": {"type": "array"},
    "array": {"type": "array"},
    "any": {},
}
_SCHEMA_KEYWORDS = frozenset(
    {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "properties", "items", "$schema", "required"}
)
_FENCE = re.compile(r"```[\w-]*\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})
_SHOWN_CHARS = 200
# Positions that are tried as the beginning of a JSON value among words; a hostile reply has a hundred thousand.
MOST_STARTS = 16
# Beyond these, a label is not looked for inside a longer reply.
_MOST_LABELS, _MOST_SAID_CHARS = 1_000, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplySchema:
    """`schema` describes the value itself; `sent` is the object schema that goes to the provider."""

    schema: Schema
    sent: Schema
    wrapped: bool
    weight: int
    """how many times longer reading a hostile reply may take than its length says, roughly"""

    def instruction(self) -> str:
        """The instruction to the model, for providers that cannot bind its reply."""
        labels = self.schema.get("enum")
        if self.wrapped and isinstance(labels, list):
            options = " or ".join(json.dumps({VALUE: label}, ensure_ascii=False) for label in labels)
            return f"Reply with only this JSON: {options}"
        if fields := _plain_fields(self.sent):
            return f"Reply with only this JSON: {fields}"
        return f"Reply with only one JSON object that follows this schema: {json.dumps(self.sent, ensure_ascii=False)}"

    def read(self, text: str) -> Any:
        """The value in a reply. Raises SchemaError, whose text says what is wrong with the reply."""
        value = self._value_in(without_thinking(text))
        if (why := complaint(self.schema, value)) is not None:
            raise SchemaError(f"the reply does not follow the schema: {why}")
        return value

    def peek(self, text: str) -> Any:
        """The JSON in a reply, whether or not it satisfies the schema."""
        return _json_in(without_thinking(text))[1]

    def _value_in(self, text: str) -> Any:
        found, value = _json_in(text)
        if not found:
            value = text.strip()
        if self.wrapped and isinstance(value, Mapping) and VALUE in value and self.schema.get("type") != "object":
            value = value[VALUE]
        if (
            not found
            and not isinstance(self.schema.get("enum"), list)
            and self.schema.get("type") in {"object", "array"}
        ):
            raise SchemaError(f"the reply holds no JSON: {ellipsize(text.strip(), _SHOWN_CHARS)}")
        return _coercion(self.schema)(value)


def _plain_fields(schema: Schema) -> str:
    """An object whose fields are all plain values, as `{"name": string, "age": integer}`; empty for any other."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or set(schema) - {"type", "properties", "required", "additionalProperties"}:
        return ""
    if set(properties) != set(_names(schema.get("required"))) or schema.get("additionalProperties") is not False:
        return ""
    if not all(isinstance(part, Mapping) and set(part) == {"type"} for part in properties.values()):
        return ""
    kinds = {name: part["type"] for name, part in properties.items()}
    if not all(kind in {"string", "integer", "number", "boolean"} for kind in kinds.values()):
        return ""
    return "{" + ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {kind}" for name, kind in kinds.items()) + "}"


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def parse_schema(schema: object) -> ReplySchema:
    """The reply schema that a JSON Schema or short type stands for. Raises SchemaError."""
    schema = _expanded(schema)
    try:
        check_schema(schema)
    except SchemaError as error:
        shown, why = ellipsize(repr(schema), _SHOWN_CHARS), ellipsize(str(error), _SHOWN_CHARS)
        raise SchemaError(f"schema={shown} is no JSON Schema: {why}") from error
    if _is_object(schema):
        return ReplySchema(schema=schema, sent=schema, wrapped=False, weight=weight(schema))
    sent: dict[str, object] = {"type": "object", "properties": {VALUE: schema}}
    sent |= {"required": [VALUE], "additionalProperties": False}
    return ReplySchema(schema=schema, sent=sent, wrapped=True, weight=weight(schema))


def complaint(schema: Schema, value: object) -> str | None:
    """Why `value` breaks the JSON Schema, in a sentence that names the place; None if it does not."""
    try:
        error = best_error(schema, value)
    except SchemaError as refused:
        return str(refused)
    if error is None:
        return None
    place = "".join(f"[{part!r}]" for part in error.absolute_path)
    return f"{'at ' + place + ' ' if place else ''}{ellipsize(str(error.message), _SHOWN_CHARS)}"


def without_thinking(text: str) -> str:
    """A reply without the thinking that some models include."""
    return _THINKING.sub("", text).strip() if "<" in text else text


def _expanded(schema: object) -> Schema:
    if isinstance(schema, str):
        return _from_word(schema.strip())
    if isinstance(schema, list) and schema and all(isinstance(label, str | int | float | bool) for label in schema):
        return {"enum": list(schema)}
    if isinstance(schema, Mapping):
        if _SCHEMA_KEYWORDS & schema.keys() or not schema:
            return schema
        fields: dict[str, object] = {str(name): _expanded(part) for name, part in schema.items()}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    raise SchemaError(_not_a_shape(schema))


def _from_word(word: str) -> Schema:
    if (inner := re.fullmatch(r"(?:list|array)\[(.+)\]", word, re.IGNORECASE | re.DOTALL)) is not None:
        return {"type": "array", "items": _from_word(inner.group(1).strip())}
    if re.fullmatch(r"dict\[.+\]", word, re.IGNORECASE):
        return {"type": "object"}
    if "|" in word:
        labels = [label.strip().strip("'\"") for label in word.split("|")]
        if not all(labels):
            raise SchemaError(_not_a_shape(word))
        kinds = [_SCALARS.get(label.lower()) for label in labels if label != "None"]
        if all(kind is not None for kind in kinds) and kinds:
            return {"anyOf": [*kinds, *([{"type": "null"}] if "None" in labels else [])]}
        return {"enum": list(dict.fromkeys(labels))}
    if (scalar := _SCALARS.get(word.lower())) is not None:
        return scalar
    if word.startswith("{"):
        try:
            return _expanded(json.loads(word))
        except json.JSONDecodeError as error:
            raise SchemaError(_not_a_shape(word)) from error
    raise SchemaError(_not_a_shape(word))


def _not_a_shape(schema: object) -> str:
    return (
        f"schema={ellipsize(repr(schema), _SHOWN_CHARS)} is neither a JSON Schema nor a short type: write for example"
        " 'yes|no', 'int',"
        " 'list[str]' or {'name': 'str'}"
    )


def _is_object(schema: Schema) -> bool:
    return schema.get("type") == "object" or "properties" in schema


def _json_in(text: str) -> tuple[bool, Any]:
    """Whether a reply holds JSON, and its value: the whole reply, a fenced block, or the first object or array."""
    candidates = [text.strip(), *(block.strip() for block in _FENCE.findall(text))]
    for candidate in candidates:
        try:
            return True, json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    decoder = json.JSONDecoder()
    for start in islice(re.finditer(r"[\[{]", text), MOST_STARTS):
        try:
            return True, decoder.raw_decode(text, start.start())[0]
        except (ValueError, RecursionError):
            continue
    return False, None


def _coercion(schema: Schema) -> Callable[[Any], Any]:
    """What converts a value to the type of the schema where its meaning is plain: "Yes." to yes, "42" to 42."""
    labels, items = schema.get("enum"), schema.get("items")
    if isinstance(labels, list):
        return _to_label(labels)
    if schema.get("type") == "array" and isinstance(items, Mapping):
        of_item = _coercion(items)
        return lambda value: [of_item(part) for part in value] if isinstance(value, list) else value
    return partial(_to_scalar, schema.get("type"))


def _to_label(labels: Sequence[object]) -> Callable[[Any], Any]:
    alike: defaultdict[str, list[object]] = defaultdict(list)
    for label in labels:
        alike[_plain(label)].append(label)
    words = [(_plain(label), label) for label in labels if isinstance(label, str)]

    def coerced(value: Any) -> Any:
        said = _plain(value)
        matching = alike.get(said, [])
        if value in matching:
            return value
        if not matching and len(words) <= _MOST_LABELS and len(said) <= _MOST_SAID_CHARS:
            matching = [label for word, label in words if _holds_word(said, word)]
        return matching[0] if len(matching) == 1 else value

    return coerced


def _holds_word(text: str, word: str) -> bool:
    """Whether a text holds a word that is not a part of a longer one."""
    at = text.find(word)
    while at >= 0:
        around = text[at - 1 : at] + text[at + len(word) : at + len(word) + 1]
        if not any(char.isalnum() or char == "_" for char in around):
            return True
        at = text.find(word, at + 1)
    return False


def _to_scalar(kind: object, value: Any) -> Any:
    match kind:
        case "integer" | "number" if isinstance(value, str):
            return _number(value, whole=kind == "integer")
        case "integer" if isinstance(value, float) and value.is_integer():
            return int(value)
        case "boolean" if not isinstance(value, bool):
            said = _plain(value)
            return True if said in _TRUE else False if said in _FALSE else value
        case "string" if isinstance(value, int | float | bool):
            return str(value)
    return value


def _plain(value: object) -> str:
    return str(value).strip().strip(".!\"'`* ").lower()


def _number(text: str, *, whole: bool) -> Any:
    plain = text.strip().rstrip(".").replace(",", "").replace("_", "")
    try:
        return int(plain) if whole else float(plain)
    except ValueError:
        return text

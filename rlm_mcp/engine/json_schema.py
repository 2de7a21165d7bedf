"""JSON Schema with bounded work: schemas come from clients and from guest code, the values from models.

- `pattern` is matched by RE2, in linear time; what RE2 lacks (look-around, back-references) is refused.
- `patternProperties` is refused: the library matches it by a backtracking engine in three places.
- A schema has at most MAX_SCHEMA_CHARS as JSON. Checking a value takes at most MOST_STEPS, and STEPS_OF_A_PART more for
  each part of the value: comparing one keyword, with a step for each part that it lists, or a hundredth of a reference.
  So a schema ends whose definitions refer twice to the next one, or whose thousand alternatives meet a long list.
- `uniqueItems` compares texts of the items instead of each item with each other, `enum` searches without Python code.
"""

import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from typing import Any

from rlm_mcp.errors import SchemaError

Schema = Mapping[str, object]

MAX_SCHEMA_CHARS = 100_000
MOST_STEPS, STEPS_OF_A_PART = 1_000_000, 20
_REFERENCE_STEPS = 100  # each builds a validator
_LABELS_A_STEP = 20
_MOST_WEIGHT = 100_000
_MOST_ERRORS = 100  # among which the best one is looked for
_left: ContextVar["_Steps"] = ContextVar("steps left for the current value")


def check_schema(schema: Schema) -> None:
    """Raises SchemaError, whose text says what is wrong, if `schema` is no JSON Schema or is not supported."""
    import jsonschema  # type: ignore[import-untyped] # ships no annotations

    try:
        check_length(schema)
        _validator(_canonical(schema))
        _check_patterns(schema)
    except jsonschema.exceptions.SchemaError as error:
        raise SchemaError(str(error.message)) from error
    except (RecursionError, ValueError) as error:
        raise SchemaError("it is nested too deeply, or holds a number that is too long") from error


def check_length(schema: Schema) -> None:
    """Raises SchemaError if the schema has more than MAX_SCHEMA_CHARS as JSON: checking it would take seconds."""
    if (chars := len(_canonical(schema))) > MAX_SCHEMA_CHARS:
        raise SchemaError(f"it has {chars:,} characters as JSON: at most {MAX_SCHEMA_CHARS:,} are checked")


def best_error(schema: Schema, value: object) -> Any:
    """The error of the `jsonschema` library that tells most about why `value` breaks the schema, or None.

    Raises SchemaError when the schema refers to what is not in it, or needs more than the bounded work.
    """
    import jsonschema

    token = _left.set(_Steps(MOST_STEPS + STEPS_OF_A_PART * _parts_of(value)))
    try:
        errors = _validator(_canonical(schema)).iter_errors(value)
        return jsonschema.exceptions.best_match(islice(errors, _MOST_ERRORS))
    except jsonschema.exceptions._WrappedReferencingError as unresolved:  # noqa: SLF001 # it has no public name
        raise SchemaError(f"the schema refers to what is not in it: {unresolved}") from unresolved
    except RecursionError as error:
        raise SchemaError("the schema refers to itself without end, or the value is nested too deeply") from error
    finally:
        _left.reset(token)


def weight(schema: Schema) -> int:
    """How many times longer checking a hostile text may take under this schema than reading it, roughly."""
    canonical = _canonical(schema)
    return _MOST_WEIGHT if 'Ref"' in canonical or '"$ref"' in canonical else 1 + len(canonical) // 10


class _Steps:
    """The steps that are left. Taking more than there are raises SchemaError."""

    __slots__ = ("_left", "_most")

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def take(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise SchemaError(
                f"comparing it with the schema takes more than {self._most:,} steps: use a schema with fewer"
                " alternatives, references or labels"
            )


def _parts_of(value: object) -> int:
    """The values in a value, it included."""
    count, rest = 0, [value]
    while rest:
        count += 1
        part = rest.pop()
        if isinstance(part, Mapping):
            rest.extend(part.values())
        elif isinstance(part, list):
            rest.extend(part)
    return count


def _size(part: Any) -> int:
    kind = type(part)
    return len(part) if kind is dict or kind is list else len(part) // 1_000 if kind is str else 0


def _canonical(schema: Schema) -> str:
    return json.dumps(schema, sort_keys=True)


@lru_cache(maxsize=256)  # a batch of a thousand calls has one schema, and checking it takes milliseconds
def _validator(canonical: str) -> Any:
    import jsonschema
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped] # ships no annotations

    schema = json.loads(canonical)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    # With a registry given, a $ref to an address is not fetched.
    return _bounded(kind)(schema, registry=REGISTRY)


@lru_cache
def _bounded(kind: Any) -> Any:
    import jsonschema

    def bounded(follow: Any, steps: int) -> Any:
        def checked(validator: Any, wanted: object, instance: object, schema: object) -> Any:
            _left.get().take(steps + _size(wanted) + _size(instance))
            return follow(validator, wanted, instance, schema)

        return checked

    def pattern(validator: Any, expression: str, instance: object, _: object) -> Iterator[Any]:
        if validator.is_type(instance, "string") and not _compiled(expression).search(instance):
            yield jsonschema.ValidationError(f"the text does not match the pattern {expression!r}")

    def unique_items(validator: Any, wanted: object, instance: Any, _: object) -> Iterator[Any]:
        if wanted and validator.is_type(instance, "array") and len(set(map(_text_of, instance))) < len(instance):
            yield jsonschema.ValidationError("it has items that are the same")

    def enum(_: Any, labels: list[object], instance: object, __: object) -> Iterator[Any]:
        if isinstance(instance, str):
            _left.get().take(1 + len(labels) // _LABELS_A_STEP)
            found = instance in labels
        else:
            _left.get().take((1 + len(labels)) * (1 + _size(instance)))
            text = _text_of(instance)
            found = any(not isinstance(label, str) and _text_of(label) == text for label in labels)
        if not found:
            yield jsonschema.ValidationError(f"{instance!r} is not one of {labels!r}")

    keywords = {**kind.VALIDATORS, "pattern": pattern, "uniqueItems": unique_items}
    costs = {"$ref": _REFERENCE_STEPS, "$dynamicRef": _REFERENCE_STEPS, "$recursiveRef": _REFERENCE_STEPS}
    checks = {name: bounded(check, costs.get(name, 1)) for name, check in keywords.items() if name != "enum"}
    return jsonschema.validators.extend(kind, {**checks, "enum": enum})


def _text_of(item: object) -> str:
    """A text that is the same for items that are equal in JSON Schema: 1 and 1.0 are, 1 and true are not."""
    match item:
        case float() if item.is_integer():
            return str(int(item))
        case list():
            return f"[{','.join(map(_text_of, item))}]"
        case dict():
            return f"{{{','.join(f'{json.dumps(key)}:{_text_of(item[key])}' for key in sorted(item))}}}"
    return json.dumps(item)


def _check_patterns(schema: object) -> None:
    match schema:
        case Mapping():
            if isinstance(schema.get("patternProperties"), Mapping):
                raise SchemaError("patternProperties is not supported: name the properties, or use propertyNames")
            if isinstance(expression := schema.get("pattern"), str):
                _compiled(expression)
            for part in schema.values():
                _check_patterns(part)
        case list():
            for part in schema:
                _check_patterns(part)


@lru_cache(maxsize=256)
def _compiled(expression: str) -> Any:
    import re2  # type: ignore[import-untyped] # ships no annotations

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        raise SchemaError(
            f"pattern {expression[:100]!r} is not an expression that RE2 matches in linear time ({error}): write it"
            " without look-around and back-references"
        ) from error

"""JSON Schema with bounded work: schemas come from clients and from guest code, the values from models.

- `pattern` is matched by RE2, in linear time; what RE2 lacks (look-around, back-references) is refused.
- `patternProperties` is refused: the library matches it by a backtracking engine in three places.
- At most MOST_REFERENCES references are followed for one value, so that a schema whose definitions refer twice to the
  next one ends, as does one that refers to itself.
- `uniqueItems` compares texts of the items instead of each item with each other.
"""

import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from typing import Any

from rlm_mcp.errors import SchemaError

Schema = Mapping[str, object]

MOST_REFERENCES = 10_000
_MOST_ERRORS = 100  # among which the best one is looked for
_followed: ContextVar[Iterator[int]] = ContextVar("references that may still be followed for the current value")


def check_schema(schema: Schema) -> None:
    """Raises SchemaError, whose text says what is wrong, if `schema` is no JSON Schema or is not supported."""
    import jsonschema  # type: ignore[import-untyped] # ships no annotations

    try:
        _validator(_canonical(schema))
        _check_patterns(schema)
    except jsonschema.exceptions.SchemaError as error:
        raise SchemaError(str(error.message)) from error
    except (RecursionError, ValueError) as error:
        raise SchemaError("it is nested too deeply, or holds a number that is too long") from error


def best_error(schema: Schema, value: object) -> Any:
    """The error of the `jsonschema` library that tells most about why `value` breaks the schema, or None.

    Raises SchemaError when the schema refers to what is not in it, or needs more than the bounded work.
    """
    import jsonschema

    token = _followed.set(iter(range(MOST_REFERENCES)))
    try:
        errors = _validator(_canonical(schema)).iter_errors(value)
        return jsonschema.exceptions.best_match(islice(errors, _MOST_ERRORS))
    except jsonschema.exceptions._WrappedReferencingError as unresolved:  # noqa: SLF001 # it has no public name
        raise SchemaError(f"the schema refers to what is not in it: {unresolved}") from unresolved
    except RecursionError as error:
        raise SchemaError("the schema refers to itself without end, or the value is nested too deeply") from error
    finally:
        _followed.reset(token)


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

    def bounded(follow: Any) -> Any:
        def reference(validator: Any, target: str, instance: object, schema: object) -> Any:
            if next(_followed.get(), None) is None:
                raise SchemaError(f"the schema follows more than {MOST_REFERENCES:,} references for one value")
            return follow(validator, target, instance, schema)

        return reference

    def pattern(validator: Any, expression: str, instance: object, _: object) -> Iterator[Any]:
        if validator.is_type(instance, "string") and not _compiled(expression).search(instance):
            yield jsonschema.ValidationError(f"the text does not match the pattern {expression!r}")

    def unique_items(validator: Any, wanted: object, instance: Any, _: object) -> Iterator[Any]:
        if wanted and validator.is_type(instance, "array") and len(set(map(_text_of, instance))) < len(instance):
            yield jsonschema.ValidationError("it has items that are the same")

    references = {name: bounded(kind.VALIDATORS[name]) for name in ("$ref", "$dynamicRef") if name in kind.VALIDATORS}
    return jsonschema.validators.extend(kind, {**references, "pattern": pattern, "uniqueItems": unique_items})


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

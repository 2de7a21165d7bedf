from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.engine.reply_schema import complaint, parse_schema
from rlm_mcp.errors import SchemaError

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("short", "schema"),
    [
        ("yes|no", {"enum": ["yes", "no"]}),
        ("'yes' | 'no'", {"enum": ["yes", "no"]}),
        ("int", {"type": "integer"}),
        ("list[str]", {"type": "array", "items": {"type": "string"}}),
        ("list[list[int]]", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
        ("list[a|b]", {"type": "array", "items": {"enum": ["a", "b"]}}),
        ("int|None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (["red", "green"], {"enum": ["red", "green"]}),
        (
            {"name": "str", "tags": "list[str]"},
            {
                "type": "object",
                "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
                "required": ["name", "tags"],
                "additionalProperties": False,
            },
        ),
        (PERSON, PERSON),
    ],
)
def test_short_types_mean_schemas(short: object, schema: dict[str, object]) -> None:
    assert parse_schema(short).schema == schema


@pytest.mark.parametrize("wrong", ["sometimes", "yes|", 42, "", {"type": "intager"}, [], "list[]"])
def test_what_is_no_shape_is_one_sentence(wrong: object) -> None:
    with pytest.raises(SchemaError, match=r"^schema=.* is (neither a JSON Schema nor|no JSON Schema)"):
        parse_schema(wrong)


def test_only_objects_are_sent_to_the_provider() -> None:
    assert parse_schema("yes|no").sent == {
        "type": "object",
        "properties": {"value": {"enum": ["yes", "no"]}},
        "required": ["value"],
        "additionalProperties": False,
    }
    assert parse_schema(PERSON).sent == PERSON


@pytest.mark.parametrize(
    ("schema", "reply", "value"),
    [
        ("yes|no", '{"value": "yes"}', "yes"),
        ("yes|no", "Yes.", "yes"),
        ("yes|no", "**no**", "no"),
        ("yes|no", "The answer is no", "no"),
        ("int", "42", 42),
        ("int", '{"value": "1,204"}', 1204),
        ("int", '{"value": 42.0}', 42),
        ("float", "3.5", 3.5),
        ("bool", '{"value": "True"}', True),
        ("str", "plain words", "plain words"),
        ("str", '{"value": "words"}', "words"),
        ("list[str]", '["a", "b"]', ["a", "b"]),
        ("list[int]", '{"value": ["1", 2]}', [1, 2]),
        ("list[str]", 'Here you are:\n```json\n["a"]\n```\nDone.', ["a"]),
        (PERSON, 'Sure! {"name": "Ada", "age": 36} is she.', {"name": "Ada", "age": 36}),
        ("yes|no", "<think>yes or no? yes</think>no", "no"),
    ],
)
def test_replies_are_read_tolerantly(schema: object, reply: str, value: object) -> None:
    assert parse_schema(schema).read(reply) == value


@pytest.mark.parametrize(
    ("schema", "reply", "why"),
    [
        ("yes|no", "maybe", "'maybe' is not one of"),
        ("yes|no", "yes and no", "'yes and no' is not one of"),
        ("int", "many", "'many' is not of type 'integer'"),
        ("list[str]", "none at all", "the reply holds no JSON: none at all"),
        (PERSON, '{"age": 3}', "'name' is a required property"),
        (PERSON, '{"name": 3}', "at ['name'] 3 is not of type 'string'"),
    ],
)
def test_a_reply_of_another_shape_says_what_is_wrong(schema: object, reply: str, why: str) -> None:
    with pytest.raises(SchemaError) as error:
        parse_schema(schema).read(reply)
    assert why in str(error.value)


def test_a_reference_to_an_address_is_not_fetched() -> None:
    why = complaint({"$ref": "http://127.0.0.1:9/schema.json"}, {})
    assert why is not None
    assert why.startswith("the schema refers to what is not in it")


@given(st.text(), st.sampled_from(["yes|no", "int", "list[str]", "bool", "float", "str", "dict"]))
def test_no_reply_makes_it_fail_otherwise(reply: str, schema: str) -> None:
    try:
        value: Any = parse_schema(schema).read(reply)
    except SchemaError:
        return
    assert complaint(parse_schema(schema).schema, value) is None


def test_a_deeply_nested_reply_is_only_not_json() -> None:
    with pytest.raises(SchemaError):
        parse_schema("list[str]").read("[" * 100_000)


LABELS = [f"label {number}" for number in range(5_000)]


def _doubling(levels: int) -> dict[str, object]:
    parts: dict[str, object] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(levels)
    }
    return {"$defs": {**parts, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    ("schema", "value", "why"),
    [
        ({"type": "string", "pattern": "^(a|a)*$"}, "a" * 50_000 + "b", "does not match"),
        (_doubling(60), {}, "takes more than 1,000,020 steps"),
        (
            {"items": {"not": {"anyOf": [{"const": n} for n in range(2_000)]}}},
            ["a long text" * 2_000]
            * 300,  # comparing a number takes one step: the limit would be reached after seconds
            "takes more than 1,006,020 steps",
        ),
        ({"items": {"allOf": [{"enum": LABELS}] * 50}}, LABELS * 4, "takes more than 1,400,020 steps"),
        ({"$ref": "#"}, {}, "the schema refers to itself without end, or the value is nested too deeply"),
        (
            {"type": "array", "uniqueItems": True},
            [{"n": n // 2} for n in range(100_000)],
            "it has items that are the same",
        ),
        ({"$ref": "#/$defs/nothing"}, 1, "the schema refers to what is not in it"),
    ],
)
def test_a_hostile_schema_or_value_ends_in_a_sentence(schema: dict[str, object], value: object, why: str) -> None:
    assert why in (complaint(schema, value) or "")


@pytest.mark.parametrize("schema", [_doubling(8), {"type": "string", "pattern": "^[A-Z]{3}-\\d+$"}])
def test_references_and_patterns_of_usual_size_work(schema: dict[str, object]) -> None:
    good: object = "ABC-12" if "pattern" in schema else {}
    assert complaint(schema, good) is None
    assert complaint(schema, "abc") is not None


def test_long_lists_of_objects_and_labels_are_checked() -> None:
    person = {"type": "object", "properties": {"label": {"enum": LABELS[:77]}, "n": {"type": "integer"}}}
    people: list[dict[str, object]] = [{"label": LABELS[76], "n": n} for n in range(30_000)]
    assert complaint({"type": "array", "items": person}, people) is None
    assert complaint({"type": "array", "items": person}, [*people, {"label": "other"}]) is not None


def test_labels_are_compared_as_json_schema_says() -> None:
    assert complaint({"enum": [1, "1", None, [1, {"a": 2}]]}, [1.0, {"a": 2}]) is None
    labels = {"enum": [1, "a", None, [], {"a": [False]}]}
    assert all(complaint(labels, value) is None for value in [1, 1.0, "a", None, [], {"a": [False]}])
    assert all(complaint(labels, value) is not None for value in [True, "1", 0, False, [0], {"a": [0]}, {}])


def test_a_label_is_found_in_words_around_it_but_not_in_a_longer_word() -> None:
    schema = parse_schema({"type": "array", "items": {"enum": ["art", "c++", "part"]}})
    assert schema.read('["It is art, I think", "C++!", "a part of it"]') == ["art", "c++", "part"]
    with pytest.raises(SchemaError, match="'arts' is not one of"):
        schema.read('["arts"]')


def test_a_schema_with_references_counts_as_heavy_and_a_short_one_does_not() -> None:
    assert parse_schema(_doubling(60)).weight > 1_000 > 100 > parse_schema("yes|no").weight


def test_items_are_the_same_as_json_schema_says() -> None:
    unique = {"type": "array", "uniqueItems": True}
    assert complaint(unique, [1, True, "1", [1], {"a": 1}, {"a": 2}, None]) is None
    assert [complaint(unique, pair) is None for pair in ([1, 1.0], [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}])] == [
        False
    ] * 2


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "string", "pattern": "(?=a)b"}, "without look-around and back-references"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "patternProperties is not supported"),
        ({"enum": LABELS * 3}, "it has 206,680 characters as JSON: at most 100,000 are checked"),
    ],
)
def test_what_cannot_be_matched_in_linear_time_is_refused(schema: dict[str, object], why: str) -> None:
    with pytest.raises(SchemaError, match=why):
        parse_schema(schema)


def test_a_reply_that_is_a_number_of_five_thousand_digits_is_no_traceback() -> None:
    with pytest.raises(SchemaError, match="the reply does not follow the schema"):
        parse_schema({"type": "integer", "maximum": 9}).read("1" * 5_000)

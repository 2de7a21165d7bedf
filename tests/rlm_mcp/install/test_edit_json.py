import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.install.edit_json import read, read_strict, remove_value, set_value
from rlm_mcp.install.text_edit import NotEditable

PATH = ("mcpServers", "rlm-mcp")
ENTRY = {"command": "/opt/rlm/bin/rlm-mcp", "args": ["--x", "ü"]}


def test_a_new_member_takes_the_indentation_line_ends_and_comments_of_its_neighbours() -> None:
    text = '{\r\n\t// mine\r\n\t"mcpServers": {\r\n\t\t"o": {"command": "x"} // note\r\n\t},\r\n\t"z": 1,\r\n}\r\n'
    assert set_value(text, PATH, {"command": "y"}) == (
        '{\r\n\t// mine\r\n\t"mcpServers": {\r\n\t\t"o": {"command": "x"}, // note\r\n'
        '\t\t"rlm-mcp": {\r\n\t\t\t"command": "y"\r\n\t\t}\r\n\t},\r\n\t"z": 1,\r\n}\r\n'
    )


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("", '{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ("{}", '{\n  "a": {\n    "b": 1\n  }\n}'),
        ('{"x":1}', '{"x":1,"a":{"b":1}}'),
        ('{"x": 1}\n', '{"x": 1, "a": {"b": 1}}\n'),
        ('{"a": { "x": 1 }}', '{"a": { "x": 1, "b": 1 }}'),
        (
            '{\n    "x": [\n        1\n    ]\n}',
            '{\n    "x": [\n        1\n    ],\n    "a": {\n        "b": 1\n    }\n}',
        ),
        ("// nothing yet\n", '// nothing yet\n{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ('{"a": {"b": 2}}', '{"a": {"b": 1}}'),
    ],
)
def test_objects_are_made_where_they_are_missing_in_the_style_of_the_text(text: str, changed: str) -> None:
    assert set_value(text, ("a", "b"), 1) == changed


def test_a_name_that_stands_twice_is_changed_where_it_counts_and_removed_everywhere() -> None:
    text = '{"a": {"b": 1}, "a": {"b": 2, "b": 3}}'
    assert set_value(text, ("a", "b"), 4) == '{"a": {"b": 1}, "a": {"b": 2, "b": 4}}'
    assert remove_value(text, ("a", "b")) == '{"a": {"b": 1}, "a": {}}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1', "a comma or } is missing at line 1, column 8"),
        ('{\n "a" 1}', "a colon is missing at line 2, column 6"),
        ('{"a": }', "a value is missing at line 1, column 7"),
        ("{a: 1}", "a name in quotes is missing at line 1, column 2"),
        ("{} x", "text follows its end at line 1, column 4"),
        ("[1, 2]", "is not a JSON object"),
        ('{"a": [1 2]}', "a comma or ] is missing at line 1, column 10"),
        ('{"a": "\\q"}', '"\\q" at line 1, column 7 is not valid'),
        ('{"mcpServers": [1]}', "has a value at mcpServers that is not an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", "999 at line 1, column 7 is not valid"),
    ],
)
def test_a_text_that_is_not_understood_says_where(text: str, why: str) -> None:
    with pytest.raises(NotEditable) as error:
        set_value(text, PATH, ENTRY)
    assert why in str(error.value)


def test_a_strict_reader_takes_no_comments() -> None:
    assert read('{"a": 1, /* c */}') == {"a": 1}
    assert read_strict(" \n") == {}
    with pytest.raises(NotEditable, match=r"is not JSON \(.*line 2 column 1"):
        read_strict('{"a": 1,\n}')


# --- properties ---------------------------------------------------------------------------------------------------

keys = st.sampled_from(["mcpServers", "a", "b c", "ü", "//", "/*", 'q"', "x,}"])
scalars = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "// no comment", "{", '",', "\\", "ü\n"])
)
values = st.recursive(scalars, lambda part: st.lists(part, max_size=3) | st.dictionaries(keys, part, max_size=4))
space: st.SearchStrategy[str] = st.sampled_from(
    ["", "", " ", "\n", "\n  ", "\t", "\r\n    ", " // c\n", " /* c */ ", "\n  // c }\n\n"]
)


@st.composite
def texts(draw: st.DrawFn, value: Any) -> str:
    """A value as somebody may have written it: with any space, comments and trailing commas."""

    def written(value: Any) -> str:
        if isinstance(value, dict):
            pairs = (f"{json.dumps(key)}{draw(space)}:{draw(space)}{written(part)}" for key, part in value.items())
            return f"{{{listed(pairs)}}}"
        if isinstance(value, list):
            return f"[{listed(map(written, value))}]"
        return json.dumps(value, ensure_ascii=draw(st.booleans()))

    def listed(items: Iterable[str]) -> str:
        inside = ",".join(f"{draw(space)}{item}{draw(space)}" for item in items)
        return f"{inside}{',' if inside and draw(st.booleans()) else ''}{draw(space)}"

    return written(value)


objects = st.dictionaries(keys.filter(lambda key: key != "mcpServers"), values, max_size=4)
servers = st.dictionaries(keys, values, max_size=3)


@given(st.data(), objects, servers)
def test_adding_an_entry_adds_it_and_keeps_every_other_character(
    data: st.DataObject, rest: dict[str, Any], others: dict[str, Any]
) -> None:
    said = rest | {"mcpServers": others}
    text = data.draw(texts(said))
    new = set_value(text, PATH, ENTRY)
    assert read(new) == said | {"mcpServers": others | {"rlm-mcp": ENTRY}}
    assert is_subsequence("".join(text.split()), "".join(new.split()))
    if others:
        assert remove_value(new, PATH) == text


@given(st.data(), objects)
def test_adding_and_removing_leaves_at_most_an_empty_object(data: st.DataObject, rest: dict[str, Any]) -> None:
    text = data.draw(texts(rest))
    new = set_value(text, PATH, ENTRY)
    assert read(new) == rest | {"mcpServers": {"rlm-mcp": ENTRY}}
    assert read(remove_value(new, PATH)) == rest | {"mcpServers": {}}


@given(st.data(), objects, servers)
def test_the_last_entry_written_is_the_one_that_stays(
    data: st.DataObject, rest: dict[str, Any], others: dict[str, Any]
) -> None:
    text = data.draw(texts(rest | {"mcpServers": others}))
    first = set_value(text, PATH, {"command": "old", "args": []})
    second = set_value(first, PATH, ENTRY)
    assert read(second) == read(set_value(text, PATH, ENTRY))
    assert set_value(second, PATH, ENTRY) == second


@given(st.text(alphabet='{}[]",:/*\\ \n1a', max_size=30))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        new = set_value(text, PATH, ENTRY)
    except NotEditable:
        return
    assert read(new)["mcpServers"]["rlm-mcp"] == ENTRY


def is_subsequence(part: str, whole: str) -> bool:
    letters = iter(whole)
    return all(letter in letters for letter in part)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_mcp.install.edit_yaml import read, read_listed, remove_listed, remove_value, set_listed, set_value
from rlm_mcp.install.text_edit import NotEditable

PATH = ("extensions", "rlm-mcp")
ENTRY = {"enabled": True, "cmd": "C:\\rlm: x\\rlm-mcp.exe", "args": ["- a", "ü"], "envs": {"A": "no"}, "timeout": 300}


def test_an_entry_goes_below_the_key_of_its_mapping_so_that_comments_stay_with_theirs() -> None:
    text = "GOOSE_MODEL: x\nextensions: # all\n    # of dev\n    dev:\n        enabled: true\n\n# end\nother: 1\n"
    assert set_value(text, PATH, {"cmd": "y", "args": ["z"], "envs": {}}) == (
        "GOOSE_MODEL: x\nextensions: # all\n"
        '    rlm-mcp:\n        cmd: "y"\n        args:\n        - "z"\n        envs: {}\n'
        "    # of dev\n    dev:\n        enabled: true\n\n# end\nother: 1\n"
    )


def test_an_entry_is_replaced_where_it_stands() -> None:
    text = "extensions:\n  a: {}\n  rlm-mcp:\n    cmd: x\n    note: |\n      more\n  # of b\n  b:\n    c: 1\n"
    assert set_value(text, PATH, {"cmd": "y"}) == (
        'extensions:\n  a: {}\n  rlm-mcp:\n    cmd: "y"\n  # of b\n  b:\n    c: 1\n'
    )


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("", 'extensions:\n  rlm-mcp:\n    cmd: "y"\n'),
        ("a: 1", 'a: 1\nextensions:\n  rlm-mcp:\n    cmd: "y"\n'),
        ("extensions:\n# c\nb: 1\n", 'extensions:\n  rlm-mcp:\n    cmd: "y"\n# c\nb: 1\n'),
        ("extensions: {} # c\n", 'extensions: # c\n  rlm-mcp:\n    cmd: "y"\n'),
        ("extensions: ~\n", 'extensions:\n  rlm-mcp:\n    cmd: "y"\n'),
        ("extensions: {a: {b: 1}}\n", 'extensions: {"rlm-mcp": {"cmd": "y"}, a: {b: 1}}\n'),
    ],
)
def test_a_mapping_is_made_where_it_is_missing(text: str, changed: str) -> None:
    assert set_value(text, PATH, {"cmd": "y"}) == changed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [1\n", "is not YAML ("),
        ("a: 1\na: 2\n", "is not YAML ("),
        ("a: 1\n---\nb: 2\n", "is not YAML ("),
        ("- a\n", "is not a YAML mapping"),
        ("extensions: [a]\n", "has a value at extensions that is not a mapping"),
        ("a:\n\t- b\n", "line 2"),
    ],
)
def test_a_text_that_is_not_understood_says_why(text: str, why: str) -> None:
    with pytest.raises(NotEditable) as error:
        set_value(text, PATH, ENTRY)
    assert why in str(error.value)


# --- properties ---------------------------------------------------------------------------------------------------

comments = st.sampled_from(["", "", "# note\n", "\n", "\n  # rlm-mcp:\n\n"])
leaves = st.sampled_from(
    ["1", '"a # b"', "plain text # c", "|\n{0}  two\n{0}  lines", ">-\n{0}  folded\n{0}  text", "", "{{}}",
     "[1, {{a: b}}]", "\n{0}  - x\n{0}  - z",
     "'it''s'", "\n{0}  - x\n{0}  - y: 1", "&anchor z", "two\n{0}  lines"]
)  # fmt: skip


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A configuration with some extensions, of one indentation each, and keys around them."""

    def keys(prefix: str, indent: str) -> str:
        count = draw(st.integers(1, 3))
        return "".join(f"{draw(comments)}{indent}{prefix}{n}: {draw(leaves).format(indent)}\n" for n in range(count))

    indent, step = draw(st.sampled_from(["  ", "    ", " "])), draw(st.sampled_from(["  ", "    "]))
    text = draw(comments) + (keys("before", "") if draw(st.booleans()) else "") + "extensions: # all\n"
    for number in range(draw(st.integers(1, 3))):
        text += f"{draw(comments)}{indent}e{number}:\n{keys('k', indent + step)}"
    text += draw(comments) + (keys("after", "") if draw(st.booleans()) else "")
    return text.replace("\n", "\r\n") if draw(st.booleans()) else text


@settings(max_examples=60)
@given(texts())
def test_removing_what_was_added_gives_the_text_back(text: str) -> None:
    new = set_value(text, PATH, ENTRY)
    said = read(text)
    said["extensions"]["rlm-mcp"] = ENTRY
    assert read(new) == said
    assert remove_value(new, PATH) == text
    assert set_value(new, PATH, ENTRY) == new
    assert set_value(set_value(text, PATH, {"cmd": "old"}), PATH, ENTRY) == new


@settings(max_examples=40)
@given(texts())
def test_each_extension_can_be_taken_out_alone(text: str) -> None:
    said = read(text)
    if len(said["extensions"]) > 1:
        del said["extensions"]["e1"]
        assert read(remove_value(text, ("extensions", "e1"))) == said


LISTED = """\
name: mine
mcpServers:
  # the first
  - name: files
    command: npx
    args:
      - x
  - name: rlm-mcp
    command: /old  # ours
models: []
"""


def test_an_item_of_a_list_is_added_replaced_and_removed_by_its_name() -> None:
    new = {"name": "rlm-mcp", "command": "/new", "args": ["a"], "env": {"K": "v"}}
    path = ("mcpServers", "rlm-mcp")
    changed = set_listed(LISTED, path, new)
    assert changed == LISTED.replace(
        "  - name: rlm-mcp\n    command: /old  # ours\n",
        '  - name: "rlm-mcp"\n    command: "/new"\n    args:\n    - "a"\n    env:\n      "K": "v"\n',
    )
    without = remove_listed(changed, path)
    assert "rlm-mcp" not in without
    assert read_listed(set_listed(without, path, new)) == read_listed(changed)
    assert remove_listed(set_listed("", path, new), path) == "mcpServers: []\n"


@pytest.mark.parametrize("text", ["mcpServers:\n", "mcpServers: []\n", "a: 1", "a: 1\r\n"])
def test_the_first_item_of_a_list_is_added(text: str) -> None:
    new = {"name": "rlm-mcp", "command": "/new"}
    assert read_listed(set_listed(text, ("mcpServers", "rlm-mcp"), new))["mcpServers"] == {"rlm-mcp": new}

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.install.edit_toml import read, remove_value, set_value
from rlm_mcp.install.text_edit import NotEditable

PATH = ("mcp_servers", "rlm-mcp")
ENTRY = {"command": 'C:\\rlm "x"\\rlm-mcp.exe', "args": ["-m", "ü\x7f"], "env": {"A B": "c"}, "tool_timeout_sec": 300}


def test_a_table_goes_to_the_end_with_an_empty_line_before_it() -> None:
    text = 'model = "gpt-5"\n\n[mcp_servers.other]\ncommand = "x" # mine\n'
    assert set_value(text, PATH, {"command": "y", "args": []}) == (
        text + '\n[mcp_servers.rlm-mcp]\ncommand = "y"\nargs = []\n'
    )


def test_a_table_is_replaced_where_it_stands_with_the_tables_below_it() -> None:
    text = (
        '[mcp_servers.rlm-mcp]\r\ncommand = "x"\r\n\r\n[mcp_servers.rlm-mcp.env]\r\nK = "v"\r\n\r\n# of other\r\n'
        '[mcp_servers.other]\r\ncommand = "z"\r\n'
    )
    assert set_value(text, PATH, {"command": "y"}) == (
        '[mcp_servers.rlm-mcp]\r\ncommand = "y"\r\n\r\n# of other\r\n[mcp_servers.other]\r\ncommand = "z"\r\n'
    )


def test_a_line_of_a_string_or_an_array_is_not_taken_for_a_header() -> None:
    text = "a = '''\n[mcp_servers.rlm-mcp]\n'''\nb = [\n  [1], # ]\n  ['[x]'],\n]\n"
    assert remove_value(text, PATH) == text
    assert remove_value(set_value(text, PATH, ENTRY), PATH) == text


def test_a_table_between_those_of_servers_keeps_its_place() -> None:
    text = '[mcp_servers.other]\ncommand = "x"\n\n[[hooks]]\nname = "y"\n'
    new = set_value(text, PATH, {"command": "z"})
    assert new == text + '\n[mcp_servers.rlm-mcp]\ncommand = "z"\n'
    assert remove_value(new, PATH) == text


def test_a_text_that_is_not_toml_says_where() -> None:
    with pytest.raises(NotEditable, match=r"is not TOML \(.*line 2"):
        set_value("a = 1\nb = \n", PATH, ENTRY)


# --- properties ---------------------------------------------------------------------------------------------------

comments = st.sampled_from(["", "", "# note\n", "\n", "\n\n# [mcp_servers.rlm-mcp]\n"])
assignments = st.sampled_from(
    [
        "{} = 1\n",
        '{} = "a # [b]" # c\n',
        "{} = '''\n[x]\n'''\n",
        "{} = [\n  [1, 2], # ]\n  [3],\n]\n",
        "{} = {{ a = [1] }}\n",
    ]
)
headers = st.sampled_from(
    ["[{}]\n", "[mcp_servers.{}]\n", "[ mcp_servers . {} ] # c\n", "[[{}]]\n", '["q.{}"]\n', "[mcp_servers.{}.env]\n"]
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Tables with keys of their own, so that the text is TOML whatever is drawn."""
    lines = [draw(comments)]
    lines += [draw(assignments).format(f"k{n}") for n in range(draw(st.integers(0, 2)))]
    for table in range(draw(st.integers(0, 4))):
        lines += [draw(comments), draw(headers).format(f"t{table}")]
        lines += [draw(assignments).format(f"k{n}") for n in range(draw(st.integers(0, 2)))]
    lines.append(draw(comments))
    text = "".join(lines)
    if draw(st.booleans()):
        text = text.removesuffix("\n")
    return text.replace("\n", "\r\n") if draw(st.booleans()) else text


@given(texts())
def test_removing_what_was_added_gives_the_text_back(text: str) -> None:
    new = set_value(text, PATH, ENTRY)
    said: dict[str, Any] = read(text)
    said.setdefault("mcp_servers", {})["rlm-mcp"] = ENTRY
    assert read(new) == said
    assert new.startswith(text)
    assert remove_value(new, PATH) == text
    assert set_value(new, PATH, ENTRY) == new
    assert set_value(set_value(text, PATH, {"command": "old"}), PATH, ENTRY) == new

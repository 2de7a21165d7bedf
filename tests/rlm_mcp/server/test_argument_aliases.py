import pytest

from rlm_mcp.server.argument_aliases import ARGUMENT_ALIASES, UnknownArgument, resolve_aliases
from rlm_mcp.server.tools import described_tools

KNOWN = {tool.name: tuple(tool.parameters["properties"]) for tool in described_tools()}


@pytest.mark.parametrize(
    ("tool", "given", "meant"),
    [
        ("rlm_solve", {"question": "q", "context": "app"}, {"query": "q", "contexts": ["app"]}),
        ("rlm_solve", {"prompt": "q", "context_id": ["a", "b"]}, {"query": "q", "contexts": ["a", "b"]}),
        ("rlm_solve", {"query": "q", "contexts": '["a"]'}, {"query": "q", "contexts": '["a"]'}),
        ("inspect_context", {"context_id": "a", "pattern": "x"}, {"context": "a", "search": "x"}),
        ("inspect_context", {"contexts": ["a"], "regex": "x"}, {"context": "a", "search": "x"}),
        ("register_context", {"path": "app.log"}, {"source": "app.log"}),
        ("register_context", {"file": "app.log", "name": None}, {"source": "app.log"}),
        ("remove_context", {"name": "a"}, {"context": "a"}),
    ],
)
def test_near_miss_names_mean_the_real_arguments(tool: str, given: dict[str, object], meant: dict[str, object]) -> None:
    assert resolve_aliases(tool, given, KNOWN[tool]) == meant


def test_the_real_name_wins_over_a_near_miss() -> None:
    assert resolve_aliases("rlm_solve", {"prompt": "b", "query": "a"}, ("query",)) == {"query": "a"}


def test_an_argument_that_is_no_near_miss_is_refused_with_the_real_names() -> None:
    with pytest.raises(UnknownArgument, match="rlm_result has no argument 'colour'; it takes run_id, wait_seconds"):
        resolve_aliases("rlm_result", {"run_id": "r", "colour": 1}, ("run_id", "wait_seconds"))


def test_every_near_miss_means_an_argument_of_its_tool_and_hides_none() -> None:
    assert ARGUMENT_ALIASES.keys() == KNOWN.keys()
    for tool, names in ARGUMENT_ALIASES.items():
        assert set(names.values()) <= set(KNOWN[tool])
        assert not set(names) & set(KNOWN[tool])

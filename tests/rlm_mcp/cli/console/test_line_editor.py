import stat
from pathlib import Path

import pytest

from rlm_mcp.cli.console.line_editor import LineEditor, is_whole


@pytest.mark.parametrize(
    "source",
    [
        "1",
        "x = (\n1)",
        "if x: y",
        "for i in x:\n  y\n",
        "try:\n  a\nexcept E:\n  b\n",
        "@d\ndef f(): pass",
        "await f()",
        "async def f():\n  await g()\n",
        "'''a\nb'''",
        "x = 1\ny = 2",
        "a b",  # the sandbox says what is wrong with it
        "t'{x}'",  # and what is right in its newer Python
        "x = '\0'",
    ],
)
def test_a_whole_block_is_run(source: str) -> None:
    assert is_whole(source)


@pytest.mark.parametrize(
    "source",
    [
        "x = (",
        "for i in x:",
        "for i in x:\n  y",
        "try:\n  a\n",
        "if a:\n  b\nelse:",
        "@d",
        "'''a",
        "a\\",
        "class A:\n\tb",
    ],
)
def test_a_block_that_is_not_whole_waits_for_more(source: str) -> None:
    assert not is_whole(source)


def test_the_history_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    readline = pytest.importorskip("readline", reason="this Python has no readline, as on Windows")
    history = tmp_path / "history"
    with LineEditor(history, lambda _: ()):
        readline.add_history("len(context)")
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    readline.clear_history()
    with LineEditor(history, lambda _: ()):
        assert readline.get_history_item(readline.get_current_history_length()) == "len(context)"
    readline.clear_history()


def test_completions_are_asked_for_once_for_each_text(tmp_path: Path) -> None:
    readline = pytest.importorskip("readline", reason="this Python has no readline, as on Windows")
    asked: list[str] = []

    def complete(text: str) -> tuple[str, ...]:
        asked.append(text)
        return ("context", "contexts")

    with LineEditor(tmp_path / "history", complete):
        completer = readline.get_completer()
        assert [completer("cont", state) for state in range(3)] == ["context", "contexts", None]
    assert asked == ["cont"]
    assert readline.get_completer() is None

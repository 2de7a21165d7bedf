"""`rlm-mcp inspect` on a real terminal."""

import stat
from pathlib import Path

from tests.peers.openai_server import OpenAIServer
from tests.peers.places import COMMAND
from tests.rlm_mcp.cli.console.conftest import OpenTerminal

PROMPT = ">>> "


def test_blocks_run_over_the_context_and_ctrl_c_keeps_the_variables(
    terminal: OpenTerminal, log_file: Path, tmp_path: Path
) -> None:
    opened = terminal("inspect", str(log_file), command=COMMAND)
    opened.until("app.log: 300 lines, 4,190 characters; `context` is the text, a str\n")
    opened.until(PROMPT)
    opened.type("counted = context.count('ERROR')\n")
    opened.until(PROMPT)
    opened.type("for i in range(2):\n    print('round', i, counted)\n\n")
    opened.until("round 1 100\n>>> ")
    seen = ""
    while not seen.startswith("interrupted"):  # the key may be pressed while the line is still being taken in
        opened.type("while True: pass\n")
        opened.until("while True: pass\n")
        seen = opened.until("interrupted; the variables are kept\n>>> ", "(Ctrl-D leaves)\n>>> ", pressing="\x03")
    opened.type("count\t + 1\n")
    opened.until("\n101\n>>> ")
    opened.type(":reset\ncounted\n")
    opened.until("Variables are gone.")
    opened.until("NameError: name 'counted' is not defined")
    opened.until(PROMPT)
    opened.type("\x04")
    assert opened.status() == 0
    history = tmp_path / "data" / "prompt_history"
    assert "while True: pass" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_sub_calls_ask_the_configured_model(terminal: OpenTerminal, log_file: Path) -> None:
    with OpenAIServer(["yes"]).run_in_thread() as endpoint:
        opened = terminal("inspect", str(log_file), "--base-url", endpoint.base_url, "--model", "scripted")
        opened.until("asks scripted")
        opened.type("llm_query_batched(['is it?', 'is it not?'])\n")
        opened.until("['yes', 'yes']")
        opened.type(":quit\n")
        assert opened.status() == 0


def test_the_overview_is_shown_when_asked_for(terminal: OpenTerminal, log_file: Path) -> None:
    opened = terminal("inspect", str(log_file), "--overview")
    assert opened.status() == 0
    assert "lines: 300" in opened.text
    assert PROMPT not in opened.text


def test_a_source_that_is_not_there_is_one_sentence(terminal: OpenTerminal) -> None:
    opened = terminal("inspect", "nothing.log")
    assert opened.status() == 1
    assert opened.text.startswith("rlm-mcp: ")
    assert len(opened.text.splitlines()) == 1

import pytest

from rlm_mcp.cli.commands.output import COMMAND_OF_TOOL, name_commands, print_error
from rlm_mcp.errors import NoModelConfigured, RlmError, SettingsError
from rlm_mcp.server.tools import described_tools


def test_every_tool_has_a_command_that_does_the_same() -> None:
    assert {tool.name for tool in described_tools()} <= COMMAND_OF_TOOL.keys()


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("give the run_id that rlm_solve returned", "give the run_id that `rlm-mcp solve` returned"),
        ("`list_contexts` shows all", "`rlm-mcp contexts list` shows all"),
        ("wait for that or `cancel_run`", "wait for that or stop it with Ctrl-C"),
        ("or use the prompt be_the_root, which needs no key", "or use `rlm-mcp inspect SOURCE`, which needs no key"),
        ("with `remove_context` or `rlm-mcp contexts rm NAME`", "with `rlm-mcp contexts rm NAME`"),
        ("Call rlm_result(run_id='run-1f') to wait on", "Call `rlm-mcp runs show run-1f` to wait on"),
        ("raise max_seconds or RLM_MCP_MAX_SECONDS", "raise --max-seconds or RLM_MCP_MAX_SECONDS"),
        ("max_matches is -1", "--max is -1"),
        ("my_rlm_solve stays", "my_rlm_solve stays"),
    ],
)
def test_a_sentence_names_commands_instead_of_tools(sentence: str, shown: str) -> None:
    assert name_commands(sentence) == shown


@pytest.mark.parametrize(
    ("error", "status"), [(RlmError("x"), 1), (NoModelConfigured("x"), 1), (SettingsError("x"), 2)], ids=type
)
def test_an_error_goes_to_stderr_without_control_characters(
    error: RlmError, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    error.args = ("\x1b[2J: wait for it with rlm_result",)
    assert print_error(error) == status
    assert capsys.readouterr() == ("", "rlm-mcp: \\x1b[2J: wait for it with `rlm-mcp runs show ID`\n")

import pytest

from rlm_mcp.server.cancel_reasons import is_time_out


@pytest.mark.parametrize(
    "reason",
    [
        "timed out after 5s",
        "request timeout",
        "McpError: MCP error -32001: Request timed out",
        "TimeoutError: The operation was aborted due to timeout",
        "AbortError: MCP tool 'rlm_solve' on server 'rlm-mcp' did not respond within 300000ms idle timeout",
        "Maximum total timeout exceeded",
        "context deadline exceeded",
    ],
)
def test_clients_say_in_many_words_that_they_gave_up_waiting(reason: str) -> None:
    assert is_time_out(reason)


@pytest.mark.parametrize(
    "reason",
    [
        None,
        7,
        "",
        "caller cancelled",
        "AbortError: The operation was aborted.",
        "User cancelled the operation",
        "the user pressed Ctrl-C before the timeout",
        "Interrupted",
        "x" * 600 + "timed out",
    ],
)
def test_everything_else_is_a_wish_to_stop(reason: object) -> None:
    assert not is_time_out(reason)

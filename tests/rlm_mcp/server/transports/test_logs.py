import json
import logging
import sys

from rlm_mcp.server.transports.logs import JsonLines


def test_a_structured_log_line_is_one_json_object() -> None:
    try:
        1 / 0  # noqa: B018 - raises on purpose
    except ZeroDivisionError:
        record = logging.LogRecord("rlm_mcp", logging.ERROR, "", 0, "run %s failed\n", ("run-1",), sys.exc_info())
    line = JsonLines().format(record)
    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["level"], entry["logger"], entry["message"]) == ("ERROR", "rlm_mcp", "run run-1 failed\n")
    assert entry["traceback"].endswith("ZeroDivisionError: division by zero")

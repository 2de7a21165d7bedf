"""A server on stdio, spoken to line by line: no SDK between the test and the wire."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

META = "io.modelcontextprotocol"


class Wire:
    """Both ends of the pipe. Notifications that arrive before an answer are kept in `notifications`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self._last_id = 0
        self.notifications: list[dict[str, Any]] = []

    def send(self, line: bytes) -> None:
        """Writes one line, whatever it is."""
        self._in.write(line + b"\n")
        self._in.flush()

    def read(self) -> dict[str, Any]:
        """The next line of the server."""
        message: dict[str, Any] = json.loads(self._out.readline())
        assert message["jsonrpc"] == "2.0"
        return message

    def notify(self, method: str) -> None:
        """Sends a notification."""
        self.send(json.dumps({"jsonrpc": "2.0", "method": method}).encode())

    def ask(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a request: its `result` or its `error`."""
        self._last_id += 1
        given = {} if params is None else {"params": params}
        self.send(json.dumps({"jsonrpc": "2.0", "id": self._last_id, "method": method} | given).encode())
        while (message := self.read()).get("id") != self._last_id:
            self.notifications.append(message)
        return message


@contextmanager
def speaking(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[Wire]:
    """A server process; after the block its input is closed, and it has to end by itself."""
    with subprocess.Popen(  # noqa: S603 - the test's own command
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(environ)
    ) as process:
        try:
            yield Wire(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()

"""Other engines, each in a process of its own that runs contenders/engines.py."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.figures import versions

RIVALS = {"rlms": "rlms", "dspy.RLM": "dspy"}
"""The package of each, whose name is also that of the engine and of its model in `dialects`."""


def driver(python: str, engine: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of an engine in the Python that has it, beside which Deno is."""
    command = [python, str(Path(__file__).parent / "contenders" / "engines.py"), engine]
    return command, {**os.environ, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


class Rival:
    """Another engine, which is asked about one context."""

    def __init__(self, python: str, title: str, context: str) -> None:
        self.model, self.title = RIVALS[title], title
        self._context = context
        self._command, self._environ = driver(python, self.model)
        self._process: subprocess.Popen[str] | None = None

    def ask(self, url: str, question: str, *, seconds: float = 600.0, turns: int = 40) -> dict[str, Any]:
        """Its answer, with its seconds and tokens; `ended` is "killed" if it was."""
        request: dict[str, Any] = {"model": self.model, "base_url": url, "question": question, "context": self._context}
        request |= {"turns": turns, "seconds": seconds, "reply_tokens": 4_000}
        if self._process is None:
            pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
            self._process = subprocess.Popen(  # noqa: S603 # our own command
                self._command, env=self._environ, stdin=pipe, stdout=pipe, stderr=nothing, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        return dict(json.loads(line)) if line else {"answer": None, "ended": "killed"}

    def answered(self, url: str, question: str) -> dict[str, Any]:
        """Its result, which must be an answer."""
        result = self.ask(url, question)
        assert result["ended"] == "answered", (self.title, result)
        return result

    def kill(self) -> None:
        """Ends its process by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def rivals(python: str, context: str) -> Iterator[list[Rival]]:
    """The rivals that an interpreter has."""
    known = versions(python, *RIVALS.values())
    found = [Rival(python, title, context) for title, package in RIVALS.items() if package in known]
    try:
        yield found
    finally:
        for rival in found:
            rival.kill()

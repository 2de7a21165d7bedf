"""Reads blocks of code at a prompt, with history and with completion by the tab key.

Lines are edited by GNU readline or libedit, if Python has it. Without it, lines are read plainly, without history.
"""

import ast
import codeop
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import readline
except ImportError:  # Windows has none
    readline = None  # type: ignore[assignment] # absent on this system

HISTORY_LINES = 2_000
DELIMITERS = " \t\n`~!@#$%^&*()-=+[{]}\\|;:'\",<>/?"
"""Characters that end a name: all but letters, digits, underscore and dot."""

_compile = codeop.CommandCompiler()
_compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def is_whole(source: str) -> bool:
    """Whether a block is complete or needs more lines. A compound statement ends with an empty line.

    A syntax error counts as complete: the Python of the sandbox is newer, and reports the error itself.
    """
    lines = source.split("\n")
    if len(lines) > 1 and lines[-1][:1] in {" ", "\t"} and lines[-1].strip():
        return False
    try:
        return _compile(source, "<typed>", "exec") is not None
    except (SyntaxError, ValueError, OverflowError):
        return True


class LineEditor:
    """Reads blocks of lines. `complete` returns completions of a name; only its owner can read the file `history`."""

    def __init__(self, history: Path, complete: Callable[[str], Sequence[str]]) -> None:
        self._history = history
        self._complete = complete
        self._found: Sequence[str] = ()

    def __enter__(self) -> Self:
        if readline is not None:
            with suppress(OSError):
                readline.read_history_file(self._history)
            readline.set_history_length(HISTORY_LINES)
            readline.set_completer(self._next)
            readline.set_completer_delims(DELIMITERS)
            is_libedit = "libedit" in (readline.__doc__ or "")
            readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if readline is not None:
            readline.set_completer(None)
            with suppress(OSError):  # a full disk loses the history, not the session
                self._history.touch(mode=0o600)
                self._history.chmod(0o600)
                readline.write_history_file(self._history)

    def read(self, first: str, more: str) -> str:
        """One block. Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
        source = input(first)
        while source.strip() and not is_whole(source):
            source = f"{source}\n{input(more)}"
        return source

    def _next(self, text: str, state: int) -> str | None:
        """The next completion; readline asks for one after the other."""
        if state == 0:
            self._found = self._complete(text)
        return self._found[state] if state < len(self._found) else None

"""What `Session.exec` returns."""

from dataclasses import dataclass
from typing import Literal

StoppedBy = Literal["deadline", "interrupt", "stack", "exit", "trap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecError:
    """An exception that ended a cell. `line` is 1-based in the cell, None when no line of it was involved."""

    type: str
    message: str
    line: int | None
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """What a cell did.

    value         repr of its last bare expression, None when there is none or it is None
    truncated     whether something in the middle of stdout or stderr was left out
    stdout_chars  how long stdout really was
    memory_bytes  size of the guest's heap after the cell
    stopped_by    None when the cell ended by itself, else what ended it
    undone        whether the session was put back to its state before the cell
    """

    stdout: str
    stderr: str
    value: str | None
    error: ExecError | None
    truncated: bool
    stdout_chars: int
    seconds: float
    memory_bytes: int
    stopped_by: StoppedBy | None
    undone: bool

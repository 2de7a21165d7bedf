"""The result of a cell, and how an error or a stop is described in it."""

from dataclasses import dataclass
from typing import Literal

StopReason = Literal["deadline", "interrupt", "stack", "exit", "trap"]

# The guest cuts its texts to half of this; a guest that has been tampered with might not.
TEXT_CHARS = 2 << 20
_NAME_CHARS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecError:
    """An exception that ended a cell. `line` is 1-based in the cell, None when no line of it was involved."""

    type: str
    message: str
    line: int | None
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """The result of a cell.

    value         repr of its last bare expression, None when there is none or it is None
    truncated     whether something in the middle of stdout or stderr was left out
    stdout_chars  the full length of stdout
    memory_bytes  size of the guest's heap after the cell, without what the packages of an image take
    stopped_by    None when the cell ended by itself, else what ended it
    undone        whether the session was returned to its state before the cell
    """

    stdout: str
    stderr: str
    value: str | None
    error: ExecError | None
    truncated: bool
    stdout_chars: int
    seconds: float
    memory_bytes: int
    stopped_by: StopReason | None
    undone: bool


def describe_error(raised: object, stopped: StopReason | None, seconds: float) -> ExecError | None:
    """Return what ended a cell; None if it ended by itself.

    `raised` is what the guest reported of its exception, if anything. If the host stopped the cell, the host's words
    replace the guest's.
    """
    reported = raised if isinstance(raised, dict) else {}
    line = reported.get("line")
    kind, message = str(reported.get("type", ""))[:_NAME_CHARS], str(reported.get("message", ""))[:TEXT_CHARS]
    match stopped:
        case "deadline":
            kind, message = "TimeoutError", f"the cell was stopped after {seconds:g} s"
        case "interrupt":
            kind, message = "KeyboardInterrupt", "the cell was interrupted"
        case "stack":
            kind, message = "RecursionError", "C code recursed too deeply (a very deeply nested object or text)"
        case "exit":
            kind, message = "SystemExit", "the cell ended the interpreter"
        case "trap":
            kind, message = "SystemError", "the cell damaged the interpreter"
    if not kind:
        return None
    if stopped is not None:
        message += "; variables are kept" if reported else "; the session is as it was before the cell"
    return ExecError(
        type=kind,
        message=message,
        line=line if isinstance(line, int) else None,
        traceback=str(reported.get("traceback", ""))[:TEXT_CHARS] or f"{kind}: {message}",
    )

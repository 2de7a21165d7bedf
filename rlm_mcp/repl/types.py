"""Types of the REPL: the result of one block of code, the calls that code may make, and the REPL itself.

`session.py` makes a CellResult of a sandbox execution; the engine decides what it means. Neither imports the other.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter

FinalForm = Literal["FINAL", "FINAL_VAR", "SUBMIT", "answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellError:
    """The exception that ended a cell. `line` is the 1-based line of the cell; None when it was raised elsewhere."""

    type: str
    message: str
    line: int | None = None
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A name in the user's namespace. `size` is its len() where it has one; `preview` is a cut repr."""

    name: str
    type: str
    size: int | None = None
    preview: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """A final answer that code has set. `value` is a JSON value; other objects are converted with str()."""

    value: Any
    via: FinalForm = "FINAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCitation:
    """One call of `cite(...)`, not verified yet. Lines count from 1, both ends included.

    A quote without a place, as a child run gives it, has 0 for both lines.
    """

    context: str
    path: str
    start_line: int
    end_line: int
    quote: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Characters [start, end) of a file that code has read, as recorded by the objects of the guest."""

    context: str
    path: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """The result of one block of code. `stdout` may be cut (`truncated`); `stdout_chars` is its true length."""

    code: str
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    """repr of the last bare expression, None when there was none or it was None"""
    error: CellError | None = None
    truncated: bool = False
    stdout_chars: int = 0
    seconds: float = 0.0
    stopped_by: str | None = None
    """why the sandbox ended it, if it did: deadline, interrupt, stack, trap, exit"""
    undone: bool = False
    """the namespace was reset to its state before this cell"""
    variables: tuple[Variable, ...] = ()
    """all user variables; those this cell assigned or changed come first"""
    changed: tuple[str, ...] = ()
    """names this cell assigned or changed"""
    final: Final | None = None
    citations: tuple[RawCitation, ...] = ()
    reads: tuple[Read, ...] = ()
    notes: tuple[str, ...] = ()
    """sentences of the prelude for the model, e.g. that an assignment to `context` was dropped"""

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object, for the run record."""
        return dict(_RESULT.dump_python(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "CellResult":
        """The inverse of `to_json`; unknown fields are ignored, so that newer records stay readable."""
        return _RESULT.validate_python(data)


_RESULT = TypeAdapter(CellResult)


StartCall = Callable[[Callable[[], Awaitable[object]]], object]
"""Runs an async function while code waits for its own calls."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpectedQuery:
    """A call of `llm_query` or `rlm_query` that the running block will probably make.

    is_certain       it will, as far as can be told. The others only tell what else comes in between
    is_conditional   whether what an earlier answer says may decide if it is made
    answer           takes the answer, if it is asked for, so that the calls that depend on it can be found
    """

    function: Literal["llm_query", "rlm_query"]
    arguments: dict[str, Any]
    is_certain: bool
    is_conditional: bool
    answer: "Future[object]"


class GuestCalls(Protocol):
    """The calls of code in the REPL that the run answers. Each method may be called many times at once."""

    async def llm_query(
        self, prompt: str, *, model: str | None = None, schema: object | None = None, material: str | None = None
    ) -> object:
        """One sub-call; returns text, or an object of `schema`. Raises SubCallFailed with a text for the model."""

    async def classify(
        self,
        items: Sequence[str],
        question: str,
        labels: Sequence[str],
        *,
        examples: Sequence[tuple[str, str]] = (),
        model: str | None = None,
        batch: int | None = None,
        votes: int = 1,
        one_by_one: bool = False,
    ) -> dict[str, object]:
        """Labels of many items: `labels` (None: it has none), `failed` (index and reason), `uncertain` (indices).

        The result also has the number of `calls` and the `size` of a pack. `one_by_one` is a wish for weak models.
        """

    @property
    def functions(self) -> Sequence[str]:
        """The names of the caller's functions that code may call."""

    async def call_function(self, name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """The answer of a function of the caller, a JSON value. Raises SubCallFailed with a text for the model."""

    async def rlm_query(self, query: str, context: object, *, notes: bool = False) -> object:
        """A child run over `context` (a JSON value: text, list, or mapping of path to text); returns its answer.

        With `notes` that is a list of objects: `note`, `quote`, and `verified`, whether the context holds the quote.
        """

    def expect(self, queries: Sequence[ExpectedQuery], start: StartCall) -> None:
        """Takes what the running block will probably ask, in the place of what it took before; may ask it already.

        At the end of the block there is nothing more.
        """

    def budget(self) -> dict[str, object]:
        """The rest of the limits of the run: seconds, calls, tokens, dollars; None where there is no limit."""


PackCheckpoint = Callable[[], bytes]
"""Packs a checkpoint into bytes. It takes milliseconds to seconds, so it is called on a worker thread."""


class Repl(Protocol):
    """One persistent Python namespace with the contexts in it.

    The namespace holds `history`, the full stdout of every cell by index, to which compaction refers.
    """

    image: str
    """identifies what a checkpoint can be restored in: another REPL of the same image"""

    async def run(self, code: str, *, seconds: float | None = None) -> CellResult:
        """Executes one cell. Exceptions of the code are data in the result; cancellation interrupts the cell."""

    async def variables(self) -> tuple[Variable, ...]:
        """All user variables, newest first."""

    async def complete(self, text: str) -> tuple[str, ...]:
        """The completions of a name in the current namespace."""

    async def checkpoint(self) -> PackCheckpoint | None:
        """The namespace as it is now, for `restore`, also in another process; None if it is too large.

        The next cell may run while the checkpoint is packed.
        """

    async def restore(self, data: bytes) -> bool:
        """Replaces the namespace by that of a checkpoint. False, and unchanged, if another sandbox image made it."""

"""The protocols of a store of run records, which is on files here and may be elsewhere.

`tests/rlm_mcp/records/test_run_stores.py` is what every implementation has to pass. Those that are
neither async nor `append` may do I/O and are called on worker threads.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rlm_mcp.records.events import Event, RunStarted
from rlm_mcp.records.types import RunPage, RunState


class Record(Protocol):
    """The record that a run writes."""

    def append(self, event: Event) -> None:
        """Puts one event on record; on the event loop it is queued, and written soon. Raises RunNotWritten."""

    async def settled(self) -> None:
        """Returns once everything appended so far is written. Raises RunNotWritten."""

    def require_lease(self) -> None:
        """Raises LeaseLost if another may have gone on with the run. Costs nothing: it precedes each paid request."""

    def write_answer(self, answer: object) -> None:
        """Writes the answer byte for byte. Raises RunNotWritten."""

    def save_checkpoint(self, turn: int, data: bytes) -> bool:
        """Writes the REPL as it was after `turn`; False if it was not kept."""

    def checkpoint(self) -> tuple[int, bytes] | None:
        """The newest checkpoint after its turn, or None."""


class RunRecord(Record, Protocol):
    """The record of a stored run. One process at a time has its lease (lease.py), and writes it.

    It takes the lease with `claim` or its first `append`, and releases it with `close`. What it writes without a valid
    lease raises LeaseLost, and is not on record.
    """

    @property
    def run_id(self) -> str:
        """The id of the run."""

    @property
    def position(self) -> int:
        """Where the record of this writer ends, with what is queued. A number to be given back, and to be compared."""

    def claim(self, position: int | None = None) -> None:
        """Takes the lease. Raises RunNotWritten, and RunBusy while another process has it.

        With the `position` that a reader came to, also RunBusy if the record has grown since.
        """

    def close(self) -> None:
        """Writes what is queued and releases the lease. Idempotent."""

    def is_live(self) -> bool:
        """Whether any process, this one included, has the lease."""

    def started(self) -> RunStarted | None:
        """The first event, if the record begins with it. Raises RunRecordTooNew, RunRecordDamaged."""

    def context_ids(self) -> set[str]:
        """The contexts of the run. Raises RunRecordTooNew, and RunRecordDamaged rather than leave one out."""

    def events(self, *, until: int | None = None) -> Iterator[Event]:
        """The events written so far, or those up to a position. Raises RunRecordTooNew."""

    def events_from(self, position: int) -> Iterator[tuple[Event | None, int]]:
        """The events after a position, 0 for all, each with the position after it; None for anything that is no event.

        Raises RunRecordTooNew.
        """

    def marks(self) -> Sequence[Event]:
        """The events that begin, end, leave and resume the run, which are found without reading all others."""

    def fruitless_resumes(self) -> int:
        """How often in a row servers have resumed the run since it last got any further."""

    def state(self) -> RunState:
        """The state that the record leads to. A run with neither an end nor a writer counts as failed and resumable.

        Raises RunRecordTooNew, RunRecordDamaged.
        """

    def answer(self) -> Any:
        """The stored answer, or None. Raises RunRecordDamaged."""

    def trace(self) -> str:
        """The record as JSON Lines."""

    def is_torn(self) -> bool:
        """Whether the record ends in the middle of an event."""

    def note_waiting(self, call: str = "") -> None:
        """Notes that a call, perhaps with an id, waits for the end of the run: it gets none if the process dies."""

    def waiting_calls(self) -> frozenset[str]:
        """The ids of all calls that were noted as waiting since `note_told`, "" for those without one."""

    def note_told(self) -> None:
        """Notes that no call waits for the end any more, or one has got it."""

    def is_awaited(self) -> bool:
        """Whether a call waits for the end of the run, or did when its process died, not too long ago."""

    def path_of(self, name: str) -> Path:
        """Where a file that is made of the record, such as its page, is written if nothing else is said."""


class RunStore(Protocol):
    """The records of the runs of one owner."""

    def create(self, started: RunStarted) -> RunRecord:
        """A new run. Its first event is `started`, completed with its id and creation time. Raises RunNotWritten."""

    def get(self, run_id: str) -> RunRecord:
        """The run with this id, or the only one whose id begins with it. Raises UnknownRun, AmbiguousRun."""

    def list(self, *, limit: int = 20, cursor: str | None = None) -> RunPage:
        """Runs, newest first. `cursor` is the `next_cursor` of the page before."""

    def context_ids(self) -> "set[str]":
        """The contexts of all runs on record. Raises RunRecordTooNew, RunRecordDamaged."""

    def unanswered(self, fingerprint: str, *, except_model: str | None = None) -> RunRecord | None:
        """A recent run of this request whose record has no end, or whose answer the call that waited did not get.

        None that asks the model of the name that is excepted.
        """

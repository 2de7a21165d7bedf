"""Runs whose answers have not reached the clients that wait for them, or waited until their connections were lost.

All of this is of one process. What must outlive it is on the records of the runs (`RunRecord.note_waiting`).
"""

MOST_KEPT = 100
"""Runs that are kept for a client that was lost while it waited."""

MOST_HANDED_OVER = 1_000
"""Runs of other machines that are cancelled with the calls which began them."""


class AwaitedRuns:
    """Noted by the calls that wait (waiting_calls.py), and looked at when the same request comes again."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}
        """fingerprint -> run whose client was lost while it waited, or with its server, and has not got the answer"""
        self._telling: set[str] = set()
        """runs whose end is on its way to a client"""
        self._handed_over: dict[str, int] = {}
        """run that was handed to whichever machine has room -> calls that wait for it here"""

    def __repr__(self) -> str:
        return f"<AwaitedRuns, {len(self._kept)} kept, {len(self._telling)} on their way to a client>"

    # --- kept for the same request

    def keep(self, fingerprint: str, run_id: str) -> None:
        """Keeps the run for a request with this fingerprint."""
        self._kept.pop(fingerprint, None)
        self._kept[fingerprint] = run_id
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def kept_for(self, fingerprint: str) -> str | None:
        """The run that is kept for such a request."""
        return self._kept.get(fingerprint)

    def is_kept(self, run_id: str) -> bool:
        """Whether the run is kept for any request."""
        return run_id in self._kept.values()

    def hand_out(self, fingerprint: str) -> str | None:
        """The run that was kept for such a request, which its caller has now; the next one may want a new run."""
        run_id = self._kept.pop(fingerprint, None)
        if run_id is not None:
            self._telling.add(run_id)
        return run_id

    def forget(self, run_id: str) -> None:
        """Keeps the run no longer."""
        self._kept = {fingerprint: kept for fingerprint, kept in self._kept.items() if kept != run_id}

    # --- on their way to a client

    def begin_telling(self, run_id: str) -> None:
        """A call that waited for the run has ended."""
        self._telling.add(run_id)

    def end_telling(self, run_id: str) -> None:
        """The end of that call must have reached its client by now."""
        self._telling.discard(run_id)

    def is_being_told(self, run_id: str) -> bool:
        """Whether the end of the run is on its way to a client."""
        return run_id in self._telling

    # --- handed over to another process

    def note_handed_over(self, run_id: str) -> None:
        """Another process plays the run from now on; calls here may wait for it."""
        self._handed_over.setdefault(run_id, 0)
        if len(self._handed_over) > MOST_HANDED_OVER:
            del self._handed_over[next(iter(self._handed_over))]

    def add_calls(self, run_id: str, calls: int) -> None:
        """Counts calls that wait here for a run that was handed over."""
        if run_id in self._handed_over:
            self._handed_over[run_id] += calls

    def is_handed_over(self, run_id: str) -> bool:
        """Whether another process plays the run, as far as this one remembers."""
        return run_id in self._handed_over

    def is_given_up_elsewhere(self, run_id: str) -> bool:
        """Whether the run was handed over and no call waits for it here."""
        return self._handed_over.get(run_id) == 0

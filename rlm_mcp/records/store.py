"""All runs of one data directory, each in a directory of its own; run.py says what is in it."""

import builtins
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rlm_mcp.errors import RunNotWritten, RunRecordDamaged, RunRecordTooNew
from rlm_mcp.records.events import RunStarted
from rlm_mcp.records.lease import FileLeases, Leases
from rlm_mcp.records.recovery import is_unanswered
from rlm_mcp.records.run import Run, reason_of
from rlm_mcp.records.run_states import full_run_id, unreadable_state
from rlm_mcp.records.types import RunPage, RunState

_RUN_ID = re.compile(r"run-[0-9a-f]{12}")
RECENT_RUNS = 100
"""Searched for a run of the same request."""


class Runs:
    """All runs under one data directory. Several processes may share it; each run has one writer."""

    def __init__(self, data_dir: Path, leases: Leases | None = None) -> None:
        """Without `leases`, processes that share the directory share those in it."""
        self.directory = data_dir / "runs"
        self._leases = leases or FileLeases(self.directory)
        self._created: dict[str, str] = {}
        """run id -> its creation time, which never changes; of the runs that were listed before"""

    def __repr__(self) -> str:
        return f"<Runs {self.directory}>"

    def create(self, started: RunStarted) -> Run:
        """A new run. Its first event is `started`, completed with its id and creation time. Raises RunNotWritten."""
        run_id = f"run-{secrets.token_hex(6)}"
        directory = self.directory / run_id
        run = self._run(run_id)
        try:
            directory.mkdir(parents=True, mode=0o700)
            run.append(replace(started, run_id=run_id, created_at=_now()))
        except (OSError, RunNotWritten) as error:
            run.close()
            shutil.rmtree(directory, ignore_errors=True)
            raise RunNotWritten(
                f"no run can be recorded in {self.directory} ({reason_of(error)}): free some space on the disk, or set"
                " RLM_MCP_DATA_DIR to a writable directory"
            ) from error
        return run

    def get(self, run_id: str) -> Run:
        """The run with this id, or the only one whose id begins with it; `run-` may be left out.

        Raises UnknownRun, AmbiguousRun.
        """
        if _RUN_ID.fullmatch(run_id) and (self.directory / run_id / "events.jsonl").is_file():
            return self._run(run_id)
        return self._run(full_run_id(run_id, self._ids()))

    def list(self, *, limit: int = 20, cursor: str | None = None) -> RunPage:
        """Runs, newest first. `cursor` is the `next_cursor` of the page before."""
        order = sorted(((self._created_at(i), i) for i in self._ids()), reverse=True)
        if cursor is not None:
            order = [pair for pair in order if f"{pair[0]}|{pair[1]}" < cursor]
        page, rest = order[:limit], order[limit:]
        return RunPage(
            runs=tuple(self._state_of(run_id) for _, run_id in page),
            next_cursor=f"{page[-1][0]}|{page[-1][1]}" if rest and page else None,
        )

    def _state_of(self, run_id: str) -> RunState:
        """The state of a run for a list. One that cannot be read is listed as failed, so that it hides no others."""
        try:
            return self._run(run_id).state()
        except (RunRecordTooNew, RunRecordDamaged) as error:
            return unreadable_state(run_id, error)

    def context_ids(self) -> "set[str]":
        """The contexts of all runs on record. Raises RunRecordTooNew, RunRecordDamaged."""
        return {one for run_id in self._ids() for one in self._run(run_id).context_ids()}

    def unanswered(self, fingerprint: str, *, except_model: str | None = None) -> Run | None:
        """A run of this request that is to be found again, among those that were written last; see RunStore."""
        found = (self._run(run_id) for _, run_id in self._by_time_written()[:RECENT_RUNS])
        return next((run for run in found if is_unanswered(run, fingerprint, except_model)), None)

    def written_since(self, oldest: float) -> Iterator[Run]:
        """The runs whose records were written since then, in seconds since 1970; those written last first."""
        return (self._run(run_id) for at, run_id in self._by_time_written("events.jsonl") if at >= oldest)

    def path_of(self, run_id: str, name: str) -> Path:
        """A file beside the record of a run."""
        return self.directory / run_id / name

    def _by_time_written(self, file: str = "") -> "builtins.list[tuple[float, str]]":
        """When the directories of all runs, or a file in each, were modified, and their ids, latest first."""
        times: builtins.list[tuple[float, str]] = []
        for entry in self.directory.iterdir() if self.directory.is_dir() else ():
            with suppress(OSError):  # it is being removed, or is no run
                times.append(((entry / file).stat().st_mtime, entry.name))
        return sorted(times, reverse=True)

    def _run(self, run_id: str) -> Run:
        return Run(self.directory / run_id, leases=self._leases)

    def _created_at(self, run_id: str) -> str:
        if run_id not in self._created:
            try:
                self._created[run_id] = self._run(run_id).created_at
            except (RunRecordTooNew, RunRecordDamaged):
                return ""
        return self._created[run_id]

    def _ids(self) -> "set[str]":
        if not self.directory.is_dir():
            return set()
        return {entry.name for entry in self.directory.iterdir() if (entry / "events.jsonl").is_file()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")

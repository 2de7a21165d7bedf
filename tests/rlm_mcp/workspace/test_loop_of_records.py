"""Nothing of a record is read or written on the event loop, which serves everybody."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_mcp.records.run import Run
from rlm_mcp.records.run_queue import LocalRunQueue
from rlm_mcp.records.store import Runs
from rlm_mcp.workspace.backends import open_backends
from tests.rlm_mcp.machine import REQUEST, Machine, ended

pytestmark = pytest.mark.anyio

DOES_IO = frozenset(
    (
        *("claim", "close", "is_live", "state", "answer", "events", "events_from", "marks", "started", "trace"),
        *("write_answer", "checkpoint", "save_checkpoint", "note_waiting", "note_told", "is_awaited"),
        *("fruitless_resumes", "_take_lease", "_open", "_release", "_write"),
    )
)


class WatchedRuns(Runs):
    """Records that keep which of their calls were made on an event loop."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.called: set[str] = set()
        self.on_loop: set[str] = set()

    def _run(self, run_id: str) -> Run:
        return WatchedRun(self, self.directory / run_id)

    def note(self, name: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.called.add(name)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return call(*args, **options)
        self.on_loop.add(name)
        return call(*args, **options)


class WatchedRun(Run):
    def __init__(self, runs: WatchedRuns, directory: Path) -> None:
        super().__init__(directory)
        self.runs = runs

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self.runs.note, name, found) if name in DOES_IO else found


async def test_from_its_beginning_over_its_resumption_to_its_answer_no_record_is_touched_on_the_loop(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    records = WatchedRuns(machine.settings.data_dir)
    with anyio.fail_after(60):
        for _ in range(2):  # begun and left, then resumed
            async with open_backends(machine.settings) as own:
                watched = replace(own, records=records, queue=LocalRunQueue(records))
                async with machine.open(serves=True, backends=watched) as workspace:
                    await workspace.contexts.register(text="some text", name="t")
                    await workspace.recovery.resume_left()
                    run_id = await workspace.runs.start(REQUEST)
                    async with workspace.calls.waiting(run_id):
                        if machine.model.waits.is_set():
                            machine.model.go.set()
                            assert (await ended(workspace, run_id)).status == "completed"
                        await machine.model.waits.wait()
    assert records.on_loop == set()
    assert {"claim", "close", "write_answer", "checkpoint", "_take_lease", "_write", "note_told"} <= records.called

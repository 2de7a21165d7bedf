"""Several workspaces on one data directory, as of several processes."""

import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import chdir, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from mcp import Client
from mcp_types import CallToolResult

from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.errors import ProviderFailed, RunNotWritten, RunRecordDamaged
from rlm_mcp.models.base import Completion
from rlm_mcp.records.events import RunEnded, name_of, to_json
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from rlm_mcp.server.server import build_server
from rlm_mcp.spending import RunLimits
from rlm_mcp.workspace.backends import open_backends
from rlm_mcp.workspace.launch import SolveRequest
from rlm_mcp.workspace.live_runs import RunAlreadyEnded
from rlm_mcp.workspace.progress import IngestProgress
from rlm_mcp.workspace.shared_records import RunElsewhere
from rlm_mcp.workspace.tenant_limits import LimitReached
from rlm_mcp.workspace.workspace import Workspace
from tests.rlm_mcp.machine import REQUEST, Machine, Model, ended, started

pytestmark = pytest.mark.anyio


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class RefusingModel(Model):
    """A model that cannot be asked."""

    async def complete(self, *_: object, **__: object) -> Completion:
        raise ProviderFailed("it is not there")


async def cut_off(machine: Machine) -> str:
    """A run whose process died after its first turn."""
    async with machine.open() as workspace:
        run_id = await started(workspace)
        await machine.model.waits.wait()
    events = Runs(machine.settings.data_dir).get(run_id).events_path
    kept = [line for line in events.read_text().splitlines(keepends=True) if '"run_ended"' not in line]
    events.write_text("".join(kept))
    return run_id


async def asked_at_once(*workspaces: Workspace) -> list[str]:
    """The runs that they return for the same request."""
    found: list[str] = []

    async def ask(workspace: Workspace) -> None:
        found.append(await workspace.runs.start(REQUEST))

    async with anyio.create_task_group() as tasks:
        for workspace in workspaces:
            tasks.start_soon(ask, workspace)
    return found


async def test_the_same_request_goes_on_with_a_run_that_was_cut_off(machine: Machine) -> None:
    with anyio.fail_after(60):
        run_id = await cut_off(machine)
        machine.model.go.set()
        async with machine.open() as workspace:
            assert await workspace.runs.start(REQUEST) == run_id
            async for _ in workspace.runs.follow(run_id):
                pass
            state = await workspace.runs.state(run_id)
    assert (state.status, state.answer, state.iterations) == ("completed", "9", 2)
    assert machine.model.asked == 3  # the first turn was not paid again
    # The request that was in flight may have been billed.
    assert (state.usage.root_calls, state.usage.failed_calls) == (2, 1)
    assert state.usage.unanswered_prompt_tokens > 0


@contextmanager
def full_disk(run: Run, *, more: int = 0) -> Iterator[None]:
    """The record of the run gets no longer than it is and so many bytes more."""
    resource = pytest.importorskip("resource", reason="only POSIX limits the sizes of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (run.events_path.stat().st_size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_run_that_a_full_disk_ends_says_so_and_goes_on_once_there_is_room(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            run_id = await started(workspace)
            await machine.model.waits.wait()
            with full_disk(Runs(machine.settings.data_dir).get(run_id), more=400):
                machine.model.go.set()
                full = await ended(workspace, run_id)
            assert (full.status, full.stopped_by) == ("failed", "error")
            assert re.fullmatch(
                rf"the record of {run_id} cannot be written \(.*\): free some space on the disk, then continue the run"
                rf" with `rlm-mcp runs resume {run_id}`",
                full.message,
            )
            await workspace.runs.resume(run_id)
            assert (await ended(workspace, run_id)).answer == "9"


async def test_a_run_that_fails_after_it_was_resumed_no_longer_says_that_the_disk_was_full(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            run_id = await started(workspace)
            await machine.model.waits.wait()
            with full_disk(Runs(machine.settings.data_dir).get(run_id)):
                machine.model.go.set()
                assert "cannot be written" in (await ended(workspace, run_id)).message
            machine.model = RefusingModel()
            await workspace.runs.resume(run_id)
            state = await ended(workspace, run_id)
    assert state.status == "failed"
    assert state.message.startswith("it is not there")


async def test_a_run_that_a_full_disk_keeps_from_being_resumed_or_cancelled_is_not_held(machine: Machine) -> None:
    with anyio.fail_after(60):
        run_id = await cut_off(machine)
        record = Runs(machine.settings.data_dir).get(run_id)
        async with machine.open() as workspace:
            for change in workspace.runs.resume, workspace.runs.cancel:
                with full_disk(record), pytest.raises(RunNotWritten) as failed:
                    await change(run_id)
                assert not record.is_live(), failed.value  # which refers to the run that failed
            assert (await workspace.runs.cancel(run_id)).status == "cancelled"


async def test_the_same_request_twice_at_once_is_one_run(machine: Machine) -> None:
    with anyio.fail_after(60):
        machine.model.go.set()
        async with machine.open() as workspace:
            await workspace.contexts.register(text="some text", name="t")
            found = await asked_at_once(workspace, workspace, workspace)
            await ended(workspace, found[0])
    assert len(found) == 3
    assert len(set(found)) == 1
    assert machine.model.asked == 2


async def test_of_two_processes_that_ask_the_same_at_once_one_goes_on_with_what_was_cut_off(machine: Machine) -> None:
    with anyio.fail_after(60):
        run_id = await cut_off(machine)
        machine.model.go.set()
        async with machine.open() as one, machine.open() as other:
            found = await asked_at_once(one, other)
            state = await ended(one, run_id)
    assert found == [run_id, run_id]
    assert (state.status, state.answer) == ("completed", "9")
    assert machine.model.asked == 3


async def test_a_finished_run_is_not_resumed_and_a_new_one_is_started(machine: Machine) -> None:
    machine.model.go.set()
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            first = await started(workspace)
            async for _ in workspace.runs.follow(first):
                pass
            assert await workspace.runs.start(REQUEST) != first
            with pytest.raises(RunAlreadyEnded, match="has its final answer"):
                await workspace.runs.resume(first)


DAMAGE = [
    ('"max_seconds":1800.0', '"max_seconds":"x"'),
    ('"max_seconds":1800.0', '"max_eons":1'),
    ('"context_id":"', '"other_id":"'),
    ('"models":{"root":', '"models":{"stem":'),
    ('"models":{"root":{', '"models":{"root":[],"old":{'),
    ('"event":"run_started"', '"event":"routed"'),
]


@pytest.mark.parametrize(("whole", "damaged"), DAMAGE)
async def test_a_run_whose_beginning_is_damaged_is_not_resumed_and_stops_nobody(
    machine: Machine, whole: str, damaged: str
) -> None:
    with anyio.fail_after(60):
        run_id = await cut_off(machine)
        events = Runs(machine.settings.data_dir).get(run_id).events_path
        text = events.read_text()
        events.write_text(text.replace(whole, damaged, 1))
        assert events.read_text() != text
        machine.model.go.set()
        async with machine.open() as workspace:
            with pytest.raises(RunRecordDamaged):
                await workspace.runs.resume(run_id)
            await workspace.recovery.resume_left()
            assert await workspace.runs.start(REQUEST) != run_id
            assert run_id in {state.run_id for state in (await workspace.runs.list_page()).runs}


async def test_a_run_is_seen_and_cancelled_from_another_process(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open() as one, machine.open() as other:
            run_id = await started(one)
            assert (await other.runs.state(run_id)).status == "running"
            assert await other.runs.start(REQUEST) == run_id
            with pytest.raises(RunElsewhere):
                await other.runs.resume(run_id)
            assert (await other.runs.cancel(run_id)).status == "cancelled"


async def test_a_cancelled_run_is_resumed_when_asked_to(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            run_id = await started(workspace)
            assert (await workspace.runs.cancel(run_id)).status == "cancelled"
            machine.model.go.set()
            assert await workspace.runs.resume(run_id) == run_id
            async for _ in workspace.runs.follow(run_id):
                pass
            assert (await workspace.runs.state(run_id)).answer == "9"


async def test_a_run_whose_time_was_over_is_resumed_with_its_time_anew_and_no_turn_is_paid_again(
    machine: Machine,
) -> None:
    with anyio.fail_after(60):
        run_id = await cut_off(machine)
        limit = machine.settings.limits_for(RunLimits()).max_seconds
        assert limit is not None
        usage = {"root_calls": 1, "prompt_tokens": 10, "seconds": limit}
        over = RunEnded(status="failed", stopped_by="seconds", message="its time is over", usage=usage, answer_chars=0)
        with Runs(machine.settings.data_dir).get(run_id).events_path.open("a") as record:
            record.write(json.dumps(to_json(over)) + "\n")
        machine.model.go.set()
        async with machine.open() as workspace:
            assert (await workspace.runs.state(run_id)).stopped_by == "seconds"
            await workspace.runs.resume(run_id)
            state = await ended(workspace, run_id)
    assert (state.stopped_by, state.answer, state.iterations) == ("final", "9", 2)
    assert machine.model.asked == 3  # the turn that the end interrupted was asked for again, the first one was not
    assert state.usage.root_calls == 2
    assert state.usage.seconds > limit


async def test_a_run_that_has_spent_what_it_may_is_not_resumed_but_asked_for_with_a_higher_limit(
    machine: Machine,
) -> None:
    machine.model.looks = 3
    machine.model.go.set()
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            run_id = await started(workspace, replace(REQUEST, limits=RunLimits(max_iterations=2)))
            assert (await ended(workspace, run_id)).stopped_by == "iterations"
            with pytest.raises(RunAlreadyEnded, match=r"was ended by its limit: .* with a higher max_iterations"):
                await workspace.runs.resume(run_id)
            higher = await workspace.runs.start(replace(REQUEST, limits=RunLimits(max_iterations=5)))
            assert (await ended(workspace, higher)).stopped_by == "final"


async def test_who_attends_a_run_gets_each_event_once_also_when_late_or_in_another_process(machine: Machine) -> None:
    early: list[str] = []
    late: list[str] = []
    elsewhere: list[str] = []
    with anyio.fail_after(60):
        async with machine.open() as one, machine.open() as other, anyio.create_task_group() as tasks:
            run_id = await started(one)
            tasks.start_soon(one.runs.stream_events, run_id, lambda event: early.append(name_of(event)))
            await machine.model.waits.wait()
            tasks.start_soon(one.runs.stream_events, run_id, lambda event: late.append(name_of(event)))
            tasks.start_soon(other.runs.stream_events, run_id, lambda event: elsewhere.append(name_of(event)))
            machine.model.go.set()
        recorded = [name_of(event) for event in one.runs.records.get(run_id).events()]
    begins = {"root_asked", "cell_begun"}
    assert early[:4] == ["run_started", "routed", "root_asked", "root_reply"]
    lasting = [event for event in recorded if event not in begins]
    assert [event for event in early if event not in begins] == lasting
    assert [event for event in late if event not in begins] == lasting
    assert elsewhere == recorded


async def test_inspect_repls_make_room_for_each_other(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            for number in range(12):
                context = await workspace.contexts.register(text=f"text {number}", name=f"t{number}")
                assert (await workspace.repls.run_code(context, "1", seconds=5)).value == "9"
            assert repr(workspace).endswith("0 live runs, 8 REPLs>")


async def test_runs_at_once_are_limited_where_they_are(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(most_runs=1) as workspace:
            first = await started(workspace)
            assert await workspace.runs.start(REQUEST) == first
            with pytest.raises(LimitReached, match="1 runs are going on"):
                await workspace.runs.start(SolveRequest(query="Another?", contexts=("t",)))


async def test_of_many_runs_asked_for_together_only_as_many_begin_as_may(machine: Machine) -> None:
    refused: list[str] = []
    with anyio.fail_after(60):
        async with machine.open(most_runs=2) as workspace:
            await workspace.contexts.register(text="some text", name="t")

            async def ask(number: int) -> None:
                try:
                    await workspace.runs.start(SolveRequest(query=f"Question {number}?", contexts=("t",), mode="rlm"))
                except LimitReached as error:
                    refused.append(str(error))

            async with anyio.create_task_group() as asking:
                for number in range(10):
                    asking.start_soon(ask, number)
            assert (workspace.runs.live_count, len(refused)) == (2, 8)


async def test_an_attempt_that_is_delivered_twice_or_late_is_played_once(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with open_backends(machine.settings) as backends, machine.open(backends=backends) as workspace:
            run_id = await started(workspace)
            begins = backends.records.get(run_id).path_of("events.jsonl").stat().st_size
            await machine.model.waits.wait()
            for position in (begins, begins, 0):
                backends.queue.submit(run_id, position)
            machine.model.go.set()
            assert (await ended(workspace, run_id)).status == "completed"
            backends.queue.submit(run_id, begins)
            await anyio.wait_all_tasks_blocked()
            assert (machine.model.asked, workspace.runs.live_count) == (2, 0)


async def test_resumed_runs_count_among_those_at_once(machine: Machine) -> None:
    with anyio.fail_after(60):
        run_id = await cut_off(machine)
        async with machine.open(most_runs=1) as workspace:
            await workspace.runs.start(SolveRequest(query="Another?", contexts=("t",), mode="rlm"))
            with pytest.raises(LimitReached, match="1 runs are going on: wait for one with rlm_result"):
                await workspace.runs.resume(run_id)
            assert (await workspace.runs.state(run_id)).status == "failed"  # and can be resumed later


async def test_a_run_that_waits_for_another_writer_of_the_store_holds_up_nothing_else(machine: Machine) -> None:
    machine.model.go.set()
    catalogue = machine.settings.data_dir / "contexts" / "catalogue.sqlite3"
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            await workspace.contexts.register(text="some text", name="t")
            with closing(sqlite3.connect(catalogue, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                run_id = await workspace.runs.start(REQUEST)
                assert (await workspace.runs.state(run_id)).status == "running"
                other.execute("ROLLBACK")
            async for _ in workspace.runs.follow(run_id):
                pass
            assert (await workspace.runs.state(run_id)).status == "completed"
            assert (await workspace.remove_context("t")).name == "t"  # it is no longer in use


class Announcing(IngestProgress):
    """Sets an event of the event loop when the first file has been taken in."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = anyio.Event()

    def add(self, files: int, size: int) -> None:
        super().add(files, size)
        anyio.from_thread.run_sync(self.begun.set)


async def test_a_registration_that_is_cancelled_ends_and_leaves_nothing(machine: Machine, tmp_path: Path) -> None:
    for number in range(2_000):
        (tmp_path / f"{number}.txt").write_text(f"text {number}\n")
    progress = Announcing()
    async with machine.open() as workspace:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    partial(workspace.contexts.register, source=str(tmp_path / "*.txt"), progress=progress)
                )
                await progress.begun.wait()
                tasks.cancel_scope.cancel()
        assert progress.files < 2_000
        assert (await workspace.contexts.list_page()).total == 0
        assert list((machine.settings.data_dir / "contexts" / "incoming").rglob("*.txt")) == []


@pytest.fixture
def endless_source(tmp_path: Path) -> str:
    """A repository in which `git ls-files` never ends."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no FIFOs on this system")
    source = tmp_path / "source"
    subprocess.run(["git", "init", str(source)], check=True, capture_output=True)  # noqa: S603, S607 - git, in a directory of the test
    os.mkfifo(source / ".gitignore")  # git waits until somebody writes to it
    return str(source)


async def test_a_registration_that_is_cancelled_while_git_lists_ends_git(machine: Machine, endless_source: str) -> None:
    async with machine.open() as workspace:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(workspace.contexts.register, source=endless_source))
                while "1 running" not in repr(PROCESSES):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert repr(PROCESSES) == "<Processes 0 running>"
        assert (await workspace.contexts.list_page()).total == 0


async def test_an_existing_path_is_taken_before_a_name_and_the_log_says_so(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notes").write_text("of the file")
    with chdir(tmp_path):
        async with machine.open() as workspace:
            named = await workspace.contexts.register(text="of the context", name="notes")
            assert (await workspace.contexts.find_or_register("notes")).source == str(tmp_path / "notes")
            assert caplog.messages == [
                f"'notes' is a path and the name of a context: the path was taken; the context is {named.context_id}"
            ]
            assert await workspace.contexts.find_or_register(named.context_id) == named
            (tmp_path / "notes").unlink()
            assert await workspace.contexts.find_or_register("notes") == named


async def test_a_server_over_a_workspace_without_roots_opens_home_and_working_directory_alone(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("neither at home nor where the tests run")
    async with machine.open() as workspace, Client(build_server(workspace)) as client:
        result = await client.call_tool("register_context", {"source": str(tmp_path / "a.txt")})
    assert isinstance(result, CallToolResult)
    assert result.is_error


async def test_opening_a_workspace_deletes_what_a_killed_process_left_in_the_store(machine: Machine) -> None:
    contexts = machine.settings.data_dir / "contexts"
    lock, half = contexts / "holders" / "1-dead.lock", contexts / "incoming" / "1-dead" / "1" / "1.txt"
    for file in (lock, half):
        file.parent.mkdir(parents=True)
        file.touch()
    async with machine.open():
        assert not lock.exists()
        assert not half.parent.parent.exists()

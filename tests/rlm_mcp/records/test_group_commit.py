"""Group commit: how many commits lines take, who waits for them, and what a commit that fails leaves."""

import asyncio
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from rlm_mcp.records.events import Decided, RunStarted
from rlm_mcp.records.group_commit import SOON_SECONDS, GroupCommit
from rlm_mcp.records.store import Runs

pytestmark = pytest.mark.anyio


class Disk:
    """Keeps what each commit brings; a commit waits while the gate is closed, and fails while the disk is full."""

    def __init__(self) -> None:
        self.commits: list[list[bytes]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.is_full = False

    def write(self, lines: list[bytes]) -> None:
        self.gate.wait(5)
        self.threads.add(threading.get_ident())
        if self.is_full:
            raise OSError("full")
        self.commits.append([*lines])
        lines.clear()

    def __call__(self) -> GroupCommit:
        return GroupCommit(self.write)


async def test_64_replies_that_come_together_or_during_a_commit_take_two_commits_at_most() -> None:
    disk = Disk()
    queue = disk()
    disk.gate.clear()

    async def reply(number: int) -> None:
        queue.add(b"%d" % number)
        queue.begin()
        await queue.settled()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for numbers in range(40), range(40, 64):
                for number in numbers:
                    tasks.start_soon(reply, number)
                await anyio.wait_all_tasks_blocked()
            disk.gate.set()
    queue.close()

    assert len(disk.commits) <= 2
    assert [int(line) for lines in disk.commits for line in lines] == list(range(64))
    assert threading.get_ident() not in disk.threads


async def test_results_that_nobody_waits_for_go_with_the_request_after_them() -> None:
    disk = Disk()
    queue = disk()
    for line in (b"cell", b"decision", b"request"):
        queue.add(line)
        queue.begin()
    await queue.settled()
    queue.close()
    assert disk.commits == [[b"cell", b"decision", b"request"]]


async def test_what_nobody_waits_for_is_written_too() -> None:
    disk = Disk()
    queue = disk()
    queue.add(b"1")
    queue.begin()
    with anyio.fail_after(5):
        while not disk.commits:
            await anyio.lowlevel.checkpoint()
    assert disk.commits == [[b"1"]]
    queue.close()


async def test_a_failed_commit_is_told_to_those_who_wait_and_its_lines_go_with_the_next_one() -> None:
    disk = Disk()
    queue, disk.is_full = disk(), True
    for line in (b"1", b"2"):
        queue.add(line)
        queue.begin()
        with pytest.raises(OSError, match="full"):
            await queue.settled()
    with pytest.raises(OSError, match="full"):  # nothing was added, but it is still not written
        await queue.settled()
    disk.is_full = False
    queue.add(b"3")
    queue.begin()
    await queue.settled()
    await queue.settled()
    queue.close()

    assert disk.commits == [[b"1", b"2", b"3"]]


async def test_a_thread_commits_its_line_itself_and_what_the_loop_has_queued_before_it() -> None:
    disk = Disk()
    queue = disk()

    def add() -> int:
        queue.add(b"2")
        queue.begin()
        return len(disk.commits)

    queue.add(b"1")
    assert await anyio.to_thread.run_sync(add) == 1
    await queue.settled()
    queue.close()
    assert disk.commits == [[b"1", b"2"]]


async def test_a_waiter_that_is_cancelled_loses_no_line() -> None:
    disk = Disk()
    queue = disk()
    disk.gate.clear()
    queue.add(b"1")
    queue.begin()
    with anyio.move_on_after(0):
        await queue.settled()
    disk.gate.set()
    queue.close()
    assert disk.commits == [[b"1"]]


@pytest.mark.parametrize("on_thread", [False, True])
async def test_a_queue_that_is_closed_before_its_commit_is_due_starts_no_thread_later(*, on_thread: bool) -> None:
    disk, due = Disk(), anyio.Event()
    queue, before = disk(), set(threading.enumerate())
    queue.add(b"1")
    queue.begin()
    asyncio.get_running_loop().call_later(SOON_SECONDS, due.set)  # after the queue's own
    await anyio.to_thread.run_sync(queue.close) if on_thread else queue.close()
    await due.wait()
    assert disk.commits == [[b"1"]]
    with anyio.fail_after(60):  # one that had begun before ends; one that began later would not
        while any(thread.name == "record" for thread in set(threading.enumerate()) - before):  # noqa: ASYNC110 - threads do not tell
            await anyio.sleep(0.001)


@pytest.mark.parametrize("is_full", [False, True])
async def test_those_who_wait_when_the_queue_is_closed_are_told_how_its_commit_went(*, is_full: bool) -> None:
    disk, told = Disk(), list[str]()
    queue, disk.is_full = disk(), is_full
    queue.add(b"1")

    async def wait() -> None:
        try:
            await queue.settled()
        except OSError as error:
            told.append(str(error))
        else:
            told.append("written")

    async def close() -> None:
        queue.close()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(close)
    assert told == ["full" if is_full else "written"]


async def test_events_are_on_disk_when_the_record_is_settled_and_when_it_is_closed(tmp_path: Path) -> None:
    run = await anyio.to_thread.run_sync(Runs(tmp_path).create, RunStarted(query="?"))
    size = run.events_path.stat().st_size
    assert run.position == size
    run.append(Decided(step="again", why="output", detail=""))
    assert run.position > size
    await run.settled()
    assert run.events_path.stat().st_size == run.position
    run.append(Decided(step="again", why="output", detail="é" * 100_000))
    run.close()
    assert run.events_path.stat().st_size == run.position

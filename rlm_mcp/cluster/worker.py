"""The part of a process that plays what others hand over: jobs of Procrastinate, and the sweep for what is lost.

A job is done once its attempt has ended, so that no process takes more than it has room for. But runs outlive it: when
the worker of Procrastinate gives up because the database was away, they go on, and a new worker takes only as many jobs
as there is room left.
"""

import logging
from collections.abc import Awaitable, Callable

import anyio
import procrastinate
from anyio.abc import TaskGroup
from procrastinate import exceptions

from rlm_mcp.cluster.backends import Cluster
from rlm_mcp.cluster.database import connection_options
from rlm_mcp.cluster.queue import QUEUE, STALLED_SECONDS, TASK, Sweep
from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.errors import RlmError
from rlm_mcp.records.lease import EXPIRY_SECONDS

PlayFor = Callable[[str, str, int], Awaitable[None]]
"""Plays the attempt at a run of an owner, by the owner, the run's id and the position, to its end."""

RUNS_AT_ONCE = 16
"""Runs of one process, which wait for models most of the time."""

SWEEP_SECONDS = 1.0
_RESTART_SECONDS = 1.0
_POLL_SECONDS = 2.0
"""How often jobs are looked for, apart from the notices that tell of them."""

_GIVING_UP_SECONDS = 0.2
"""How long a worker of Procrastinate that ends waits for its jobs, whose runs go on without it."""

log = logging.getLogger(__name__)


class RunWorker:
    """Plays up to `at_once` runs of any owner in one process."""

    def __init__(self, cluster: Cluster, play: PlayFor, *, at_once: int = RUNS_AT_ONCE) -> None:
        self._cluster = cluster
        self._play = play
        self._room = anyio.Semaphore(at_once)
        self._at_once = at_once
        self._taking = anyio.CancelScope()
        self._sweep = Sweep(cluster.database, cluster.objects, cluster.heartbeats)

    def __repr__(self) -> str:
        return f"<RunWorker with room for {self._room.value} of {self._at_once} runs>"

    async def serve(self) -> None:
        """Plays what comes until it is cancelled, and with it what it plays."""
        async with anyio.create_task_group() as tasks:
            with self._taking:
                tasks.start_soon(self._keep_sweeping)
                while True:
                    try:
                        await self._take_jobs(tasks)
                    except exceptions.ProcrastinateException as error:
                        log.warning("no jobs are taken until the database is back (%s)", type(error).__name__)
                    await anyio.sleep(_RESTART_SECONDS)

    def stop(self) -> None:
        """Takes no more jobs; what is played goes on until `serve` is cancelled."""
        self._taking.cancel()

    async def _take_jobs(self, tasks: TaskGroup) -> None:
        """Takes jobs until the database is away for longer than the pool waits. Raises ProcrastinateException."""

        async def take(owner: str, run_id: str, position: int) -> None:
            await self._room.acquire()
            ended = anyio.Event()
            tasks.start_soon(self._play_in_room, owner, run_id, position, ended)
            await ended.wait()

        address = self._cluster.database.address
        connector = procrastinate.PsycopgConnector(
            conninfo=address.url.reveal(),
            kwargs=connection_options(address),
            min_size=1,
            max_size=3,
            timeout=10.0,
        )
        app = procrastinate.App(connector=connector)
        app.task(name=TASK, queue=QUEUE)(take)
        async with app.open_async():
            await app.run_worker_async(
                queues=[QUEUE],
                concurrency=self._at_once,
                install_signal_handlers=False,
                fetch_job_polling_interval=_POLL_SECONDS,
                shutdown_graceful_timeout=_GIVING_UP_SECONDS,
                update_heartbeat_interval=1.0,
                stalled_worker_timeout=STALLED_SECONDS,
                delete_jobs="always",
            )

    async def _play_in_room(self, owner: str, run_id: str, position: int, ended: anyio.Event) -> None:
        try:
            await self._play(owner, run_id, position)
        except RlmError as error:
            log.warning("%s could not be taken over: %s", run_id, error)
        except Exception:  # a bug in one run must not end the others of this process
            log.exception("%s could not be taken over", run_id)
        finally:
            self._room.release()
            ended.set()

    async def _keep_sweeping(self) -> None:
        while True:
            try:
                swept = await run_in_thread(self._sweep.once)
            except RlmError as error:
                log.warning("the runs of processes that died are not looked for: %s", error)
                await anyio.sleep(EXPIRY_SECONDS)  # those who live renew their leases first
            else:
                if swept.runs or swept.attempts:
                    log.warning("handed over %d runs of processes that died, %d jobs anew", swept.runs, swept.attempts)
            await anyio.sleep(SWEEP_SECONDS)

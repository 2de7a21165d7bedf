"""The function of a worker process. The front imports it, and none of what a worker needs."""

from rlm_mcp.server.workers.worker_start import WorkerEnds, WorkerStart


def run(start: WorkerStart, ends: WorkerEnds) -> None:
    """Runs a worker until it ends."""
    from rlm_mcp.server.workers.process import run_worker

    run_worker(start, ends)

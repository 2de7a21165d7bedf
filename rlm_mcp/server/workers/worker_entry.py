"""The functions of processes that the front starts. It imports them, and none of what they need."""

from pathlib import Path

from rlm_mcp.server.workers.worker_start import WorkerEnds, WorkerStart


def run(start: WorkerStart, ends: WorkerEnds) -> None:
    """Runs a worker until it ends."""
    from rlm_mcp.server.workers.process import run_worker

    run_worker(start, ends)


def prepare_lists(cache_dir: Path) -> None:
    """Prepares the answers that need no worker, once after an installation."""
    import asyncio

    from rlm_mcp.server.answer_preparation import prepare_answers
    from rlm_mcp.server.prepared_answers import code_fingerprint, places, save_prepared

    save_prepared(asyncio.run(prepare_answers()), places(cache_dir), code_fingerprint())

"""Registers in child processes that kill themselves at a chosen step, then looks at what each left behind.

Run by test_kill.py as `killed.py DATA_DIR SOURCES KILLS`; a process of its own, because it forks. The steps are lines
of rlm_mcp.contexts: the child traces itself and sends itself SIGKILL before the n-th, so that every stage of a
registration is hit, the same ones on every run.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store import Store

CONTEXTS = str(Path(sys.modules["rlm_mcp.contexts.store"].__file__ or "").parent)


def register_everything(data_dir: Path, sources: Path) -> None:
    with Store(data_dir) as store:
        store.register_source(str(sources))
        store.register_source(str(sources / "big.log"))
        store.register_text("some text", name="note")
        (sources / "big.log").write_bytes((sources / "big.log").read_bytes() + b"x")
        store.register_source(str(sources / "big.log"))
        store.remove("note")
        store.gc(keep=[])


def in_child(data_dir: Path, sources: Path, kill_at: int | None) -> int:
    """Do it in a child that dies before step `kill_at`; give the number of steps of one that lives."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            steps = pipe.read()
        os.waitpid(child, 0)
        return int(steps or 0)
    steps_done = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps_done
        if not frame.f_code.co_filename.startswith(CONTEXTS):
            return None
        steps_done += event == "line"
        if steps_done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    register_everything(data_dir, sources)
    sys.settrace(None)
    os.write(writer, str(steps_done).encode())
    os._exit(0)


def check(data_dir: Path) -> None:
    """Open the store as the next process would: every context is whole, nothing else is there."""
    with Store(data_dir) as store:
        contexts = store.list(limit=100).contexts
        for context in contexts:
            entries = store.files(context)
            assert sum(entry.bytes for entry in entries) == context.bytes
            for entry in entries:
                assert len(store.text(context, entry.path)) == entry.chars
                assert store.line_index(context, entry.path).counts.lines == entry.lines
            assert search(store, context, "line|text", max_matches=1).total > 0
        freed = store.gc()
        assert (freed.blobs, freed.bytes) == (0, 0), freed
    left = [path.name for path in (data_dir / "contexts" / "incoming").glob("*/*")]
    assert not left, left
    assert not list((data_dir / "contexts" / "holders").iterdir())


def main() -> None:
    data_dir, sources, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    steps = in_child(data_dir / "counted", sources, None)
    for kill in range(kills):
        in_child(data_dir / "killed", sources, 1 + steps * kill // kills)
        check(data_dir / "killed")
    sys.stdout.write(f"{kills} kills over {steps} steps\n")


if __name__ == "__main__":
    main()

"""Registers in child processes that kill themselves at a chosen step, then looks at what each left behind.

Run by test_kill.py as `killed.py DATA_DIR SOURCES KILLS`; a process of its own, because it forks. The child
traces itself and sends itself SIGKILL before one of the lines of rlm_mcp.contexts that it would run, the last time it
would: so that every stage is hit, the same ones on every run.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store.store import Store

CONTEXTS = str(Path(sys.modules["rlm_mcp.contexts.store.store"].__file__ or "").parents[1])


def register_everything(data_dir: Path, sources: Path) -> None:
    with Store(data_dir) as store:
        store.register_source(str(sources))
        store.register_source(str(sources / "big.log"))
        store.register_text("some text", name="note")
        (sources / "big.log").write_bytes((sources / "big.log").read_bytes() + b"x")
        store.register_source(str(sources / "big.log"))
        store.remove("note")
        store.gc(keep=[])


def in_child(data_dir: Path, sources: Path, kill_at: int | None) -> list[int]:
    """Registers in a child that dies before step `kill_at`; if it survives, the last step at each line that it ran."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            told = pipe.read()
        os.waitpid(child, 0)
        return sorted(json.loads(told or "[]"))
    steps = 0
    last_step_at: dict[tuple[str, int], int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        if not frame.f_code.co_filename.startswith(CONTEXTS):
            return None
        steps += event == "line"
        last_step_at[frame.f_code.co_filename, frame.f_lineno] = steps
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    register_everything(data_dir, sources)
    sys.settrace(None)
    with os.fdopen(writer, "w") as pipe:
        json.dump(list(last_step_at.values()), pipe)
    os._exit(0)


def check(data_dir: Path) -> None:
    """Opens the store as the next process would, and asserts that every context is whole and nothing else is there."""
    with Store(data_dir) as store:
        store.remove_leftovers()
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
    points = in_child(data_dir / "counted", sources, None)
    for kill in range(kills):
        in_child(data_dir / "killed", sources, points[len(points) * kill // kills])
        check(data_dir / "killed")
    sys.stdout.write(f"{kills} kills at {len(points)} lines of {points[-1]} steps\n")


if __name__ == "__main__":
    main()

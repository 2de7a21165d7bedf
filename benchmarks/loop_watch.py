"""Runs rlm-mcp and watches its event loop: `python -m benchmarks.loop_watch REPORT serve --http 127.0.0.1:8765 …`.

A thread asks the loop for a sign of life every 5 ms. When none comes for 20 ms it notes what the main thread was doing
(and, where that waits for the interpreter, what the other threads were). REPORT gets the sums when the server ends.
"""

import asyncio
import atexit
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

from rlm_mcp.cli import main as rlm_mcp

EVERY_SECONDS, TOO_LONG_SECONDS = 0.005, 0.020
SHOWN = 25


class Watch:
    """What held the loop, and for how long."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._lags: list[float] = []
        self._held: Counter[str] = Counter()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        threading.Thread(target=self._watch, args=(loop,), daemon=True).start()
        atexit.register(self.tell)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            time.sleep(EVERY_SECONDS)
            alive = threading.Event()
            asked = time.perf_counter()
            try:
                loop.call_soon_threadsafe(alive.set)
            except RuntimeError:  # the loop is closed
                self.tell()
                return
            if not alive.wait(TOO_LONG_SECONDS):
                place = _place()
                alive.wait(5)
                self._held[place] += round((time.perf_counter() - asked) * 1000)
            self._lags.append(time.perf_counter() - asked)
            if len(self._lags) % 1_000 == 0:
                self.tell()

    def tell(self) -> None:
        lags = sorted(self._lags) or [0.0]
        p50, p99, longest = (1000 * lags[place] for place in (len(lags) // 2, len(lags) * 99 // 100, -1))
        lines = [f"loop asked {len(lags)} times: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.0f} ms"]
        lines += [f"{held:6d} ms in all held by {place}" for place, held in self._held.most_common(SHOWN)]
        self._report.write_text("\n".join(lines) + "\n")


def _place() -> str:
    frames = sys._current_frames()  # noqa: SLF001 # documented, and the only way
    main = threading.main_thread().ident
    assert main is not None
    shown = _told(frames[main])
    if "select" in shown.split(" < ", maxsplit=1)[0]:
        others = [_told(frame) for ident, frame in frames.items() if ident not in {main, threading.get_ident()}]
        return "other threads: " + " | ".join(sorted(o for o in others if "wait" not in o.split(" < ", maxsplit=1)[0]))
    return shown


def _told(frame: FrameType) -> str:
    """The innermost frames, and the innermost of ours."""
    stack = traceback.extract_stack(frame)[::-1]
    near = [f"{Path(f.filename).name}:{f.lineno}:{f.name}" for f in stack[:4]]
    ours = [f"{Path(f.filename).name}:{f.lineno}:{f.name}" for f in stack[4:] if "rlm_mcp" in f.filename][:2]
    return " < ".join([*near, *ours])


def main() -> None:
    watch = Watch(Path(sys.argv[1]))
    sys.argv = ["rlm-mcp", *sys.argv[2:]]

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            loop = super().new_event_loop()
            if threading.current_thread() is threading.main_thread():
                watch.begin(loop)
            return loop

    asyncio.set_event_loop_policy(Policy())
    sys.exit(rlm_mcp())


if __name__ == "__main__":
    main()

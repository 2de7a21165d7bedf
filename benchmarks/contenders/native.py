"""Driver for the system's Python without a sandbox, the reference for speed. Runs under that Python itself."""

import subprocess
import sys

from benchmarks.contenders.measuring import drive, often, sample, tell, text_file, workload_source


def fresh() -> None:
    start = lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)  # noqa: E731 - sampled by name
    tell(fresh=sample(start, repeats=often(20, quick=5)))


def text() -> None:
    tell(text_seconds=sample(lambda: text_file().read_text(encoding="utf-8"), repeats=3))


def cpu() -> None:
    exec(workload_source(), {"__name__": "__main__"})  # noqa: S102 - our own file, as the sandboxes run it


if __name__ == "__main__":
    drive({"fresh": fresh, "text": text, "cpu": cpu})

"""Ten typical operations of model-written code on a long text, each timed.

This file runs unchanged in every Python that is compared, by path or as text passed to a sandbox. It prints one JSON
object, {"cpu:<workload>": [seconds, …]}. `SIZE` (bytes of text) and `ROUNDS` may be set before it runs.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable

SIZE = globals().get("SIZE", 10_000_000)
ROUNDS = globals().get("ROUNDS", 3)

_WORDS = (
    *("error", "warning", "user", "request", "timeout", "from", "the", "gateway"),
    *("of", "service", "alpha", "beta", "retry", "ok", "failed", "cache"),
)


def make_text(size: int) -> str:
    """A log of about `size` characters, the same in every run and every Python."""
    lines, length, state = [], 0, 12345
    while length < size:
        state = (state * 1103515245 + 12345) % 2147483648
        words = " ".join(_WORDS[(state >> shift) % len(_WORDS)] for shift in (3, 7, 11, 15, 19))
        line = f"2026-01-{state % 28 + 1:02} {words} id={state} ip=10.{state % 251}.{state % 241}.{state % 239}"
        lines.append(line)
        length += len(line) + 1
    return "\n".join(lines)


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def add_up(n: int) -> int:
    total = 0
    for i in range(n):
        total += i & 7
    return total


def workloads(size: int) -> dict[str, Callable[[], object]]:
    text = make_text(size)
    lines = text.splitlines()
    records = json.dumps([{"id": n, "line": line, "tags": line.split()[1:4]} for n, line in enumerate(lines[::2])])
    words = text.split()
    return {
        "regex find": lambda: len(re.findall(r"ip=(\d+)\.(\d+)\.\d+\.\d+", text)),
        "regex filter": lambda: sum(1 for line in lines if re.search(r"error.*(timeout|retry)", line)),
        "split and count": lambda: (len(text.split()), text.count("error"), text.count("\n")),
        "Counter": lambda: Counter(words).most_common(10),
        "json.loads": lambda: len(json.loads(records)),
        "sort": lambda: (sorted(lines, key=len)[len(lines) // 2], sorted(words)[len(words) // 2]),
        "filter lines": lambda: len(
            [line.upper() for line in lines if "error" in line and not line.startswith("2026-01-01")]
        ),
        "slices": lambda: sum(len(text[at : at + 2000].strip()) for at in range(0, len(text), 100)),
        "fib": lambda: fib(26),
        "loop": lambda: add_up(size // 3),
    }


def main() -> None:
    times = {}
    for name, work in workloads(SIZE).items():
        rounds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            work()
            rounds.append(time.perf_counter() - started)
        times[f"cpu:{name}"] = rounds
    print(json.dumps(times))


if __name__ == "__main__":
    main()

"""Cells that run while the image is baked, so that sessions start with a warm interpreter.

The first runs of code write all over the heap: specialised bytecode, version tags of types, attribute caches, blocks
that are allocated and freed. Done in the image, these writes are shared. Done in a session, each one is a page to fault
in, to save before every cell and to copy for every fork (200 pages for `x = 1`, 50 after the warm-up).
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from wasm_runtime.channel import Channel

# Trivial cells come first, because every session would repeat their writes. Then come the constructs and modules that
# models' code uses. Some cells raise, because reporting an exception runs code too.
TRIVIAL = ("1 + 1", "x = 1")
CELLS = (
    *TRIVIAL,
    "print('hello', x)",
    "def double(n):\n    return n * 2\ndouble(3)",
    (
        "import re, json\nfrom collections import Counter, defaultdict\nlines = ['error: 12 items', 'ok 3'] * 3\n"
        "Counter(re.findall(r'\\d+', ' '.join(lines))).most_common(3)"
    ),
    "rows = [{'n': n, 's': str(n)} for n in range(5)]\nprint(json.dumps(rows, indent=2))\njson.loads(json.dumps(rows))",
    (
        "for i, line in enumerate(lines):\n    if 'error' in line and re.search(r'(\\w+): (\\d+)', line):\n"
        "        print(f'{i:3d} {line[:5]!r} {i / 3:.2f}')"
    ),
    "sorted(rows, key=lambda row: -row['n'])[:2]",
    "groups = defaultdict(list)\nfor row in rows:\n    groups[row['n'] % 2].append(row['s'])\ndict(groups)",
    "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\nPair(3, 4).b",
    "text = 'a b c ' * 50\nlen(text.split()), text.count('b'), text.find('c'), text[3:10].upper(), text.splitlines()",
    "try:\n    int('z')\nexcept ValueError as error:\n    print(error)",
    "sum(i for i in range(10)), {w: len(w) for w in ('a', 'bb')}, {1, 2} | {3}",
    "while x < 3:\n    x += 1",
    "1 / 0",
    "undefined_name",
    "syntax error here",
)

# The last cell removes what the others defined, and what they left in caches and free lists.
_CLEAN = """
import gc, linecache, re
linecache.clearcache()
re.purge()
for name in [name for name in globals() if not name.startswith("__")]:
    del globals()[name]
del name
__import__("gc").collect()
"""
_ROUNDS = 3  # enough for CPython to specialise what it runs
_TRIVIAL_RUNS = 20


def run_everything(channel: Channel, serve: Callable[[], object]) -> None:
    """Run all cells, and leave `__main__` empty. `serve` has the guest ask `channel` for the next cell."""
    _run(channel, serve, [*CELLS * _ROUNDS, _CLEAN])


def run_trivial(channel: Channel, serve: Callable[[], object]) -> None:
    """Run trivial cells until they allocate and free the same blocks each time."""
    _run(channel, serve, [*TRIVIAL * (_TRIVIAL_RUNS // len(TRIVIAL)), "del x"])


def _run(channel: Channel, serve: Callable[[], object], cells: Iterable[str]) -> None:
    for number, code in enumerate(cells, start=1):
        channel.set_request({"kind": "cell", "code": code, "name": f"<cell {number}>"})
        serve()
        if channel.report is None:
            raise RuntimeError(f"a cell that runs while the image is baked did not end: {code}")


def channel() -> Channel:
    """Return the device `/dev/host` for the bake, without host functions."""
    return Channel({}, _no_executor)


def _no_executor() -> Executor:
    raise RuntimeError("a channel without functions needs no threads")

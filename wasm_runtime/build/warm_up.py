"""Cells that run while the image is baked, so that no session is the first to run anything.

The first runs of code leave marks all over the heap: specialised bytecode, version tags of types, attribute
caches, blocks taken from pools and given back. Made in the image they are shared; made in a session each is a
page of its own to fault in, to save before every cell and to copy for every fork (200 pages for `x = 1`, now 50).
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from wasm_runtime.channel import Channel

# Trivial ones first: the mark they leave is what every session would repeat. Then the constructs and the modules
# that models' code is made of. Some raise, because telling of an exception is code too.
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

# A last cell: forget what the others defined, and what they left in caches and free lists.
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
_SETTLING = 20


def run_everything(channel: Channel, serve: Callable[[], object]) -> None:
    """Run all cells, and leave `__main__` empty. `serve` makes the guest ask `channel` for the next cell."""
    _run(channel, serve, [*CELLS * _ROUNDS, _CLEAN])


def settle(channel: Channel, serve: Callable[[], object]) -> None:
    """Run trivial cells, so that the blocks they take and give back are those that the next one will take."""
    _run(channel, serve, [*TRIVIAL * (_SETTLING // len(TRIVIAL)), "del x"])


def _run(channel: Channel, serve: Callable[[], object], cells: Iterable[str]) -> None:
    for number, code in enumerate(cells, start=1):
        channel.set_request({"kind": "cell", "code": code, "name": f"<cell {number}>"})
        serve()
        if channel.report is None:
            raise RuntimeError(f"a cell that runs while the image is baked did not end: {code}")


def channel() -> Channel:
    """Return what stands behind `/dev/host` while the image is baked: it has no functions to call."""
    return Channel({}, _no_executor)


def _no_executor() -> Executor:
    raise RuntimeError("a channel without functions needs no threads")

"""How late cells end: `python -m benchmarks.deadlines [NAME …] [--random 200] [--seed 0] [--image FOLDER]`.

Runs each cell of hostile_cells.txt whose name holds a NAME, and random ones, in a session of its own with a deadline of
SECONDS. A random cell applies an operation to sixty levels of objects, each of which holds the level below twice: C
code that recurses over them makes 2^60 calls. Prints the cells that end latest after their deadline, with the time that
undoing takes; the exit status is 1 if one is more than MOST_LATE seconds late. Other load makes cells late, too.
"""

import argparse
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import CACHE_DIR
from wasm_runtime import Limits, Runtime

SECONDS, MOST_LATE = 0.3, 0.5
SHOWN = 10

CONTAINERS = (
    *("slice(d, d, d)", "(d, d)", "[d, d]", "{1: d, 2: d}", "frozenset([(d, 1), (d, 2)])", "range(5)[::1] and (d, d)"),
    *("functools.partial(int, d, d)", "list[d, d]", "types.SimpleNamespace(a=d, b=d)", "ValueError(d, d)"),
    *("collections.deque([d, d])", "types.MappingProxyType({1: d, 2: d})", "types.CellType((d, d))", "Pair(d, d)"),
    *("collections.OrderedDict({1: d, 2: d})", "collections.ChainMap({1: d}, {1: d})", "itertools.chain([d], [d])"),
    *("types.MethodType(Pair, d)", "weakref.ref(Pair) and Named(d, d)", "ExceptionGroup('', [error(d), error(d)])"),
)
OPERATIONS = (
    *("hash(d)", "d == e", "d < e", "repr(d)", "str(d)", "d | e", "d in [e]", "bool(d)", "sorted([d, e])", "max(d, e)"),
    *(
        "copy.deepcopy(d)",
        "copy.copy(d)",
        "pickle.dumps(d)",
        "json.dumps(d)",
        "marshal.dumps(d)",
        "marshal.dumps(d, 2)",
    ),
    *("isinstance(1, d)", "issubclass(int, d)", "format(d)", "f'{d!r}'", "d.__reduce_ex__(4)", "{d: 1} == {e: 1}"),
    *("pprint.pformat(d)", "reprlib.repr(d)", "collections.Counter([d, e])", "set([d]) - set([e])", "print(d)", "d"),
    *(
        "raise error(d)",
        "[d].index(e)",
        "'a'.startswith(d)",
        "operator.eq(d, e)",
        "dis.dis(d)",
        "ast.literal_eval(repr(d))",
    ),
)
PREPARE = """
import ast, collections, copy, dataclasses, dis, functools, itertools, json, marshal, operator, pickle, pprint
import reprlib, types, weakref
Pair = dataclasses.make_dataclass("Pair", ["a", "b"], frozen=True)
Named = collections.namedtuple("Named", "a b")
def error(cause): return cause if isinstance(cause, BaseException) else ValueError(cause)
def build():
    d = 1
    for level in range(60):
        try: d = CONTAINERS[level % len(CONTAINERS)](d)
        except TypeError: d = (d, d)
    return d
d, e = build(), build()
"""


def cells_of_file() -> Iterator[tuple[str, str]]:
    """Names and codes of the cells that are kept."""
    text = Path(__file__).with_name("hostile_cells.txt").read_text("utf-8")
    for part in re.split(r"^# --- ", text, flags=re.MULTILINE)[1:]:
        name, _, code = part.partition("\n")
        yield name, code.strip()


def random_cells(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Names and codes of generated cells."""
    chance = random.Random(seed)
    for _ in range(count):
        chosen = chance.sample(CONTAINERS, chance.randint(1, 3))
        operation = chance.choice(OPERATIONS)
        containers = ", ".join(f"lambda d: {one}" for one in chosen)
        yield f"{operation} of {' and '.join(chosen)}", f"CONTAINERS = [{containers}]\n{PREPARE}\n{operation}"


def seconds_late(runtime: Runtime, code: str) -> float:
    """How long after its deadline a cell ends; negative if it ends before."""
    with runtime.session(limits=Limits(), calls={"echo": lambda value: value}) as session:
        session.exec("1")
        began = time.perf_counter()
        session.exec(code, seconds=SECONDS)
        return time.perf_counter() - began - SECONDS


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--random", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image", type=Path)
    options = parser.parse_args()
    chosen = [
        (name, code) for name, code in cells_of_file() if not options.names or any(n in name for n in options.names)
    ]
    late: list[tuple[float, str]] = []
    with Runtime(CACHE_DIR, image=options.image) as runtime:
        for name, code in (*chosen, *random_cells(options.random, options.seed)):
            late.append((seconds_late(runtime, code), name))
            if late[-1][0] > MOST_LATE:
                print(f"{late[-1][0]:6.2f} s late: {name}", flush=True)
    print(f"{len(late)} cells; the latest, after their deadline of {SECONDS} s:")
    for seconds, name in sorted(late, reverse=True)[:SHOWN]:
        print(f"{seconds:6.2f} s {name}")
    return int(max(late)[0] > MOST_LATE)


if __name__ == "__main__":
    sys.exit(main())

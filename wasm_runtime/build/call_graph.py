"""Which functions need a check at their entry, so that no recursion of a module runs for ever without one.

Recursion that passes no loop need not be deep to be endless: hashing a slice of slices, sixty levels of them, calls
`slicehash` 3^60 times. So every cycle of the call graph gets a check:

    1. an indirect call may reach every function of its type in the table: each such function that lies on a cycle
       is checked, which cuts all cycles through indirect calls;
    2. of the cycles of direct calls that are left, a function with many calls in and out is checked, until none is
       left (a feedback vertex set, chosen greedily: the smallest one is NP-hard to find).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from wasm_runtime.build.leb import read_uleb
from wasm_runtime.build.module_parts import element_segments, types_of_functions
from wasm_runtime.build.opcodes import instructions
from wasm_runtime.build.wasm_file import FUNC_KIND, WasmFile

_REF_FUNC = 0xD2
_NAMES_A_FUNCTION = frozenset({0x10, 0x12, _REF_FUNC})  # call, return_call
_NAMES_A_TYPE = frozenset({0x11, 0x13, 0x14, 0x15})  # call_indirect, call_ref, and both as return_call

Graph = Mapping[int, Collection[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The callees of one function: defined functions by index, and types of functions in the table."""

    direct: frozenset[int]
    types: frozenset[int]


def entries_to_check(module: WasmFile) -> frozenset[int]:
    """Indices, among the defined functions, of those that together lie on every cycle of calls."""
    calls, in_table = _calls_and_table(module)
    types = types_of_functions(module)
    by_type: dict[int, list[int]] = {}
    for function in sorted(in_table):
        by_type.setdefault(types[function], []).append(function)
    # A node for each type, so that an indirect call is one edge rather than one for each function of its type.
    node_of = {kind: len(calls) + number for number, kind in enumerate(sorted(by_type))}
    graph = {
        index: sorted(one.direct) + [node_of[kind] for kind in sorted(one.types & node_of.keys())]
        for index, one in enumerate(calls)
    } | {node_of[kind]: functions for kind, functions in by_type.items()}
    reached_indirectly = {node for cycle in cycles(graph) for node in cycle if node in in_table}
    direct = {index: sorted(one.direct - reached_indirectly) for index, one in enumerate(calls)}
    for function in reached_indirectly:
        direct[function] = []
    return frozenset(reached_indirectly | feedback_vertices(direct))


def feedback_vertices(graph: Graph) -> set[int]:
    """Nodes without which `graph` has no cycle."""
    chosen: set[int] = set()
    left = cycles(graph)
    while left:
        nodes = set(left.pop())
        inside = {node: [target for target in graph[node] if target in nodes] for node in sorted(nodes)}
        into = dict.fromkeys(inside, 0)
        for targets in inside.values():
            for target in targets:
                into[target] += 1
        cut = max(inside, key=lambda node: into[node] * len(inside[node]))
        chosen.add(cut)
        rest = {node: [t for t in targets if t != cut] for node, targets in inside.items() if node != cut}
        left += cycles(rest)
    return chosen


def cycles(graph: Graph) -> list[list[int]]:
    """The strongly connected parts of `graph` that hold a cycle (Tarjan 1972, without recursion)."""
    order: dict[int, int] = {}
    lowest: dict[int, int] = {}
    open_nodes: list[int] = []
    is_open: set[int] = set()
    found: list[list[int]] = []
    for root in graph:
        if root in order:
            continue
        path = [_entered(root, graph, order, lowest, open_nodes, is_open)]
        while path:
            node, targets = path[-1]
            for target in targets:
                if target not in order:
                    path.append(_entered(target, graph, order, lowest, open_nodes, is_open))
                    break
                if target in is_open:
                    lowest[node] = min(lowest[node], order[target])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    part = _closed(node, open_nodes, is_open)
                    if len(part) > 1 or node in graph[node]:
                        found.append(part)
    return found


def _entered(
    node: int,
    graph: Graph,
    order: dict[int, int],
    lowest: dict[int, int],
    open_nodes: list[int],
    is_open: set[int],
) -> tuple[int, Iterable[int]]:
    order[node] = lowest[node] = len(order)
    open_nodes.append(node)
    is_open.add(node)
    return node, iter(graph[node])


def _closed(node: int, open_nodes: list[int], is_open: set[int]) -> list[int]:
    """The part that ends with `node`, taken off the stack."""
    part: list[int] = []
    while not part or part[-1] != node:
        part.append(open_nodes.pop())
    is_open.difference_update(part)
    return part


def _calls_and_table(module: WasmFile) -> tuple[list[Calls], set[int]]:
    """The callees of each defined function, and which of them an indirect call may reach."""
    imported = sum(entry.kind == FUNC_KIND for entry in module.imports())
    in_table = (number for segment in element_segments(module, _no_global) for number in segment.functions)
    reachable = {number - imported for number in in_table if number >= imported}
    calls = []
    for body in module.function_bodies():
        direct: set[int] = set()
        types: set[int] = set()
        for opcode, start in instructions(body, _NAMES_A_FUNCTION | _NAMES_A_TYPE):
            number, _ = read_uleb(body, start)
            if opcode in _NAMES_A_TYPE:
                types.add(number)
            elif number >= imported:
                (reachable if opcode == _REF_FUNC else direct).add(number - imported)
        calls.append(Calls(direct=frozenset(direct), types=frozenset(types)))
    return calls, reachable


def _no_global(number: int) -> int:
    raise ValueError(f"an element segment lies at global {number}, where the build expects a constant")

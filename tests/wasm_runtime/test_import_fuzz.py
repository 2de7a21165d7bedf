"""Every host import, called with any pointer, length, descriptor and flag, in any order.

No call may raise or record an exception, every result must fit its wasm type, and no byte before or after the guest's
memory may change.
"""

import ctypes
import inspect
import os
import struct
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache

import pytest
import wasmtime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasm_runtime import linking
from wasm_runtime.capture import Capture
from wasm_runtime.channel import Channel
from wasm_runtime.compile_cache import compiled_module, load_image
from wasm_runtime.imports.guest import Guest
from wasm_runtime.machine.engine import make_engine
from wasm_runtime.machine.memory import GuestMemory
from wasm_runtime.vfs.devices import Device, NullDevice
from wasm_runtime.vfs.filesystem import Vfs
from wasm_runtime.vfs.quota import FixedQuota

MEMORY_BYTES = 1 << 18
FENCE = b"\xa5" * (1 << 16)

# Addresses of the guest's texts and tables.
PATHS = [
    *[b"/tmp/a", b"/tmp/d/b", b"/tmp/d", b"/tmp/link", b"/tmp", b"../tmp/a/", b"/", b".", b"..", b"", b"x" * 300],
    *[b"/dev/host", b"/dev/stdout", b"/dev/zero", b"/dev/urandom", b"/context/notes", b"\xff\xfe"],
]
PATH_AT = {number * 512 + 4096: path for number, path in enumerate(PATHS)}
TABLE_AT = 65536
OPEN = [(b"/dev/host", os.O_RDWR), (b"/tmp/a", os.O_RDWR | os.O_CREAT), (b"/tmp", 0), (b"/context/notes", 0)]

POINTERS = [
    *PATH_AT,
    TABLE_AT,
    TABLE_AT + 8,
    0,
    1,
    64,
    128,
    MEMORY_BYTES - 97,
    MEMORY_BYTES - 1,
    MEMORY_BYTES,
    MEMORY_BYTES + 1,
]
EXTREMES = [-1, -100, 0x7FFFFFFF, -0x80000000, 0x7FFFF000, 4096, 280, 1024, 1025]
FLAGS = [0, 1, 2, 0o100, 0o102, 0o1102, 0o200000, 0o2000, 0o100 | 0o200, 0x100, 0x200, 0x1000, 1030]

i32 = st.one_of(
    st.sampled_from(POINTERS),
    st.sampled_from(EXTREMES),
    st.sampled_from(FLAGS),
    st.integers(-2, 12),
    st.integers(-(1 << 31), (1 << 31) - 1),
)
i64 = st.one_of(
    i32,
    st.sampled_from([(1 << 63) - 1, -(1 << 63), 1 << 40, (1 << 40) - 1, (1 << 40) + 1, 1 << 32, 1 << 62]),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
f64 = st.floats()
OF_TYPE: dict[str, st.SearchStrategy[int] | st.SearchStrategy[float]] = {"i32": i32, "i64": i64, "f64": f64}

# Meaningful arguments, by the name of the parameter: half of all arguments are taken from here.
path = st.sampled_from(sorted(PATH_AT))
fd = st.integers(0, 7)
size = st.sampled_from([0, 1, 100, 4096, 65537, 1 << 30, (1 << 40) - 1, 1 << 40, 1 << 62])
place = st.sampled_from([TABLE_AT + 4096, TABLE_AT, MEMORY_BYTES - 96])
SENSIBLE = {
    **dict.fromkeys(["path", "old", "new", "target"], path),
    **dict.fromkeys(["fd", "new_fd"], fd),
    **dict.fromkeys(["dirfd", "old_dirfd", "new_dirfd"], st.one_of(st.just(-100), fd)),
    **dict.fromkeys(["size", "offset", "length", "seconds"], size),
    **dict.fromkeys(["result", "buffer", "done", "address"], place),
    **dict.fromkeys(["iovs", "times", "variadic"], st.just(TABLE_AT)),
    "flags": st.sampled_from(FLAGS),
}

tables = st.lists(
    st.tuples(st.one_of(i32, st.integers(0, MEMORY_BYTES)), st.one_of(i32, st.integers(0, 5000))), max_size=8
).map(lambda rows: b"".join(struct.pack("<II", a & 0xFFFFFFFF, n & 0xFFFFFFFF) for a, n in rows))


@pytest.fixture(scope="module")
def signatures() -> dict[str, wasmtime.FuncType]:
    module = compiled_module(make_engine(), load_image(), None, lambda _: None)
    return {str(entry.name): entry.type for entry in module.imports if isinstance(entry.type, wasmtime.FuncType)}


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class FencedGuest:
    """A guest of 256 KiB with marked bytes on both sides."""

    def __init__(self, threads: Executor) -> None:
        self._block = (ctypes.c_ubyte * (MEMORY_BYTES + 2 * len(FENCE)))()
        self._whole = memoryview(self._block).cast("B")
        self._whole[: len(FENCE)] = self._whole[-len(FENCE) :] = FENCE
        memory = GuestMemory(ctypes.addressof(self._block) + len(FENCE), MEMORY_BYTES)
        channel = Channel({"echo": lambda value: value}, lambda: threads)
        devices: dict[str, Device] = {
            "/dev/stdin": NullDevice(),
            "/dev/stdout": Capture(1024),
            "/dev/stderr": Capture(1024),
            "/dev/host": channel,
        }
        vfs = Vfs(clock=lambda: 10**18, quota=FixedQuota(1 << 20), devices=devices, node_limit=50)
        vfs.mount("/context/notes", b"some notes")
        self.guest = Guest(memory=memory, vfs=vfs, grow=lambda _: False, random=bytes)
        for address, text in PATH_AT.items():
            memory.view(address, len(text) + 1)[:] = text + b"\0"
        assert [vfs.openat(-100, p, f, 0o666) for p, f in OPEN] == [3, 4, 5, 6]

    def put(self, table: bytes) -> None:
        self.guest.memory.view(TABLE_AT, len(table))[:] = table

    def fences_stand(self) -> bool:
        # Comparing bytes takes a hundredth of the time of comparing a memoryview.
        return bytes(self._whole[: len(FENCE)]) == FENCE and bytes(self._whole[-len(FENCE) :]) == FENCE


FUNCTIONS = {name: (f, p.ERRNO_SIGN) for p in linking.PROVIDERS for name, f in p.FUNCTIONS.items()}


def fits(result: object, signature: wasmtime.FuncType) -> bool:
    match [str(kind) for kind in signature.results]:
        case []:
            return result is None
        case ["f64"]:
            return isinstance(result, float)
        case ["i32"]:
            return isinstance(result, int) and -(1 << 31) <= result < 1 << 31
        case _:
            return isinstance(result, int) and -(1 << 63) <= result < 1 << 63


def arguments(name: str, signature: wasmtime.FuncType) -> st.SearchStrategy[tuple[object, ...]]:
    return arguments_of_types(name, tuple(str(kind) for kind in signature.params))


@cache
def arguments_of_types(name: str, kinds: tuple[str, ...]) -> st.SearchStrategy[tuple[object, ...]]:
    """Made once for each import: it takes longer than to draw from it."""
    names = list(inspect.signature(FUNCTIONS[name][0]).parameters)[1:]
    wild = [OF_TYPE[kind] for kind in kinds]
    bounded = [
        SENSIBLE[n].filter(lambda v: v < 1 << 31) if n in SENSIBLE and kind == "i32" else SENSIBLE.get(n, w)
        for n, w, kind in zip(names, wild, kinds, strict=True)
    ]
    return st.tuples(*[st.one_of(b, w) for b, w in zip(bounded, wild, strict=True)])


def check_call(fenced: FencedGuest, name: str, signature: wasmtime.FuncType, args: tuple[object, ...]) -> None:
    function, sign = FUNCTIONS[name]
    with linking.active_guest(fenced.guest):
        result = linking.guard(function, signature, sign)(*args)
    assert fenced.guest.failure is None, f"{name}{args}"
    assert fits(result, signature), f"{name}{args} gave {result!r}"
    assert fenced.fences_stand(), f"{name}{args}"


def test_every_import_of_the_image_is_fuzzed(signatures: dict[str, wasmtime.FuncType]) -> None:
    assert set(signatures) <= set(FUNCTIONS)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_sequence_of_calls_with_any_arguments_raises_nothing_and_stays_inside_memory(
    signatures: dict[str, wasmtime.FuncType], threads: Executor, data: st.DataObject
) -> None:
    fenced = FencedGuest(threads)
    fenced.put(data.draw(tables, "table"))
    for name in data.draw(st.lists(st.sampled_from(sorted(signatures)), min_size=1, max_size=10), "calls"):
        check_call(fenced, name, signatures[name], data.draw(arguments(name, signatures[name]), name))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_each_import_survives_the_same_extreme_in_every_argument(
    signatures: dict[str, wasmtime.FuncType], threads: Executor, name: str
) -> None:
    signature = signatures.get(name)
    if signature is None:
        pytest.skip(f"the image has no use for {name}, only the interpreter that it was made from")
    for extreme in [*POINTERS, *EXTREMES, *FLAGS]:
        fenced = FencedGuest(threads)
        check_call(
            fenced, name, signature, tuple(float(extreme) if str(k) == "f64" else extreme for k in signature.params)
        )


LARGEST = (1 << 63) - 1


@pytest.mark.parametrize(
    "calls",
    [
        [
            ("__syscall_ftruncate64", (4, 1 << 40)),
            ("__syscall_fstat64", (4, TABLE_AT)),
            ("fd_seek", (4, 0, 2, TABLE_AT)),
        ],
        [("__syscall_utimensat", (-100, 4096, TABLE_AT, 0)), ("__syscall_stat64", (4096, TABLE_AT))],
        [("_gmtime_js", (1 << 55, TABLE_AT))],
        [("_gmtime_js", (67768036191676799, TABLE_AT))],
        [("_mktime_js", (TABLE_AT,))],
        [("fd_pwrite", (4, TABLE_AT, 1, LARGEST, TABLE_AT)), ("fd_pread", (4, TABLE_AT, 1, LARGEST, TABLE_AT))],
        [
            ("fd_seek", (4, LARGEST, 0, TABLE_AT)),
            ("fd_seek", (4, LARGEST, 1, TABLE_AT)),
            ("fd_write", (4, TABLE_AT, 1, 0)),
        ],
        [("__syscall_getdents64", (5, TABLE_AT, -1))],
        [("random_get", (0, MEMORY_BYTES)), ("random_get", (0, -1))],
    ],
)
@pytest.mark.parametrize(
    "table",
    [b"\xff" * 64, struct.pack("<qII", LARGEST, 0x7FFFFFFF, 0) * 4, struct.pack("<II", TABLE_AT, 64) * 8],
    ids=["all ones", "last second", "buffers"],
)
def test_calls_at_the_ends_of_their_ranges_raise_nothing(
    signatures: dict[str, wasmtime.FuncType],
    threads: Executor,
    calls: list[tuple[str, tuple[int, ...]]],
    table: bytes,
) -> None:
    fenced = FencedGuest(threads)
    fenced.put(table)
    for name, args in calls:
        check_call(fenced, name, signatures[name], args)

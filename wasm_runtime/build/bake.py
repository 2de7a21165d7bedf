"""Turns a booted interpreter into a module that contains it.

    assembled.wasm ─ boot, import, record addresses ─> memory and globals ─ replace the data segments, strip exports,
    remove unreferenced elements ─> baked.wasm

This is reproducible: clock, randomness and inode numbers are constants while baking, so two bakes give the same bytes.
"""

import functools
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import wasmtime

from wasm_runtime.build import boot, warm_up
from wasm_runtime.build.assemble import Binaryen, trampoline_slot
from wasm_runtime.build.link import LinkedModule
from wasm_runtime.build.wasm_file import WasmFile
from wasm_runtime.capture import Capture
from wasm_runtime.imports.guest import Guest
from wasm_runtime.linking import active_guest, make_linker
from wasm_runtime.machine.engine import make_engine
from wasm_runtime.machine.interpreter import GLOBALS, Interpreter
from wasm_runtime.machine.memory import HOST_PAGE_BYTES, KILL_ADDRESS, WASM_PAGE_BYTES, GuestMemory, MemoryRuns
from wasm_runtime.vfs.devices import Device
from wasm_runtime.vfs.filesystem import Vfs
from wasm_runtime.vfs.quota import FixedQuota
from wasm_runtime.vfs.shared_files import FileList, SharedFiles
from wasm_runtime.vfs.time_zones import zone_files

# 2026-01-01T00:00:00Z: the guest's time while the image is baked.
BAKE_TIME_NS = 1_767_225_600_000_000_000
# Of processor time for one import, which takes a few; one that never ends is trapped, as a cell is.
IMPORT_SECONDS = 120.0
# For all of a bake, also of a package that prints or sleeps for ever.
_MOST_SECONDS = 1200.0
KEPT_EXPORTS = frozenset(
    ["memory", *GLOBALS, "PyObject_CallNoArgs", "PyErr_Clear", "PyGILState_Ensure", "PyGILState_Release"]
)
# The host reads these once the interpreter has started.
_READ_EXPORTS = frozenset(["Py_EMSCRIPTEN_SIGNAL_HANDLING", "emscripten_stack_get_end"])
GUEST_PACKAGE = "/lib/python3.14/host"

# The modules that models' code imports, and those that they import in turn. Each one makes the image larger, and saves
# its import time (datetime 4 ms, asyncio 60 ms) in every session.
PRELOADED = """
    abc argparse array ast asyncio base64 binascii bisect builtins bz2 calendar cmath codecs collections
    collections.abc colorsys concurrent.futures configparser contextlib contextvars copy csv dataclasses datetime
    decimal difflib dis email email.message email.parser email.utils enum errno fileinput fnmatch fractions functools
    gc glob gzip hashlib heapq hmac html html.parser html.entities importlib importlib.util inspect io ipaddress
    itertools json keyword linecache locale logging lzma math mimetypes numbers operator os os.path pathlib pickle
    pkgutil platform posixpath pprint queue quopri random re reprlib sched secrets shlex shutil signal sqlite3
    statistics stat string stringprep struct sys tempfile textwrap threading time timeit token tokenize traceback
    types typing unicodedata unittest urllib urllib.parse uuid warnings weakref xml xml.etree.ElementTree xml.sax
    xml.dom.minidom zipfile zlib zoneinfo
""".split()

_IMPORT = f"""
import importlib
for name in {PRELOADED!r}:
    importlib.import_module(name)
from host import cells
import os
os.write(1, b"%d" % id(cells.serve))
del name, importlib
"""

# Using an object writes its reference count. Objects of the image are made immortal, as CPython's own constants are, so
# that their pages stay shared between sessions.
_LIST_OBJECTS = """
from host import cells, parallel
import array, gc, json, os

def reachable():
    found = {}
    waiting = gc.get_objects()
    own = {id(found), id(waiting)}
    while waiting:
        item = waiting.pop()
        if id(item) not in found and id(item) not in own:
            found[id(item)] = item
            waiting.extend(gc.get_referents(item))
    return found

gc.collect()
found = reachable()  # holds every object until its count is written: a freed one would be part of the heap's books
objects = array.array("I", found)
facts = {
    "serve": id(cells.serve), "worker": id(parallel.worker),
    "stdout": id(cells.stdout.pending), "stderr": id(cells.stderr.pending), "none": id(None),
    "objects": objects.buffer_info(),
}
os.write(1, json.dumps(facts).encode())
"""

# CPython 3.14 scans a part of the old containers for every 2,000 new ones by default: with a list of a million words,
# `re.findall` with 100,000 matches takes eight times as long. So collections wait for this many new objects.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000

# Free blocks between those of the image would be allocated first, and each would be one more page for a session to
# write. They are filled, largest first, until an allocation comes from the unused end of the heap, so that a session's
# own objects lie together. A bytes object contains its bytes, so its address tells where the block is; ints and plain
# objects have the two smallest block sizes.
_FILL_HOLES = f"""
del found, objects, facts, reachable
gc.collect()
end = id(bytes(1 << 18))
fillers = []
for size in [*range(1 << 16, 1 << 10, -1 << 10), *range(1 << 10, 0, -8)]:
    while id(filler := bytes(size)) < end:
        fillers.append(filler)
while id(filler := len(fillers) + 1000) < end:
    fillers.append(filler)
while id(filler := object()) < end:
    fillers.append(filler)
cells.fillers = fillers
del end, fillers, filler, size, cells, parallel, array, json, os
gc.collect(); gc.freeze(); gc.set_threshold({_OBJECTS_BETWEEN_COLLECTIONS}, 10, 0); del gc
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Addresses in guest memory that the host uses. `serve` and `worker` are Python functions."""

    serve: int
    worker: int
    stdout_pending: int
    stderr_pending: int
    signal_handling: int
    stack_low: int  # the C stack grows down to here


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """Packages baked besides the standard library: linked modules, files in /usr, and code that imports them."""

    linked: LinkedModule
    files: FileList
    source: str


def bake(assembled: Path, stdlib_zip: Path, work: Path, binaryen: Binaryen) -> tuple[Path, Addresses]:
    """Make `baked.wasm` in `work`; -> its path and the addresses the host needs."""
    image = WasmFile.load(assembled)
    addresses, _ = _fill(image, make_engine(), stdlib_zip, trampoline_slot(image))
    stripped, baked = work / "stripped.wasm", work / "baked.wasm"
    image.save(stripped)
    binaryen.run("wasm-opt", stripped, "--remove-unused-module-elements", "-o", baked)
    return baked, addresses


def bake_with(
    additions: Additions, stdlib_zip: Path, slot: int, *, import_seconds: float = IMPORT_SECONDS
) -> tuple[Addresses, str]:
    """Make the linked module an image, in place; -> the addresses the host needs, and what `additions.source` printed.

    `slot` is the trampoline's in the table. `import_seconds` of processor time may pass until something is printed.
    Raises BootError with the guest's output.
    """
    return _fill(
        additions.linked.wasm, make_engine(optimize=False), stdlib_zip, slot, additions, import_seconds=import_seconds
    )


def _fill(
    image: WasmFile,
    engine: wasmtime.Engine,
    stdlib_zip: Path,
    slot: int,
    additions: Additions | None = None,
    *,
    import_seconds: float = IMPORT_SECONDS,
) -> tuple[Addresses, str]:
    """Start the module's interpreter, and make its memory and globals those with which the module begins."""
    # The others, of which there are 9,000, take a tenth of the time: each is compiled, and found by going through all.
    _keep_exports(image, KEPT_EXPORTS | boot.EXPORTS | _READ_EXPORTS)
    module = wasmtime.Module(engine, image.to_bytes())
    prelinked = make_linker(engine, module).instantiate_pre(module)
    interpreter = Interpreter(engine, prelinked, memory_bytes=2 << 30)
    addresses, printed = _boot(interpreter, stdlib_zip, slot, additions, import_seconds)
    image.set_active_data(_occupied_runs(interpreter.memory))
    image.set_memory_minimum(interpreter.memory.size // WASM_PAGE_BYTES)
    defined = image.mutable_globals()[: len(GLOBALS)]
    image.set_mutable_i32_globals(dict(zip(defined, interpreter.globals(), strict=True)))
    _keep_exports(image, KEPT_EXPORTS)
    return addresses, printed


def _keep_exports(image: WasmFile, names: frozenset[str]) -> None:
    image.set_exports([entry for entry in image.exports() if entry.name in names])


class SilenceWatch:
    """Decides whether a guest is stuck: whether it has printed nothing for so many seconds of processor time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._printed = -1
        self._since = 0.0

    def is_stuck(self, printed: int, now: float) -> bool:
        """`printed` is how much it has printed so far, `now` the processor time of this process."""
        if printed != self._printed:
            self._printed, self._since = printed, now
        return now - self._since >= self._seconds


@contextmanager
def _trapped_when_stuck(
    trap: Callable[[], object], printed: Callable[[], int], seconds: float, reasons: list[str]
) -> Iterator[None]:
    """Call `trap` if the guest of the body is stuck, and put the reason into `reasons`."""
    silence, ended = SilenceWatch(seconds), threading.Event()
    ends = time.monotonic() + _MOST_SECONDS

    def watch() -> None:
        while not ended.wait(0.5):
            is_over = time.monotonic() >= ends
            if is_over or silence.is_stuck(printed(), time.process_time()):
                taken = f"{_MOST_SECONDS:.0f} s" if is_over else f"{seconds:.0f} s of processor time"
                reasons.append(f"it has not ended after {taken}")
                trap()
                return

    threading.Thread(target=watch, name="bake-watch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _boot(
    interpreter: Interpreter, stdlib_zip: Path, slot: int, additions: Additions | None, import_seconds: float
) -> tuple[Addresses, str]:
    out, err, host = Capture(1 << 20), Capture(1 << 20), warm_up.channel()

    def trap() -> None:
        interpreter.memory.poke(KILL_ADDRESS, 1)
        host.interrupt()  # it may sleep

    devices: dict[str, Device] = {
        "/dev/stdin": Capture(0),
        "/dev/stdout": out,
        "/dev/stderr": err,
        "/dev/host": host,
    }
    vfs = Vfs(
        clock=lambda: BAKE_TIME_NS,
        quota=FixedQuota(1 << 24),
        devices=devices,
        random=_constant_random,
        shared=SharedFiles([zone_files] if additions is None else [zone_files, additions.files]),
    )
    vfs.mount(boot.STDLIB_ZIP, stdlib_zip)
    for file in sorted(files("wasm_runtime").joinpath("guest/host").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".py"):
            vfs.mount(f"{GUEST_PACKAGE}/{file.name}", file.read_bytes())
    guest = Guest(
        memory=interpreter.memory,
        vfs=vfs,
        grow=interpreter.grow,
        clock_ns=lambda: BAKE_TIME_NS,
        monotonic_ns=lambda: 0,
        random=_constant_random,
    )
    stuck: list[str] = []
    with active_guest(guest):
        try:
            boot.start_python(interpreter, slot, None if additions is None else additions.linked)
            boot.run_source(interpreter, _OPEN_HOST)
            boot.run_source(interpreter, _IMPORT)
            serve = functools.partial(interpreter.call, "PyObject_CallNoArgs", int(out.text()))
            out.clear()
            if additions is not None:
                with _trapped_when_stuck(trap, lambda: out.chars, import_seconds, stuck):
                    boot.run_source(interpreter, additions.source)
            printed = out.text()
            warm_up.run_everything(host, serve)
            out.clear()
            boot.run_source(interpreter, _LIST_OBJECTS)
            facts = json.loads(out.text())
            _make_immortal(interpreter.memory, facts)
            boot.run_source(interpreter, _FILL_HOLES)
            warm_up.run_trivial(host, serve)
        except boot.BootError as error:
            text = f"{error}\n{out.text()}{err.text()}"
            raise boot.BootError(text, out.text()) from guest.failure or error
        except wasmtime.Trap as error:
            ended = {"exit": "it ends the process", "abort": "it aborts"}.get(guest.ended or "") or "".join(stuck)
            raise boot.BootError(ended or str(error), out.text()) from guest.failure or error
    addresses = Addresses(
        serve=facts["serve"],
        worker=facts["worker"],
        stdout_pending=_bytearray_buffer(interpreter.memory, facts["stdout"]),
        stderr_pending=_bytearray_buffer(interpreter.memory, facts["stderr"]),
        signal_handling=interpreter.address("Py_EMSCRIPTEN_SIGNAL_HANDLING"),
        stack_low=interpreter.call("emscripten_stack_get_end"),
    )
    return addresses, printed


# The host opens /dev/host as the first file of each session, so it is descriptor 3 there too.
_OPEN_HOST = """
import os
assert os.open("/dev/host", os.O_RDWR) == 3
del os
"""


def _bytearray_buffer(memory: GuestMemory, address: int) -> int:
    """Return the address of a bytearray's bytes: `ob_start`, the sixth word of PyByteArrayObject (wasm32)."""
    return memory.u32(address + 20)


def _make_immortal(memory: GuestMemory, facts: dict[str, Any]) -> None:
    """Give every listed object the reference count of None (`_Py_IMMORTAL_INITIAL_REFCNT`): its first word."""
    start, count = facts["objects"]
    count_of_none = memory.u32(facts["none"])
    for (address,) in struct.iter_unpack("<I", bytes(memory.view(start, 4 * count))):
        memory.write_u32(address, count_of_none)


def _constant_random(n: int) -> bytes:
    return bytes(n)


def _occupied_runs(memory: GuestMemory) -> MemoryRuns:
    """Return the parts of memory that are not zero, in whole 4 KiB pages; parts with small gaps are joined."""
    data = bytes(memory.view(0, memory.size))
    page, gap = HOST_PAGE_BYTES, 64 << 10
    occupied = [at for at in range(0, len(data), page) if data[at : at + page].strip(b"\0")]
    runs: list[list[int]] = []
    for at in occupied:
        if runs and at - runs[-1][1] <= gap:
            runs[-1][1] = at + page
        else:
            runs.append([at, at + page])
    return [(start, data[start:end]) for start, end in runs]

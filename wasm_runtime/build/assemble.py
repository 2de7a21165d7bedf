"""Turns Pyodide's module into one that Wasmtime can run: translated, self-contained, stoppable.

    pyodide.asm.wasm ─ translate ─ merge(stubs, trampoline) ─ trampoline's table slot ─ checks ─> assembled.wasm

Checks: the head of every loop loads one word (KILL_ADDRESS) and traps if it is set, and so does the entry of enough
functions that every cycle of calls passes a check (call_graph.py). The host writes that word from another thread. Code
without loops and recursion ends by itself. Wasmtime's epoch interruption would stop the same programs, but it checks
at every function entry. The load is atomic because Cranelift may merge two plain loads with no store between them, so
nested loops might test the flag only once.
"""

import re
import subprocess
from pathlib import Path

import wasmtime

from wasm_runtime.build import stubs
from wasm_runtime.build.call_graph import entries_to_check
from wasm_runtime.build.leb import read_uleb, sleb, uleb
from wasm_runtime.build.wasm_file import ELEMENT, GLOBAL_KIND, TABLE, Export, Import, WasmFile
from wasm_runtime.machine.memory import KILL_ADDRESS

# Without --disable-compact-imports Binaryen writes an import section that Wasmtime refuses.
_BINARYEN_FLAGS = ["--all-features", "--disable-compact-imports"]
# Node's default stack overflows in Binaryen's optimiser on functions of this size.
_NODE = ["node", "--stack-size=30000"]

# i32.const KILL; i32.atomic.load align=4; if; unreachable; end
CHECK = b"\x41" + sleb(KILL_ADDRESS) + b"\xfe\x10\x02\x00" + b"\x04\x40\x00\x0b"


class Binaryen:
    """The command line tools of the npm package `binaryen`, unpacked at `package`."""

    def __init__(self, package: Path) -> None:
        self.package = package

    def run(self, tool: str, *arguments: str | Path) -> None:
        """Run one tool; subprocess.CalledProcessError with its output when it fails."""
        subprocess.run([*_NODE, self.package / "bin" / tool, *map(str, arguments), *_BINARYEN_FLAGS], check=True)


def assemble(pyodide: Path, work: Path, binaryen: Binaryen) -> Path:
    """Make `assembled.wasm` in `work` from the unpacked npm package `pyodide`; -> its path."""
    translated, merged, assembled = work / "translated.wasm", work / "merged.wasm", work / "assembled.wasm"
    binaryen.run("wasm-opt", pyodide / "pyodide.asm.wasm", "--translate-to-exnref", "-o", translated)
    parts = _parts_to_merge(translated, (pyodide / "pyodide.asm.mjs").read_text(), work)
    named = [word for name, path in parts for word in (path, name)]
    binaryen.run("wasm-merge", *named, "--skip-export-conflicts", "-o", merged)
    module = WasmFile.load(merged)
    _give_trampoline_a_table_slot(module)
    module.insert_checks(CHECK, entries=entries_to_check(module))
    _export_mutable_globals(module)
    module.save(assembled)
    return assembled


def _parts_to_merge(translated: Path, javascript: str, work: Path) -> list[tuple[str, Path]]:
    main = WasmFile.load(translated)
    env, wasi, _ = stubs.stub_module(main)
    parts = [("main", translated)]
    for name, text in [("env", env), ("wasi_snapshot_preview1", wasi), ("GOT.func", stubs.got_module(main))]:
        path = work / f"{name}.wasm"
        path.write_bytes(wasmtime.wat2wasm(text))
        parts.append((name, path))
    path = work / "trampoline.wasm"
    path.write_bytes(_trampoline(javascript))
    trampoline = WasmFile.load(path)
    trampoline.set_imports([Import("main", i.name, i.kind, i.descriptor) for i in trampoline.imports()])
    trampoline.save(path)
    return [*parts, ("trampoline", path)]


def _trampoline(javascript: str) -> bytes:
    """Return the module that Pyodide stores as hexadecimal text: it calls a C function of any signature."""
    found = re.search(r'hexStringToUTF8Array\("([0-9a-f]+)"\)', javascript)
    if found is None:
        raise ValueError("pyodide.asm.mjs has no call of hexStringToUTF8Array: find out where the trampoline has moved")
    return bytes.fromhex(found[1])


def _give_trampoline_a_table_slot(module: WasmFile) -> None:
    """Append `trampoline_call` to the function table, in one new slot at its end."""
    index = next(e.number for e in module.exports() if e.name == "trampoline_call")
    table = module.body(TABLE)
    _, start = read_uleb(table, 0)
    if table[start : start + 2] != b"\x70\x00":
        raise ValueError("the first table must hold functions and have no maximum")
    size, behind = read_uleb(table, start + 2)
    module.replace(TABLE, table[: start + 2] + uleb(size + 1) + table[behind:])
    elements = module.body(ELEMENT)
    count, start = read_uleb(elements, 0)
    segment = b"\x00\x41" + sleb(size) + b"\x0b\x01" + uleb(index)
    module.replace(ELEMENT, uleb(count + 1) + elements[start:] + segment)


def trampoline_slot(module: WasmFile) -> int:
    """Return the table index of the trampoline: the last one."""
    table = module.body(TABLE)
    _, start = read_uleb(table, 0)
    return read_uleb(table, start + 2)[0] - 1


def _export_mutable_globals(module: WasmFile) -> None:
    """Export every mutable global as `global_<n>`: together with memory they are the interpreter's whole state."""
    imported = sum(i.kind == GLOBAL_KIND for i in module.imports())
    extra = [Export(f"global_{n}", GLOBAL_KIND, imported + n) for n in module.mutable_globals()[:4]]
    module.set_exports([*module.exports(), *extra])

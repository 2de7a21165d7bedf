"""Starts CPython in a fresh instance, by the embedding interface of PEP 741. Pyodide's own `main` is never run.

Only the build does this: users run the memory image of an interpreter that has been started.
"""

import struct
from collections.abc import Sequence

from wasm_runtime.build.link import INITIALIZE, LinkedModule
from wasm_runtime.build.pins import CPYTHON_VERSION
from wasm_runtime.machine.interpreter import Interpreter
from wasm_runtime.vfs.shared_files import SITE_PACKAGES

_MINOR = CPYTHON_VERSION.rsplit(".", 1)[0]  # "3.14"
STDLIB_ZIP = f"/lib/python{_MINOR.replace('.', '')}.zip"
STDLIB_DIR = f"/lib/python{_MINOR}"

_INTEGERS = {
    "site_import": 0,
    "write_bytecode": 0,
    "utf8_mode": 1,
    "buffered_stdio": 0,
    "use_environment": 0,
    "user_site_directory": 0,
    "safe_path": 1,
    # The seed of str hashes is part of the image, so it is the same in all sessions; `random` and `os.urandom` are not.
    "use_hash_seed": 1,
    "hash_seed": 0x52_4C_4D,
    "install_signal_handlers": 1,
}
_STRINGS = {"executable": "/bin/python3", "home": "/", "program_name": "python3", "stdlib_dir": STDLIB_DIR}
_LISTS = {"module_search_paths": [STDLIB_ZIP, STDLIB_DIR, SITE_PACKAGES], "argv": [""]}

EXPORTS = frozenset(
    """
    emscripten_get_sbrk_ptr __wasm_call_ctors PyImport_AppendInittab _PyEM_EMSCRIPTEN_TRAMPOLINE_OFFSET _PyRuntime
    PyInitConfig_Create PyInitConfig_SetInt PyInitConfig_SetStr PyInitConfig_SetStrList PyInitConfig_GetError
    PyInitConfig_Free Py_InitializeFromInitConfig PyRun_SimpleString malloc free
    """.split()
) | {INITIALIZE}
"""What this file calls and reads."""


class BootError(Exception):
    """CPython did not start, or Python code of the build failed. `printed` is what it wrote to its standard output."""

    def __init__(self, text: str, printed: str = "") -> None:
        super().__init__(text)
        self.printed = printed


def start_python(guest: Interpreter, trampoline_slot: int, linked: LinkedModule | None = None) -> None:
    """Run the constructors and initialise CPython. Raises BootError with CPython's reason.

    Python modules that are linked become built-in ones, so that nothing is loaded at run time.
    """
    if linked is not None:  # their static data lies where the heap would begin
        guest.memory.write_u32(guest.call("emscripten_get_sbrk_ptr"), linked.heap_start)
    guest.call("__wasm_call_ctors")
    if linked is not None:
        for name, slot in linked.python_modules.items():
            guest.call("PyImport_AppendInittab", _text(guest, name), slot)
    # CPython calls C functions whose signature does not match the call through this table slot.
    offset = guest.memory.u32(guest.address("_PyEM_EMSCRIPTEN_TRAMPOLINE_OFFSET"))
    guest.memory.write_u32(guest.address("_PyRuntime") + offset, trampoline_slot)
    config = guest.call("PyInitConfig_Create")
    for name, value in _INTEGERS.items():
        # wasmtime takes the i64 parameter as a Python int.
        _check(guest, config, guest.call("PyInitConfig_SetInt", config, _text(guest, name), value))
    for name, text in _STRINGS.items():
        _check(guest, config, guest.call("PyInitConfig_SetStr", config, _text(guest, name), _text(guest, text)))
    for name, texts in _LISTS.items():
        array = _array(guest, texts)
        _check(guest, config, guest.call("PyInitConfig_SetStrList", config, _text(guest, name), len(texts), array))
    _check(guest, config, guest.call("Py_InitializeFromInitConfig", config))
    guest.call("PyInitConfig_Free", config)
    if linked is not None:  # constructors may use Python, as they may when a module is loaded at run time
        guest.call(INITIALIZE)


def run_source(guest: Interpreter, source: str) -> None:
    """Execute Python code in `__main__`. Raises BootError if it raises an exception."""
    text = _text(guest, source)
    status = guest.call("PyRun_SimpleString", text)
    guest.call("free", text)
    if status:
        raise BootError("Python code that runs while the image is baked raised an exception; its traceback is above")


def _check(guest: Interpreter, config: int, status: int) -> None:
    if status == 0:
        return
    slot = guest.call("malloc", 4)
    guest.call("PyInitConfig_GetError", config, slot)
    reason = guest.memory.c_string(guest.memory.u32(slot)).decode(errors="replace")
    raise BootError(f"CPython rejected its configuration: {reason}")


def _text(guest: Interpreter, text: str) -> int:
    data = text.encode() + b"\0"
    address = guest.call("malloc", len(data))
    guest.memory.view(address, len(data))[:] = data
    return address


def _array(guest: Interpreter, texts: Sequence[str]) -> int:
    pointers = [_text(guest, text) for text in texts]
    address = guest.call("malloc", 4 * len(pointers))
    guest.memory.view(address, 4 * len(pointers))[:] = struct.pack(f"<{len(pointers)}I", *pointers)
    return address

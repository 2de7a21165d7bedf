"""Implements inside the module every import that needs no host.

Pyodide's module imports 268 functions and 280 globals from JavaScript. A sandbox has no use for most of them: they are
compiled into the module as constants, as the errno that POSIX has for a missing facility, or as `unreachable`. The
rest, `HOST`, is the whole interface between guest and host.

Two kinds are here because only the module can implement them without an exception of the host: a signal poll that reads
one word of memory, and imports that never return.
"""

from wasm_runtime.build.leb import read_uleb
from wasm_runtime.build.module_parts import function_types
from wasm_runtime.build.wasm_file import FUNC_KIND, GLOBAL_KIND, WasmFile
from wasm_runtime.errno import Errno
from wasm_runtime.machine.memory import INTERRUPT_ADDRESS

VALUE_TYPES = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x6F: "externref", 0x70: "funcref"}

# Implemented in wasm_runtime/imports; everything else is implemented below.
HOST = frozenset(
    """
    __syscall_openat __syscall_fcntl64 __syscall_ioctl __syscall_faccessat __syscall_chdir __syscall_fchdir
    __syscall_chmod __syscall_fchmod __syscall_fchmodat2 __syscall_fchownat __syscall_fchown32 __syscall_dup
    __syscall_dup3 __syscall_fdatasync __syscall_fstat64 __syscall_stat64 __syscall_newfstatat __syscall_lstat64
    __syscall_ftruncate64 __syscall_truncate64 __syscall_getcwd __syscall_getdents64 __syscall_mkdirat
    __syscall_fallocate __syscall_readlinkat __syscall_unlinkat __syscall_rmdir __syscall_renameat
    __syscall_symlinkat __syscall_statfs64 __syscall_fstatfs64 __syscall_utimensat
    fd_close fd_read fd_write fd_sync fd_fdstat_get fd_seek fd_pread fd_pwrite
    clock_time_get random_get emscripten_date_now emscripten_get_now _timegm_js _mktime_js _localtime_js _gmtime_js
    emscripten_resize_heap emscripten_get_heap_max
    """.split()
)

# The host is told, then the guest traps.
ENDINGS = {"exit": "guest_exit", "proc_exit": "guest_exit", "_abort_js": "guest_abort", "__assert_fail": "guest_abort"}

_CONSTANTS = {
    **dict.fromkeys(
        """__syscall_socket __syscall_accept4 __syscall_bind __syscall_connect __syscall_getpeername
        __syscall_getsockname __syscall_getsockopt __syscall_listen __syscall_recvfrom __syscall_recvmsg
        __syscall_sendmsg __syscall_sendto""".split(),
        -Errno.EAFNOSUPPORT,
    ),
    **dict.fromkeys(["_maybe_connect_async", "_maybe_recvfrom_async", "_maybe_sendto_async"], 0),
    **dict.fromkeys(["__syscall_pipe", "__syscall_poll", "__syscall_mknodat", "_setitimer_js"], -Errno.ENOSYS),
    # Wrappers around these ask JavaScript first; 0 means that it does not handle the call.
    **dict.fromkeys(["_try_fcntl64", "_try_shutdown", "_maybe_poll_async"], 0),
    **dict.fromkeys(["_mmap_js", "_munmap_js", "_msync_js"], -Errno.ENODEV),
    "__syscall_getuid32_js": 0,
    "__syscall_umask_js": 0o22,
    "__syscall_fadvise64": 0,
    "getaddrinfo": -2,  # EAI_NONAME, without a look-up
    "getnameinfo": -2,
    "getprotobyname": 0,
    "_emscripten_system": -1,
    "_emscripten_lookup_name": 0,
    "_Py_emscripten_runtime": 0,
    "environ_get": 0,
    "_dlopen_js": 0,
    "_emscripten_dlopen_js": 0,
    "_dlsym_js": 0,
    "ffi_closure_alloc_js": 0,
    "ffi_closure_free_js": 0,
    "emscripten_promise_create": 0,
    "emscripten_promise_resolve": 0,
    "emscripten_promise_destroy": 0,
    "__hiwire_deduplicate_new": 0,
    "emscripten_runtime_keepalive_push": 0,
    "emscripten_runtime_keepalive_pop": 0,
    "_emscripten_runtime_keepalive_clear": 0,
    "emscripten_debugger": 0,
    "emscripten_log_impl_js": 0,
    "_emscripten_log_formatted": 0,
    "emscripten_set_up_async_input_device_js": 0,
}

_SPECIAL = {
    # Returns 2 (SIGINT) once after INTERRUPT_ADDRESS was set from outside; CPython polls it only while
    # Py_EMSCRIPTEN_SIGNAL_HANDLING is set, so an undisturbed guest pays nothing.
    "_Py_CheckEmscriptenSignals_Helper": f"""(result i32)
        (if (i32.atomic.load (i32.const {INTERRUPT_ADDRESS}))
            (then (i32.atomic.store (i32.const {INTERRUPT_ADDRESS}) (i32.const 0)) (return (i32.const 2))))
        (i32.const 0)""",
    "__call_sighandler": "(param i32 i32) (call_indirect (param i32) (local.get 1) (local.get 0))",
    # There are no variables: it writes counts of 0 and succeeds. Unwritten counts would be garbage from the stack.
    "environ_sizes_get": """(param i32 i32) (result i32)
        (i32.store (local.get 0) (i32.const 0)) (i32.store (local.get 1) (i32.const 0)) (i32.const 0)""",
    "_emscripten_get_progname": "(param i32 i32) (i32.store8 (local.get 0) (i32.const 0))",
    # The guest's time zone is UTC: both zone names are the four bytes "UTC\\0".
    "_tzset_js": """(param i32 i32 i32 i32)
        (i32.store (local.get 0) (i32.const 0)) (i32.store (local.get 1) (i32.const 0))
        (i32.store (local.get 2) (i32.const 0x00435455)) (i32.store (local.get 3) (i32.const 0x00435455))""",
    "clock_res_get": """(param i32 i32) (result i32)
        (i64.store (local.get 1) (i64.const 1000000)) (i32.const 0)""",
}


def stub_module(main: WasmFile) -> tuple[str, str, list[str]]:
    """Return the text of module `env`, the text of `wasi_snapshot_preview1`, and the names that trap when called."""
    env: list[str] = []
    wasi: list[str] = []
    trapping: list[str] = []
    host: dict[str, str] = {}
    for name in ENDINGS.values():
        signature = "(param i32)" if name == "guest_exit" else ""
        host[name] = f'(import "host" "{name}" (func ${name} {signature}))'
    types = function_types(main)
    for entry in main.imports():
        if entry.kind != FUNC_KIND or entry.name in HOST:
            continue
        kind = types[read_uleb(entry.descriptor, 0)[0]]
        text = _function(entry.name, kind.params, kind.results, trapping)
        (wasi if entry.module == "wasi_snapshot_preview1" else env).append(text)
    shared = '(import "main" "memory" (memory 1)) (import "main" "__indirect_function_table" (table 1 funcref))'
    head = "\n".join(host.values()) + shared
    return f"(module {head}\n{chr(10).join(env)})", f"(module {head}\n{chr(10).join(wasi)})", trapping


def got_module(main: WasmFile) -> str:
    """Return the text of module `GOT.func`: linkage slots of functions that do not exist (mostly OpenGL), all 0."""
    names = [entry.name for entry in main.imports() if entry.kind == GLOBAL_KIND and entry.module == "GOT.func"]
    return "(module " + "\n".join(f'(global (export "{n}") (mut i32) (i32.const 0))' for n in names) + ")"


def _function(name: str, params: bytes, results: bytes, trapping: list[str]) -> str:
    signature = "".join(f" (param {VALUE_TYPES[p]})" for p in params)
    signature += "".join(f" (result {VALUE_TYPES[r]})" for r in results)
    if name in ENDINGS:
        argument = "(local.get 0)" if ENDINGS[name] == "guest_exit" else ""
        return f'(func (export "{name}") {signature} (call ${ENDINGS[name]} {argument}) (unreachable))'
    special = _SPECIAL.get(name)
    if special is not None:
        return f'(func (export "{name}") {special})'
    if name in _CONSTANTS:
        return f'(func (export "{name}") {signature} {_constant(_CONSTANTS[name], results)})'
    trapping.append(name)
    return f'(func (export "{name}") {signature} (unreachable))'


def _constant(value: int, results: bytes) -> str:
    if not results:
        return ""
    kind = VALUE_TYPES[results[0]]
    return "(ref.null extern)" if kind == "externref" else f"({kind}.const {value})"

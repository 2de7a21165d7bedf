"""Wasmtime's configuration. Every flag here is part of the compile cache's key."""

import wasmtime

# wasmtime-py cannot enlarge the async stack, and a wasm stack beyond it panics the process.
WASM_STACK_BYTES = 2 << 20

FLAGS = (
    "wasm_exceptions",
    "wasm_gc",
    "wasm_reference_types",
    "wasm_function_references",
    "wasm_tail_call",
    "wasm_threads",
)


def make_engine(*, optimize: bool = True) -> wasmtime.Engine:
    """Return an engine for Pyodide's module. Guests are stopped by loop checks, so epoch interruption is off.

    Without `optimize` a module compiles in half the time, for a build that runs it once. (The single-pass register
    allocator would be faster still, but its stack frames are so large that importing pandas overflows the stack.)
    """
    config = wasmtime.Config()
    for flag in FLAGS:
        setattr(config, flag, True)
    config.wasm_stack_switching = False
    config.max_wasm_stack = WASM_STACK_BYTES
    config.parallel_compilation = True
    if not optimize:
        config.cranelift_opt_level = "none"
    return wasmtime.Engine(config)

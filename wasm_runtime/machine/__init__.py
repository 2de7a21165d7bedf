"""WebAssembly as Wasmtime runs it: memory, its pages, the engine, the instance of the interpreter."""

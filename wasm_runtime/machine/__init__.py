"""The WebAssembly side: engine, host functions, the interpreter's instance, its memory and the pages of that."""

"""Pyodide's CPython on Wasmtime, with no JavaScript engine: sessions that start in a fraction of a millisecond."""

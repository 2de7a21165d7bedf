"""The baked image and its manifest; written by `python -m wasm_runtime.build`, read by `compile_cache`."""

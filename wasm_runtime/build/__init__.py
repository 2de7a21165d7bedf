"""Builds the image: `python -m wasm_runtime.build`. This needs Node and npm, which users of the package do not."""

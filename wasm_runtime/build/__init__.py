"""Makes the image: `python -m wasm_runtime.build`. Needs Node and npm; users of the package need neither."""

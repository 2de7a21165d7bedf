"""Serves a model file with llama.cpp until killed, and prints the base URL: `PYTHON llama_server.py FILE PORT`.

Run it with the Python of a virtual environment that has `xllamacpp`; it imports nothing of this project.
"""

import importlib
import sys
import time
from typing import Any


def main() -> None:
    """Serves one request at a time on one thread, which is faster than two on shared cores."""
    llama: Any = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = int(sys.argv[2])
    params.n_ctx = 16_384
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.use_jinja = True
    server = llama.Server(params)
    print(f"http://127.0.0.1:{sys.argv[2]}/v1", flush=True)
    while server is not None:
        time.sleep(60)


if __name__ == "__main__":
    main()

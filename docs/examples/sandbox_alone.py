"""wasm_runtime on its own: run, stop, save, copy and extend a sandboxed Python."""

import tempfile
from pathlib import Path

from wasm_runtime import CallRefused, Checkpoint, Limits, Runtime


def price(item: str) -> float:
    """A host function; its arguments and return value are JSON."""
    if item != "tea":
        raise CallRefused(f"there is no {item}, only tea")
    return 2.5


with tempfile.TemporaryDirectory() as folder, Runtime() as runtime:
    log = Path(folder, "app.log")
    log.write_text("ok\nERROR disk\nok\n")
    with runtime.session(
        limits=Limits(cell_seconds=1), files={"/data/app.log": log}, calls={"price": price}
    ) as session:
        session.exec("errors = [l for l in open('/data/app.log') if 'ERROR' in l]")
        print(session.exec("len(errors), price('tea')").value)  # (1, 2.5)
        print(session.exec("price('milk')").error)  # RuntimeError: there is no milk, only tea
        stopped = session.exec("while True: pass")
        print(stopped.stopped_by, session.exec("errors").value)  # deadline ['ERROR disk\n']
        saved = session.checkpoint().to_bytes()
        with session.fork() as copy:
            copy.exec("errors.clear()")
        print(session.exec("parallel_map(lambda n: n * len(errors), range(4))").value)  # [0, 1, 2, 3]
    with runtime.session() as another:
        another.restore(Checkpoint.from_bytes(saved))
        print(another.exec("errors").value)  # ['ERROR disk\n']

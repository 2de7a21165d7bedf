import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.contexts.watch import watch
from rlm_mcp.errors import ContextError, SourceRefused


@contextmanager
def watching(store: Store, ref: str) -> Iterator["Queue[Context | ContextError]"]:
    seen: Queue[Context | ContextError] = Queue()
    stop = threading.Event()
    thread = threading.Thread(
        target=watch, args=(store, ref), kwargs={"stop": stop, "on_version": seen.put, "on_error": seen.put}
    )
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(10)


def change_until_seen(path: Path, text: str, seen: "Queue[Context | ContextError]") -> Context | ContextError:
    """Change a file again until the watch, which may only be starting, has noticed."""
    for n in range(20):
        path.write_text(f"{text} {n}\n")
        try:
            return seen.get(timeout=1)
        except Empty:
            continue
    raise AssertionError("no change was noticed in 20 s")


def test_a_changed_directory_becomes_a_new_version_and_the_old_stays(store: Store, files: Path) -> None:
    (files / "a.txt").write_text("old\n")
    old = store.register_source(str(files))
    with watching(store, "files") as seen:
        new = change_until_seen(files / "a.txt", "new", seen)
    assert isinstance(new, Context)
    assert (new.name, new.version, new.current) == ("files", 2, True)
    assert store.text(new, "a.txt").startswith("new")
    assert store.text(old, "a.txt") == "old\n"


def test_a_source_that_becomes_unusable_is_reported_and_watched_on(store: Store, files: Path) -> None:
    (files / "a.txt").write_text("old\n")
    store.register_source(str(files / "a.txt"))
    with watching(store, "a.txt") as seen:
        change_until_seen(files / "a.txt", "new", seen)
        (files / "a.txt").write_bytes(bytes(range(256)))
        trouble = seen.get(timeout=60)
        while isinstance(trouble, Context):  # a late version of the changes before
            trouble = seen.get(timeout=60)
        assert isinstance(trouble, SourceRefused)
        assert isinstance(change_until_seen(files / "a.txt", "again", seen), Context)


def test_inline_text_cannot_be_watched(store: Store) -> None:
    store.register_text("x", name="note")
    with pytest.raises(SourceRefused, match="cannot change or is gone: nothing to watch"):
        watch(store, "note", stop=threading.Event(), on_version=print, on_error=print)

"""Contexts and files by what callers call them."""

from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import OutOfRange, UnknownContext, UnknownPath


def test_contexts_are_listed_newest_first_a_page_at_a_time(store: Store) -> None:
    registered = [store.register_text(f"text {n}", name=f"name-{n}") for n in range(5)]
    first = store.list(limit=2)
    second = store.list(limit=2, cursor=first.next_cursor)
    third = store.list(limit=2, cursor=second.next_cursor)
    assert [*first.contexts, *second.contexts, *third.contexts] == registered[::-1]
    assert (first.total, third.next_cursor) == (5, None)


def test_a_query_looks_at_name_and_source(store: Store, files: Path) -> None:
    (files / "Server.log").write_text("x\n")
    log = store.register_source(str(files / "Server.log"), name="production")
    store.register_text("y", name="other")
    assert store.list("PROD").contexts == store.list("server").contexts == (log,)
    assert store.list("100%").contexts == ()


def test_a_cursor_or_page_size_that_cannot_be_is_refused(store: Store) -> None:
    with pytest.raises(OutOfRange, match="'next' is not a cursor"):
        store.list(cursor="next")
    with pytest.raises(OutOfRange, match="ask for 1 or more"):
        store.list(limit=0)


def test_an_unknown_context_names_those_that_are_close(store: Store) -> None:
    with pytest.raises(UnknownContext, match="nothing is registered yet"):
        store.get("production")
    store.register_text("x", name="production")
    with pytest.raises(UnknownContext, match="did you mean 'production'"):
        store.get("prodution")


def test_a_path_that_is_not_there_names_one_that_is(store: Store, files: Path) -> None:
    for name in ("server.log", "client.log"):
        (files / name).write_text("x\n")
    context = store.register_source(str(files))
    with pytest.raises(UnknownPath, match=r"has no file 'sever.log': did you mean server.log"):
        store.read_lines(context, 1, path="sever.log")
    with pytest.raises(UnknownPath, match=r"has 2 files \(client.log, server.log, …\): say which with `path`"):
        store.read_lines(context, 1)

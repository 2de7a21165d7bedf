import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rlm_mcp.engine.reply_cache import ReplyCache, reply_key
from rlm_mcp.engine.types import Replies
from rlm_mcp.models.base import Message

HELLO = [Message(role="user", content="hello")]


REPLIES: dict[str, Callable[[Path], Replies]] = {"sqlite": ReplyCache}
"""Every implementation of Replies, by what it is opened with."""


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_is_found_by_another_process_and_the_latest_one_counts(tmp_path: Path, kind: str) -> None:
    first, second = REPLIES[kind](tmp_path), REPLIES[kind](tmp_path)
    first.put("key", "reply")
    assert (second.get("key"), second.get("other")) == ("reply", None)
    second.put("key", "é" * 100_000)
    assert first.get("key") == "é" * 100_000
    first.close()
    first.close()
    second.close()


def test_everything_that_decides_the_reply_is_in_its_key() -> None:
    keys = {
        reply_key("http://a", "m", HELLO, temperature=None, schema=None),
        reply_key("http://b", "m", HELLO, temperature=None, schema=None),
        reply_key("http://a", "n", HELLO, temperature=None, schema=None),
        reply_key("http://a", "m", HELLO, temperature=0.0, schema=None),
        reply_key("http://a", "m", HELLO, temperature=None, schema={"type": "object"}),
        reply_key("http://a", "m", [*HELLO, *HELLO], temperature=None, schema=None),
    }
    assert len(keys) == 6


def test_prompts_are_not_on_disk_and_the_file_is_private(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "cache")
    cache.put(reply_key("p", "m", [Message(role="user", content="a secret")], temperature=None, schema=None), "ok")
    cache.close()
    files = list((tmp_path / "cache").iterdir())
    assert all(b"a secret" not in file.read_bytes() for file in files)
    assert (tmp_path / "cache" / "replies.sqlite").stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_database_is_left_alone_and_nothing_is_cached(tmp_path: Path) -> None:
    (tmp_path / "replies.sqlite").write_bytes(b"not a database" * 100)
    cache = ReplyCache(tmp_path)
    cache.put("key", "reply")
    assert cache.get("key") is None
    cache.close()


@pytest.mark.parametrize(
    ("columns", "row", "found"),
    [
        ("key TEXT PRIMARY KEY, reply TEXT NOT NULL", ("old", "kept"), "kept"),  # an older version's
        ("key TEXT PRIMARY KEY, reply BLOB, kept_at INTEGER, model TEXT NOT NULL", ("old", "kept", 1, "m"), "kept"),
        ("id INTEGER PRIMARY KEY, text TEXT", (1, "kept"), None),  # a newer version's
    ],
)
def test_a_cache_of_another_version_costs_nothing_but_what_it_cannot_keep(
    tmp_path: Path, columns: str, row: tuple[object, ...], found: str | None
) -> None:
    with closing(sqlite3.connect(tmp_path / "replies.sqlite")) as database, database:
        database.execute(f"CREATE TABLE replies ({columns})")
        database.execute(f"INSERT INTO replies VALUES ({','.join('?' * len(row))})", row)  # noqa: S608 - only marks
    cache = ReplyCache(tmp_path)
    cache.put("new", "reply")
    assert (cache.get("old"), cache.get("new")) == (found, None)
    cache.close()
    with closing(sqlite3.connect(tmp_path / "replies.sqlite")) as database:
        assert list(database.execute("SELECT * FROM replies")) == [row]


def test_the_oldest_replies_go_when_it_is_full(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path)
    for number in range(30):
        cache.put(f"{number:02}", "x")
    cache.close()
    small = ReplyCache(tmp_path, most=20)
    assert sum(small.get(f"{number:02}") is not None for number in range(30)) == 18
    small.close()

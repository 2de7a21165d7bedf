"""Objects of buckets as sources: what is referenced, when it is fetched, and what is refused."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

pytest.importorskip("obstore", reason="the extra `s3` is not installed")

from rlm_mcp.bucket_address import BucketAddress, parse_bucket
from rlm_mcp.contexts.describe.overview import describe
from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.sources.bucket_access import BucketAccess
from rlm_mcp.contexts.sources.buckets import ListedObject
from rlm_mcp.contexts.sources.s3_bucket import AHEAD, AHEAD_IN_ALL, PIECE_BYTES, S3Bucket
from rlm_mcp.contexts.store.blobs import INDEXES_KEPT
from rlm_mcp.contexts.store.object_texts import SMALL_BYTES, ObjectSources
from rlm_mcp.contexts.store.references import STEP_BYTES, ObjectReference, ReferenceIndexes
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context, Skipped
from rlm_mcp.errors import RlmError, SourceChanged, SourceRefused, SourceUnreachable
from tests.peers.cluster import BUCKET, access_to, object_store

LINE = "a line of some text é {}\n"
BIG = "".join(map(LINE.format, range(500_000)))
"""A little more than twice what an index grows at once, and more than is fetched whole for a part."""
assert len(BIG.encode()) > 2 * max(SMALL_BYTES, STEP_BYTES)


_T = TypeVar("_T")


def read_fifty(store: Store, context: Context, line: int) -> str:
    """Fifty lines."""
    return store.read_lines(context, line, line + 49).text


class CountingBucket(S3Bucket):
    """Notes the ranges that are read."""

    def __init__(self, name: str, *, access: dict[str, str]) -> None:
        super().__init__(name, access=access, patience=0.3)
        self.ranges: list[tuple[str, int]] = []

    def read(self, key: str, start: int, end: int) -> tuple[ListedObject, bytes]:
        self.ranges.append((key, end - start))
        return super().read(key, start, end)


class Buckets:
    """A bucket in a directory, and stores that may read parts of it."""

    def __init__(self, directory: Path, endpoint: str, closing: ExitStack) -> None:
        self.root = directory / "buckets" / BUCKET
        self.endpoint = endpoint
        self._directory = directory
        self._closing = closing
        self._ranges: list[list[tuple[str, int]]] = []

    def write(self, key: str, text: str | bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def store(self, *allowed: str, own: BucketAddress | None = None, endpoint: str | None = None) -> Store:
        """A store; without addresses it may read the whole bucket."""

        def opened(name: str) -> CountingBucket:
            bucket = CountingBucket(name, access=access_to(endpoint or self.endpoint))
            self._ranges.append(bucket.ranges)
            return bucket

        named = tuple(parse_bucket(one, "RLM_MCP_S3_SOURCES") for one in allowed or (f"s3://{BUCKET}",))
        access = BucketAccess(allowed=named, own=own, open=opened)
        return self._closing.enter_context(Store(self._directory / "data", objects=ObjectSources(access=access)))

    def requested(self, use: Callable[[], _T]) -> tuple[_T, list[tuple[str, int]]]:
        """What something gives, and the ranges that it reads: keys and lengths."""
        before = [len(ranges) for ranges in self._ranges]
        found = use()
        before += [0] * (len(self._ranges) - len(before))
        return found, [one for ranges, n in zip(self._ranges, before, strict=True) for one in ranges[n:]]

    def requests(self, use: Callable[[], object]) -> list[tuple[str, int]]:
        """The ranges that something reads."""
        return self.requested(use)[1]

    def fetched(self) -> list[Path]:
        """The texts in the cache."""
        return sorted((self._directory / "data" / "contexts" / "texts").rglob("s3/*/*.txt"))

    def forget_texts(self) -> None:
        """Deletes what the cache has; no store is open."""
        shutil.rmtree(self._directory / "data" / "contexts" / "texts")

    def close(self) -> None:
        """Closes all stores."""
        self._closing.close()


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[Buckets]:
    with ExitStack() as closing, object_store(tmp_path / "buckets") as endpoint, closing:
        yield Buckets(tmp_path, endpoint, closing)


def test_objects_below_a_prefix_are_listed_and_not_fetched(buckets: Buckets) -> None:
    for number in range(300):
        buckets.write(f"logs/day-{number:03}.log", LINE.format(number) * 10)
    buckets.write("logs/deep/big.txt", BIG)
    buckets.write("logs-2/other.log", "not below it\n")
    store = buckets.store("s3://texts/logs")
    requests = buckets.requests(lambda: store.register_source("s3://texts/logs/"))
    assert sorted(requests) == [("logs/day-100.log", 270), ("logs/deep/big.txt", 65_536)]
    context = store.get("logs")
    assert (context.kind, context.files, context.source) == ("files", 301, "s3://texts/logs/")
    assert context.bytes == sum(path.stat().st_size for path in buckets.root.glob("logs/**/*.*"))
    assert not context.exact
    (note,) = context.notes
    assert note == (
        f"301 objects ({context.bytes:,} bytes) are referenced in s3://texts/logs: an object is fetched when its text"
        " is first read, and until then its chars and lines are estimates"
    )
    assert context.lines == pytest.approx(503_000, rel=0.1)
    assert store.register_source("s3://texts/logs") == context


def test_an_object_is_read_searched_described_and_counted(buckets: Buckets) -> None:
    buckets.write("logs/a.log", "one\ntwo é\nthree")
    buckets.write("logs/b/big.txt", BIG)
    store = buckets.store()
    context = store.register_source("s3://texts/logs")
    assert store.read_lines(context, 2, 3, path="a.log").text == "two é\nthree"
    assert store.read_lines(context, -1, path="big.txt").text == LINE.format(499_999)
    assert store.read_chars(context, 2, 20, path="big.txt") == BIG[2:20]
    assert store.locate_line(context, 2, path="big.txt").char == len(LINE.format(0))
    assert store.text(context, "a.log") == "one\ntwo é\nthree"
    assert describe(store, context).structure["longest_line"] == len(LINE.format(499_999).encode()) - 1
    found = search(store, context, r"(two|é 499999)")
    assert [(match.path, match.line) for match in found.matches] == [("a.log", 2), ("b/big.txt", 500_000)]
    assert [(file.path, file.lines, file.chars, file.exact) for file in store.files(context)] == [
        ("a.log", 3, 15, True),
        ("b/big.txt", 500_000, len(BIG), True),
    ]
    counted = store.get("logs")
    assert (counted.exact, counted.lines, counted.chars) == (True, 500_003, len(BIG) + 15)


def test_lines_of_a_large_object_take_one_range_once_it_is_indexed(buckets: Buckets) -> None:
    buckets.write("big.txt", BIG)
    store = buckets.store()
    context = store.register_source("s3://texts/big.txt")
    assert (context.kind, context.name, context.exact) == ("text", "big.txt", False)
    few = buckets.requests(lambda: store.read_lines(context, 1_000, 1_050))
    assert few == [("big.txt", STEP_BYTES), ("big.txt", 65_536)]
    every = buckets.requests(lambda: store.read_lines(context, -5))
    assert sum(length for _, length in every) < len(BIG.encode())
    buckets.close()
    again = buckets.store()
    for line in (1, 250_000, 499_950):
        text, ranges = buckets.requested(partial(read_fifty, again, context, line))
        assert text == "".join(map(LINE.format, range(line - 1, line + 49)))
        assert len(ranges) == 1
        assert ranges[0][1] <= 2 * 65_536
    assert len(buckets.requests(lambda: again.read_chars(context, 9_000_000, 9_001_000))) == 1
    assert len(buckets.requests(lambda: again.locate_line(context, 400_000))) == 1
    assert buckets.fetched() == []


def test_a_small_object_is_fetched_once_and_kept(buckets: Buckets) -> None:
    for number in range(40):
        buckets.write(f"logs/{number}.log", LINE.format(number) * 100)
    store = buckets.store()
    context = store.register_source("s3://texts/logs")
    read = buckets.requests(lambda: [store.read_lines(context, 7, path="3.log"), store.text(context, "3.log")])
    assert read == [("logs/3.log", 2_500)]
    searched = buckets.requests(lambda: search(store, context, "é 17$"))
    assert len(searched) == 39
    assert buckets.requests(lambda: search(store, context, "é 18$")) == []
    assert len(buckets.fetched()) == 40
    buckets.close()
    again = buckets.store()
    assert buckets.requests(lambda: search(again, context, "é 18$")) == []


def test_an_object_that_changed_is_named_where_it_must_be_fetched_and_can_be_taken_anew(buckets: Buckets) -> None:
    buckets.write("logs/a.log", "one\n")
    buckets.write("logs/big.txt", BIG)
    store = buckets.store()
    old = store.register_source("s3://texts/logs")
    assert store.read_lines(old, 1, path="a.log").text == "one\n"
    buckets.write("logs/a.log", "two\n")
    buckets.write("logs/big.txt", BIG.upper())
    assert store.read_lines(old, 1, path="a.log").text == "one\n"
    for use in (store.read_lines, store.locate_line):
        with pytest.raises(SourceChanged, match=r"^s3://texts/logs/big.txt has changed since it was registered \(ETag"):
            use(old, 1, path="big.txt")
    with pytest.raises(SourceChanged, match=r"`rlm-mcp contexts refresh NAME` takes it as it is now; older citations"):
        search(store, old, "text")
    new = store.refresh("logs")
    assert (new.version, new.context_id != old.context_id) == (2, True)
    assert [store.read_lines(new, 1, 1, path=path).text for path in ("a.log", "big.txt")] == [
        "two\n",
        LINE.format(0).upper(),
    ]
    assert store.read_lines(old, 1, path="a.log").text == "one\n"


def test_what_was_read_for_an_earlier_version_is_counted_in_the_next_one(buckets: Buckets) -> None:
    for name, text in {"a.log": "one\n", "kept.log": "two\nthree\n", "big.txt": BIG}.items():
        buckets.write(f"logs/{name}", text)
    store = buckets.store()
    old = store.register_source("s3://texts/logs")

    def counted(context: Context) -> dict[str, int]:
        """The lines of the files whose sizes are exact, once all were read."""
        for path in ("a.log", "kept.log"):
            store.text(context, path)
        store.line_index(context, "big.txt")
        return {file.path: file.lines for file in store.files(context) if file.exact}

    assert counted(old) == {"a.log": 1, "big.txt": 500_000, "kept.log": 2}
    buckets.write("logs/a.log", "four\nfive\nsix\n")
    new = store.refresh("logs")
    assert (new.version, new.exact) == (2, False)
    assert counted(new) == {"a.log": 3, "big.txt": 500_000, "kept.log": 2}
    assert store.get("logs").exact


def test_an_object_that_is_gone_is_named(buckets: Buckets) -> None:
    buckets.write("logs/a.log", "one\n")
    store = buckets.store()
    context = store.register_source("s3://texts/logs")
    (buckets.root / "logs" / "a.log").unlink()
    with pytest.raises(
        SourceChanged, match=r"^s3://texts/logs/a.log, registered by reference, is gone: put it back, or"
    ):
        store.text(context, "a.log")


def test_removing_a_context_leaves_its_objects_and_deletes_their_indexes(buckets: Buckets, tmp_path: Path) -> None:
    buckets.write("big.txt", BIG)
    store = buckets.store()
    context = store.register_source("s3://texts/big.txt")
    assert store.line_index(context).counts.lines == 500_000
    indexes = tmp_path / "data" / "contexts" / "indexes"
    assert len(list(indexes.iterdir())) == 1
    store.gc()
    assert len(list(indexes.iterdir())) == 1
    store.remove("big.txt")
    assert list(indexes.iterdir()) == []
    assert (buckets.root / "big.txt").exists()


def test_what_is_no_text_holds_credentials_or_is_empty_is_left_out(buckets: Buckets) -> None:
    buckets.write("mix/a.log", "text\n")
    buckets.write("mix/b.log.gz", b"\x1f\x8b")
    buckets.write("mix/.env", "KEY=hidden")
    buckets.write("mix/none.txt", "")
    buckets.write("mix/old.dat", "caf\xe9 ferm\xe9\n".encode("latin-1") * 9)
    store = buckets.store()
    context = store.register_source("s3://texts/mix")
    reason = "it is not text as it lies in the bucket: download it and register the copy, which is converted"
    assert set(store.skipped(context)) == {
        Skipped(path=".env", reason="secret: its name says that it holds credentials"),
        Skipped(path="b.log.gz", reason=reason),
        Skipped(path="none.txt", reason="it is empty"),
    }
    assert [entry.path for entry in store.files(context)] == ["a.log", "old.dat"]
    assert context.notes[-1].startswith(
        "old.dat is not UTF-8 text: of such objects, bytes that are not UTF-8 are shown"
    )
    assert store.read_lines(context, 1, 1, path="old.dat").text == "caf\ufffd ferm\ufffd\n"
    assert store.register_source("s3://texts/mix", include_secrets=True, name="all").files == 3
    for key, words in {
        "mix/b.log.gz": reason,
        "mix/.env": "its name says that it holds credentials",
        "mix/none.txt": "is empty",
        "mix/old.dat": "is not UTF-8 text",
    }.items():
        with pytest.raises(SourceRefused, match=words):
            store.register_source(f"s3://texts/{key}")


def test_lines_and_characters_of_a_text_that_is_not_utf8_are_all_found(buckets: Buckets) -> None:
    lines = [f"caf\xe9 \xe9t\xe9 n\xb0 {number}\n" for number in range(20_000)]
    buckets.write("old/a.dat", "".join(lines).encode("latin-1"))
    buckets.write("old/b.log", "text\n")
    store = buckets.store()
    context = store.register_source("s3://texts/old")
    shown = [line.translate(dict.fromkeys(b"\xe9\xb0", "\ufffd")) for line in lines]
    read, start = "", 1
    while start:
        part = store.read_lines(context, start, path="a.dat", max_chars=3_000)
        read, start = read + part.text, part.next_start_line or 0
    assert read == "".join(shown)
    whole = store.read_lines(context, 1, 3, path="a.dat", max_chars=len("".join(shown[:3])))
    assert (whole.text, whole.truncated) == ("".join(shown[:3]), False)
    for number in (1, 2_000, 19_999):
        char = store.locate_line(context, number + 1, path="a.dat").char
        assert store.read_chars(context, char, char + 9, path="a.dat") == shown[number][:9]


def test_keys_become_paths_that_lead_nowhere_else(buckets: Buckets) -> None:
    names = ["d e#?&=+%41.txt", "\u65e5\u672c.txt", "back\\slash.txt", "C:/x.txt"]
    for name in names:
        buckets.write(f"odd/{name}", f"the text of {name}\n")
    store = buckets.store()
    context = store.register_source("s3://texts/odd")
    texts = {entry.path: store.text(context, entry.path) for entry in store.files(context)}
    assert texts == {
        "back/slash.txt": "the text of back\\slash.txt\n",
        "d e#?&=+%41.txt": "the text of d e#?&=+%41.txt\n",
        "x.txt": "the text of C:/x.txt\n",
        "\u65e5\u672c.txt": "the text of \u65e5\u672c.txt\n",
    }


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "s3://texts/other",
            r"^s3://texts/other is not below what may be read from buckets \(s3://texts/logs, s3://gone\)",
        ),
        ("s3://texts/logs-2/a", "the operator may add it to RLM_MCP_S3_SOURCES"),
        ("s3://texts", "^s3://texts is not below"),
        ("s3://secret-bucket/a", "^s3://secret-bucket/a is not below"),
        ("s3://texts/logs/../other/a", "has an empty or relative part"),
        ("s3://texts/logs//a", "has an empty or relative part, which is not read: name a prefix above it"),
        ("s3://texts/logs/none", "^s3://texts/logs/none has no object with text: check the prefix"),
        ("s3://texts/logs/own/a", r"^s3://texts/logs/own/a holds the texts of this cluster \(RLM_MCP_BLOBS\)"),
        ("s3://texts/logs", r"^s3://texts/logs holds the texts of this cluster"),
        ("s3://gone/a", "^there is no bucket gone: check the address s3://gone/a"),
        ("s3://gone", "^there is no bucket gone"),
        ("s3://", "names no bucket"),
        ("s3://te xts/a", "names no bucket"),
        ("s3://texts/\x1b[31m", "names no bucket, or a key with control characters"),
    ],
)
def test_what_may_not_be_read_is_refused_in_a_sentence(buckets: Buckets, source: str, words: str) -> None:
    buckets.write("logs/own/a", "the operator's")
    buckets.write("other/a", "another")
    store = buckets.store("s3://texts/logs", "s3://gone", own=BucketAddress(bucket=BUCKET, prefix="logs/own"))
    with pytest.raises(SourceRefused, match=words):
        store.register_source(source)
    assert store.list().total == 0


def test_no_bucket_may_be_read_unless_it_is_named(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "data") as store,
        pytest.raises(SourceRefused, match=r"buckets \(none are allowed\): the oper"),
    ):
        store.register_source("s3://texts/logs")


def test_a_context_is_not_read_any_more_when_its_prefix_is_no_longer_allowed(buckets: Buckets) -> None:
    buckets.write("logs/a.log", "one\n")
    buckets.write("logs/big.txt", BIG)
    first = buckets.store()
    context = first.register_source("s3://texts/logs")
    first.line_index(context, "big.txt")
    assert first.text(context, "a.log") == "one\n"
    buckets.close()
    store = buckets.store("s3://texts/other")
    for use in (store.text, store.line_index):
        for path in ("a.log", "big.txt"):  # of which one is in the cache, and the other one indexed
            with pytest.raises(SourceRefused, match=rf"^s3://texts/logs/{path} is not below what may be read"):
                use(context, path)


def test_a_store_that_does_not_answer_is_named_and_nothing_is_lost(buckets: Buckets) -> None:
    buckets.write("logs/a.log", "one\n")
    buckets.write("logs/b.log", "two\n")
    store = buckets.store()
    context = store.register_source("s3://texts/logs")
    assert store.text(context, "a.log") == "one\n"
    buckets.close()
    away = buckets.store(endpoint="http://127.0.0.1:1")
    words = (
        r"^s3://texts/logs/b.log cannot be read now \(nothing answers\): try again, or let the operator check AWS_ENDP"
    )
    with pytest.raises(SourceUnreachable, match=words):
        away.text(context, "b.log")
    assert away.text(context, "a.log") == "one\n"
    with pytest.raises(SourceUnreachable):
        away.register_source("s3://texts/more")
    buckets.close()
    assert buckets.store().text(context, "b.log") == "two\n"


KEY = "AKIAVERYSECRETKEY"


class Refusing(BaseHTTPRequestHandler):
    """A store that refuses everything, and repeats in its answer what it was sent."""

    protocol_version = "HTTP/1.1"
    status, code = 403, "AccessDenied"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        body = f"<Error><Code>{self.code}</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (
            403,
            "AccessDenied",
            r"^s3://texts/logs may not be read \(access is denied\): the operator corrects the permis",
        ),
        (403, "SignatureDoesNotMatch", r"\((the secret key is wrong|access is denied)\): the operator corrects"),
        (403, "InvalidAccessKeyId", r"\((the access key is unknown|access is denied)\): the operator corrects"),
        (
            400,
            "SomethingNew",
            r"^s3://texts/logs cannot be read now \(the store answers (SomethingNew|with status 400)\)",
        ),
    ],
)
def test_a_store_that_refuses_is_named_without_its_keys(tmp_path: Path, status: int, code: str, words: str) -> None:
    handler: Any = type("Handler", (Refusing,), {"status": status, "code": code})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        access = access_to(f"http://127.0.0.1:{server.server_address[1]}") | {"access_key_id": KEY}
        sources = ObjectSources(
            access=BucketAccess(
                allowed=(BucketAddress(bucket=BUCKET),), open=lambda name: S3Bucket(name, access=access, patience=0.2)
            )
        )
        with Store(tmp_path / "data", objects=sources) as store:
            for source in ("s3://texts/logs/", "s3://texts/logs"):
                with pytest.raises(RlmError, match=words) as refused:
                    store.register_source(source)
                assert KEY not in str(refused.value)
                assert refused.value.__suppress_context__
        server.shutdown()


@dataclass(frozen=True)
class Unread:
    """A referenced object of which nothing is read."""

    key: str
    index_name: str = "unread"
    size: int = 1

    def read(self, start: int, end: int) -> bytes:
        raise NotImplementedError


def test_few_indexes_of_objects_that_were_read_in_part_are_kept(tmp_path: Path) -> None:
    indexes = ReferenceIndexes(tmp_path / "indexes", parts=tmp_path / "parts", on_complete=lambda *_: None)
    for number in range(2 * INDEXES_KEPT):
        key = ObjectReference(bucket=BUCKET, object=str(number), size=1, version="1").key
        assert indexes.grow(Unread(key)) is indexes.grow(Unread(key))
    assert repr(indexes) == f"<ReferenceIndexes {INDEXES_KEPT} growing, 0 mapped>"


class BucketOfStarts(S3Bucket):
    """Instead of bytes, a piece has its number. With `together`, so many pieces wait for each other."""

    def __init__(self, together: int = 1) -> None:
        super().__init__(BUCKET, access=access_to("http://127.0.0.1:1"))
        self.begun: list[int] = []
        self._together = threading.Barrier(together)

    def read(self, key: str, start: int, end: int) -> tuple[ListedObject, bytes]:
        self.begun.append(start)
        self._together.wait(60)
        return ListedObject(key=key, size=end, etag="", modified=""), str(start // PIECE_BYTES).encode()


def test_pieces_of_large_objects_come_in_order_and_few_are_fetched_ahead_at_once() -> None:
    bucket = BucketOfStarts()
    many = [bucket.pieces("a", 100 * PIECE_BYTES) for _ in range(12)]
    assert [next(pieces)[1] for pieces in many] == [b"0"] * 12
    del many[1:]  # which gives their places back
    assert len(bucket.begun) <= 12 + AHEAD_IN_ALL
    assert [data for _, data in many[0]] == [str(number).encode() for number in range(1, 100)]
    alone = BucketOfStarts(together=AHEAD).pieces("a", 4 * AHEAD * PIECE_BYTES)
    assert len(list(alone)) == 4 * AHEAD


class StandingBucket(S3Bucket):
    """Waits before it reads one object, once that is asked for."""

    def __init__(self, name: str, *, access: dict[str, str]) -> None:
        super().__init__(name, access=access)
        self.standing: str | None = None
        self.goes_on = threading.Event()

    def read(self, key: str, start: int, end: int) -> tuple[ListedObject, bytes]:
        if key == self.standing:
            assert self.goes_on.wait(60)
        return super().read(key, start, end)


def test_a_search_does_not_wait_for_an_object_beyond_its_time_and_the_next_one_has_it(
    buckets: Buckets, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        buckets.write(f"logs/{name}.log", LINE.format(name))
    bucket = StandingBucket(BUCKET, access=access_to(buckets.endpoint))
    access = BucketAccess(allowed=(BucketAddress(bucket=BUCKET),), open=lambda _: bucket)
    with Store(tmp_path / "data", objects=ObjectSources(access=access)) as store:
        context = store.register_source("s3://texts/logs")
        bucket.standing = "logs/b.log"
        try:
            found = search(store, context, "text", seconds=4.0)
            assert ([match.path for match in found.matches], found.truncated) == (["a.log", "c.log"], True)
        finally:
            bucket.goes_on.set()
        found = search(store, context, "text", seconds=30.0)
        assert (found.total, found.truncated) == (3, False)

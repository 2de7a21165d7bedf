"""Contexts of a cluster: stores of several machines over one database, one bucket, and a cache of files on each."""

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.bucket_address import BucketAddress
from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.blobs import ObjectBlobs, forget_dropped, sweep_texts
from rlm_mcp.cluster.catalogue import RowCatalogue, RunUses
from rlm_mcp.cluster.database import Database
from rlm_mcp.cluster.leases import Heartbeats
from rlm_mcp.cluster.objects import BucketUnusable, Objects
from rlm_mcp.cluster.runs import RowRuns
from rlm_mcp.cluster.schema import prepare_schema
from rlm_mcp.contexts.describe.overview import describe
from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.sources.bucket_access import BucketAccess
from rlm_mcp.contexts.sources.s3_bucket import S3Bucket
from rlm_mcp.contexts.store.object_texts import ObjectSources
from rlm_mcp.contexts.store.protocols import StoreParts
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.store.text_cache import TextCache
from rlm_mcp.contexts.types import Freed
from rlm_mcp.errors import ContextInUse, SourceChanged, SourceRefused, StoreDamaged, StoreFull, UnknownContext
from rlm_mcp.records.events import RunStarted, ended_event
from rlm_mcp.records.types import Outcome
from rlm_mcp.redact import Secret
from tests.peers.cluster import BUCKET, PostgresServer, access_to, open_runs, postgres_server
from tests.peers.small_disk import CannotMount, small_disk

pytestmark = pytest.mark.cluster

BIG = "a line of text\n" * 400_000


class Machine:
    """A store of one machine, with a cache of its own."""

    def __init__(
        self,
        runs: RowRuns,
        directory: Path,
        *,
        endpoint: str = "",
        quota: int | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self._is_stopped = False
        self.directory = directory
        self.runs = runs
        self.catalogue = RowCatalogue(runs.database, runs.owner)
        self.cache = TextCache(directory / "cache" / "texts", most_bytes=cache_bytes)
        self.blobs = ObjectBlobs(self.catalogue, runs.objects, self.cache)
        parts = StoreParts(catalogue=self.catalogue, blobs=self.blobs, uses=RunUses(runs))
        sources = BucketAccess(
            allowed=(BucketAddress(bucket=BUCKET),),
            own=runs.objects.address,
            open=lambda name: S3Bucket(name, access=access_to(endpoint)),
        )
        self.store = Store(
            directory / "data",
            parts=parts,
            quota_bytes=quota,
            objects=ObjectSources(access=sources, cache=lambda: self.cache),
        )

    def stop(self) -> None:
        """Ends its process."""
        if not self._is_stopped:
            self._is_stopped = True
            self.store.close()
            self.cache.close()

    def die(self) -> None:
        """Takes its disk with it."""
        self.stop()
        shutil.rmtree(self.directory)


OpenMachine = Callable[..., Machine]


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> OpenMachine:
    """Opens machines of one owner, by name."""
    reopen = open_runs(request, tmp_path, is_beating=False)

    def opened(name: str, *, quota: int | None = None, cache_bytes: int | None = None) -> Machine:
        made = Machine(
            reopen(),
            tmp_path / name,
            endpoint=request.getfixturevalue("endpoint"),
            quota=quota,
            cache_bytes=cache_bytes,
        )
        request.addfinalizer(made.stop)
        return made

    return opened


def keys_of(machine: Machine) -> list[str]:
    return sorted(machine.runs.objects.keys(f"of-{machine.runs.owner}/texts/"))


def test_what_one_machine_registers_is_read_at_another_and_survives_the_first(
    machine: OpenMachine, files: Path
) -> None:
    first, second = machine("first"), machine("second")
    (files / "src").mkdir()
    (files / "src" / "a.py").write_text("x = 1\n")
    (files / "big.log").write_text(BIG + "the needle é\n")
    (files / "empty.txt").touch()
    context = first.store.register_source(str(files), name="code")
    first.die()

    assert second.store.get("code") == context
    assert second.store.list("COD").contexts == (context,)
    entries = second.store.files(context)
    assert ([entry.path for entry in entries], second.cache.bytes) == (
        ["big.log", "empty.txt", "src/a.py"],
        0,
    )
    assert second.store.text(context, "src/a.py") == "x = 1\n"
    assert second.store.read_lines(context, 400_001, path="big.log").text == "the needle é\n"
    late = search(machine("third").store, context, "needle", seconds=0)
    assert (late.matches, late.truncated) == ((), True)
    found = search(second.store, context, "needle|x =")
    assert [(match.path, match.line) for match in found.matches] == [("big.log", 400_001), ("src/a.py", 1)]
    assert (second.store.text(context, "empty.txt"), second.cache.bytes) == ("", context.bytes)
    assert second.store.register_source(str(files), name="code") == context
    assert len(keys_of(second)) == 3


def test_what_one_machine_removes_no_other_has(machine: OpenMachine) -> None:
    first, second = machine("first"), machine("second")
    context = first.store.register_text("some text", name="notes")
    assert second.store.text(context) == "some text"
    second.store.remove("notes")
    with pytest.raises(UnknownContext, match="nothing is registered yet"):
        first.store.get("notes")
    with pytest.raises(UnknownContext, match="has been removed"):
        first.store.text(context)
    assert first.store.gc() == Freed(blobs=0, bytes=0)


def test_owners_share_nothing(request: pytest.FixtureRequest, tmp_path: Path, machine: OpenMachine) -> None:
    one = machine("one")
    other = Machine(open_runs(request, tmp_path, is_beating=False)(), tmp_path / "other")
    context = one.store.register_text("a secret", name="mine")
    assert other.store.list().contexts == ()
    with pytest.raises(UnknownContext):
        other.store.get(context.context_id)
    with pytest.raises(StoreDamaged, match="has no text"):
        other.blobs.local_text(one.store.file(context).key, 8)
    other.store.register_text("a secret", name="mine")
    assert (len(keys_of(one)), len(keys_of(other))) == (1, 1)
    other.store.close()


def test_a_quota_holds_for_registrations_of_several_machines_at_once(machine: OpenMachine, files: Path) -> None:
    first, second = machine("first", quota=1_000), machine("second", quota=1_000)
    (files / "a.txt").write_text("a" * 600)
    elsewhere: list[str] = []

    def register_elsewhere(_files: int, _size: int) -> None:
        """The room that the first one has seen is taken meanwhile."""
        if not elsewhere:
            elsewhere.append(second.store.register_text("b" * 600).context_id)

    with pytest.raises(StoreFull, match="exceed the quota of the store: remove contexts"):
        first.store.register_source(str(files / "a.txt"), on_progress=register_elsewhere)
    assert [context.context_id for context in first.store.list().contexts] == elsewhere
    assert first.catalogue.stored_bytes() == 600


def test_a_quota_holds_for_many_threads_of_two_machines(machine: OpenMachine) -> None:
    machines = [machine("first", quota=1_000), machine("second", quota=1_000)]
    refused: list[Exception] = []

    def register(number: int) -> None:
        try:
            machines[number % 2].store.register_text(f"{number:04}" * 75)
        except StoreFull as error:
            refused.append(error)

    threads = [threading.Thread(target=register, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (machines[0].catalogue.stored_bytes(), len(refused)) == (900, 5)


STARTED = RunStarted(query="How many?", contexts=[], served=True)


def test_a_context_stays_while_a_run_over_it_goes_on_anywhere(machine: OpenMachine) -> None:
    first, second = machine("first"), machine("second")
    context = first.store.register_text("some text", name="notes")
    started = replace(STARTED, contexts=[{"context_id": context.context_id, "name": "notes"}])
    run = first.runs.create(started)
    with pytest.raises(ContextInUse, match=f"notes .* is used by {run.run_id}: wait for that or `cancel_run`"):
        second.store.remove("notes")
    with first.store.in_use([context.context_id], run.run_id):
        pass  # it ends here; the run goes on elsewhere
    with pytest.raises(ContextInUse):
        second.store.remove("notes")
    run.append(ended_event(Outcome(status="completed", answer="17")))
    run.close()
    second.store.remove("notes")


def test_a_text_that_another_machine_drops_while_it_is_registered_is_there_afterwards(
    machine: OpenMachine, objects: Objects, database: Database
) -> None:
    first, second = machine("first"), machine("second")
    second.store.register_text("some text", name="notes")
    with first.store._staging() as staging:
        text = staging.stage_utf8(iter([b"some text"]))
        staging.place([text])
        second.store.remove("notes")
        second.store.gc()
        assert sweep_texts(database, objects, grace=0) >= 1
        assert keys_of(first) == []
        with first.catalogue.writing():
            staging.publish([text])
    assert second.blobs.local_text(text.blob, 9).path.read_bytes() == b"some text"


def test_objects_of_dropped_texts_and_of_dead_registrations_stay_for_a_while(
    machine: OpenMachine, objects: Objects, database: Database
) -> None:
    one = machine("one")
    context = one.store.register_text("some text", name="notes")
    one.store.register_text("other text", name="others")
    with one.store._staging() as staging:
        staging.place([staging.stage_utf8(iter([b"half"]))])
    one.store.remove("notes")
    assert len(keys_of(one)) == 3
    sweep_texts(database, objects)
    assert len(keys_of(one)) == 3
    assert one.store.register_text("some text", name="notes").context_id == context.context_id
    assert len(keys_of(one)) == 3  # taken up again
    sweep_texts(database, objects, grace=0)
    assert len(keys_of(one)) == 2
    assert [one.store.text(one.store.get(name)) for name in ("notes", "others")] == ["some text", "other text"]


@pytest.mark.parametrize(("data", "reason"), [(None, "is missing"), (b"ANY TEXT!", "holds another text than was")])
def test_a_text_that_is_gone_from_the_bucket_is_one_sentence_and_registering_it_again_mends_that(
    machine: OpenMachine, data: bytes | None, reason: str
) -> None:
    first, second, third = machine("first"), machine("second"), machine("third")
    context = first.store.register_text("some text", name="notes")
    (key,) = keys_of(first)
    was = first.runs.objects.get(key)
    first.runs.objects.delete(key) if data is None else first.runs.objects.put(key, data)
    for _ in range(2):
        with pytest.raises(
            StoreDamaged,
            match=rf"^text.txt cannot be read: the object {key} in s3://\S+ {reason}.*: restore it from a b",
        ):
            second.store.text(context)
    assert second.cache.bytes == 0

    first.runs.objects.put(key, was)
    assert second.store.text(context) == "some text"

    first.runs.objects.delete(key)
    with pytest.raises(StoreDamaged, match="is missing"):
        third.store.text(context)
    assert third.store.register_text("some text", name="notes") == context
    assert machine("fourth").store.text(context) == "some text"


def test_a_cache_keeps_what_was_used_last_within_its_bound_and_what_is_held(machine: OpenMachine) -> None:
    first, second = machine("first"), machine("second", cache_bytes=2_500)
    contexts = [first.store.register_text(str(number) * 1_000) for number in range(6)]
    entries = [second.store.file(context) for context in contexts]
    held = entries[0].blob
    for context in contexts[1:]:
        assert len(second.store.text(context)) == 1_000
        assert second.cache.bytes <= 2_500
    assert held.read_text() == "0" * 1_000
    paths = [entry.blob for entry in entries]  # all at once, which is more than the bound
    assert [path.read_text() for path in paths] == [str(number) * 1_000 for number in range(6)]
    assert second.cache.bytes == 6_000
    del entries
    second.store.text(first.store.register_text("one more"))
    assert second.cache.bytes <= 2_500


def test_a_cache_forgets_what_was_removed_elsewhere_unless_it_is_read(machine: OpenMachine) -> None:
    first, second = machine("first"), machine("second")
    kept, removed, read = (first.store.register_text(name * 100, name=name) for name in ("kept", "removed", "read"))
    held = second.store.file(read)
    assert [len(second.store.text(context)) for context in (kept, removed)] == [400, 700]
    assert held.blob.stat().st_size == 400
    for name in ("removed", "read"):
        first.store.remove(name)
    forget_dropped(second.runs.database, second.cache)
    assert (second.cache.bytes, held.blob.read_text()) == (800, "read" * 100)
    del held
    forget_dropped(second.runs.database, second.cache)
    assert (second.cache.bytes, second.store.text(kept)) == (400, "kept" * 100)


def test_a_text_that_was_registered_again_after_it_was_looked_up_is_found(machine: OpenMachine) -> None:
    first, second = machine("first"), machine("second")
    contexts = [first.store.register_text(text, name=text) for text in ("one", "two")]
    blobs = [first.store.file(context).key for context in contexts]
    second.blobs.prepare(blobs)
    first.runs.objects.delete(keys_of(first)[0])
    first.runs.objects.put(keys_of(first)[0], b"???")
    for context in contexts:
        first.store.remove(context.name)
    sweep_texts(first.runs.database, first.runs.objects, grace=0)
    for text in ("one", "two"):
        first.store.register_text(text, name=text)
    assert [second.blobs.local_text(blob, 3).path.read_text() for blob in blobs] == ["one", "two"]


def test_lines_of_a_large_text_are_read_by_ranges_without_fetching_it(machine: OpenMachine) -> None:
    first, second = machine("first"), machine("second")
    context = first.store.register_text(BIG + "the end\n", name="big")
    (key,) = keys_of(first)
    assert second.store.read_lines(context, -1).text == "the end\n"
    assert second.store.read_lines(context, 200_000, 200_049).text == "a line of text\n" * 50
    assert second.store.read_chars(context, len(BIG), len(BIG) + 3) == "the"
    assert second.store.locate_line(context, 400_001).char == len(BIG)
    assert describe(second.store, context).tail.endswith("the end\n")
    assert second.cache.bytes == 0

    objects = first.runs.objects
    objects.put(key, b"x" * (len(BIG) + 8))
    with pytest.raises(StoreDamaged, match=rf"the object {key} in s3://.* holds another text than was stored: restore"):
        second.store.read_lines(context, 1, 1)
    objects.delete(key)
    with pytest.raises(
        StoreDamaged, match=rf"the object {key} in s3://.* is missing: restore it from a backup, or regi"
    ):
        second.store.read_lines(context, 1, 1)
    first.store.register_text(BIG + "the end\n", name="big")
    assert second.store.read_lines(context, -1).text == "the end\n"
    assert second.cache.bytes == 0
    first.store.remove("big")
    sweep_texts(first.runs.database, objects, grace=0)
    assert list(objects.keys(f"of-{first.runs.owner}/")) == []


def test_objects_of_another_prefix_are_referenced_by_all_machines_and_stay_in_their_caches(
    machine: OpenMachine, endpoint: str
) -> None:
    first, second = machine("first", quota=1_000), machine("second")
    name = f"sources-{first.runs.owner}"
    others = Objects(BucketAddress(bucket=BUCKET, prefix=name), access=access_to(endpoint))
    others.put("a.log", b"one\ntwo\n")
    others.put("big.log", BIG.encode())
    context = first.store.register_source(f"s3://{BUCKET}/{name}")
    assert (context.exact, context.files) == (False, 2)
    assert keys_of(first) == []
    found = search(second.store, second.store.get(name), "two|text")
    assert (found.total, second.cache.bytes) == (400_001, len(BIG) + 8)
    assert (second.store.files(context)[0].lines, first.store.get(name).lines) == (2, 400_002)
    forget_dropped(second.runs.database, second.cache)
    others.delete("a.log")
    assert second.store.text(context, "a.log") == "one\ntwo\n"
    with pytest.raises(SourceChanged, match="is gone"):
        first.store.text(context, "a.log")
    with pytest.raises(SourceRefused, match="holds the texts of this cluster"):
        first.store.register_source(first.runs.objects.address.shown)


def test_a_process_finds_the_cache_of_the_one_before_and_has_one_of_its_own(machine: OpenMachine) -> None:
    first = machine("first")
    context = first.store.register_text(BIG, name="big")
    (key,) = keys_of(first)
    beside = TextCache(first.directory / "cache" / "texts")
    assert beside.bytes == 0
    beside.close()
    first.stop()
    first.runs.objects.delete(key)
    again = machine("first")
    assert again.cache.bytes == len(BIG)
    assert again.store.read_lines(context, 400_000).text == "a line of text\n"
    again.store.file(context).blob.write_text("x" * len(BIG))
    with pytest.raises(StoreDamaged, match="is missing"):  # what was changed on the disk is fetched again
        again.store.text(context)


def test_a_cache_that_was_written_before_the_machine_was_started_is_not_trusted(machine: OpenMachine) -> None:
    first = machine("first")
    context = first.store.register_text(BIG, name="big")
    first.stop()
    (first.directory / "cache" / "texts" / "0" / "boot").write_text("an earlier one")
    again = machine("first")
    assert again.cache.bytes == 0
    assert again.store.read_lines(context, 400_000).text == "a line of text\n"


def test_a_full_disk_of_the_cache_is_one_sentence_and_nothing_is_lost(machine: OpenMachine, tmp_path: Path) -> None:
    first = machine("first")
    data = os.urandom(800_000).hex()
    context = first.store.register_text(data, name="random")
    try:
        disk = small_disk(tmp_path / "disk")
        with disk as small:
            runs = first.runs
            with TextCache(small.data, most_bytes=10**9) as cache:
                blobs, key = ObjectBlobs(first.catalogue, runs.objects, cache), first.store.file(context).key
                small.fill(leave=100_000)
                with pytest.raises(
                    StoreFull, match=rf"the disk of {small.data} is full, so that a text of 1,600,000 by"
                ):
                    blobs.local_text(key, len(data))
                small.free()
                assert blobs.local_text(key, len(data)).path.read_text() == data
    except CannotMount:
        pytest.skip("this process may not mount a disk")


def test_a_process_that_stands_still_in_a_change_holds_up_nobody_for_long(machine: OpenMachine) -> None:
    first, second = machine("first"), machine("second")

    def stand_still() -> None:
        with first.catalogue.writing():
            first.catalogue.cursor.execute(b"SET LOCAL idle_in_transaction_session_timeout = '50ms'")
            assert second.store.register_text("some text").bytes == 9
            first.catalogue.delete("ctx_1")

    with pytest.raises(StoreDamaged, match=r"stood still for over 30 s .* nothing was changed, try again"):
        stand_still()
    assert first.store.list().total == 1


def test_without_the_bucket_cached_texts_are_read_and_nothing_is_registered(
    machine: OpenMachine, tmp_path: Path
) -> None:
    first = machine("first")
    context = first.store.register_text("some text", name="notes")
    away = Objects(BucketAddress(bucket=BUCKET), access=access_to("http://127.0.0.1:1"), patience=0.2)
    parts = StoreParts(
        catalogue=first.catalogue, blobs=ObjectBlobs(first.catalogue, away, first.cache), uses=RunUses(first.runs)
    )
    with Store(tmp_path / "cut off", parts=parts) as store:
        assert store.text(context) == "some text"
        with pytest.raises(BucketUnusable, match=r"^the bucket of the server cannot be used now") as refused:
            store.register_text("other text")
        assert "cannot be used (nothing answers)" in refused.value.reason
    assert first.store.list().contexts == (context,)


def test_a_restart_of_the_database_delays_a_registration(
    postgres: PostgresServer, objects: Objects, tmp_path: Path
) -> None:
    with (
        postgres_server(postgres.programs, is_durable=True) as server,
        Database(parse_database(Secret(server.url))) as database,
    ):
        prepare_schema(database)
        with Heartbeats(database, is_beating=False) as heartbeats:
            one = Machine(RowRuns(database, objects, heartbeats, owner="", directory=tmp_path), tmp_path / "one")
            first = one.store.register_text("one", name="one")
            server.stop()
            restarting = threading.Timer(0.5, server.start)
            restarting.start()
            second = one.store.register_text("two", name="two")
            restarting.join()
            assert one.store.list().contexts == (second, first)
            one.stop()

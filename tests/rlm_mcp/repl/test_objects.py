"""Code over objects of a bucket, of which only the sizes in bytes are known when the session is opened."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import anyio
import pytest

pytest.importorskip("obstore", reason="the extra `s3` is not installed")

from rlm_mcp.bucket_address import BucketAddress
from rlm_mcp.contexts.sources.bucket_access import BucketAccess
from rlm_mcp.contexts.sources.buckets import ListedObject
from rlm_mcp.contexts.sources.s3_bucket import S3Bucket
from rlm_mcp.contexts.store.object_texts import ObjectSources
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.repl.call_queue import CallHandoff
from rlm_mcp.repl.host_calls import host_calls
from rlm_mcp.repl.sandbox import Sandbox
from rlm_mcp.workspace.inspect_repls import NoCalls
from tests.peers.cluster import BUCKET, access_to, object_store
from tests.rlm_mcp.repl.opener import Opener, value_of
from wasm_runtime import CallRefused

pytestmark = pytest.mark.anyio

END = "an é at the end\n"


class StandingBucket(S3Bucket):
    """Waits before it reads what has a name with `slow`."""

    def __init__(self, name: str, endpoint: str) -> None:
        super().__init__(name, access=access_to(endpoint))
        self.goes_on = threading.Event()

    def read(self, key: str, start: int, end: int) -> tuple[ListedObject, bytes]:
        if "slow" in key:
            assert self.goes_on.wait(60)
        return super().read(key, start, end)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with object_store(tmp_path / "buckets") as endpoint:
        access = BucketAccess(
            allowed=(BucketAddress(bucket=BUCKET),), open=lambda name: S3Bucket(name, access=access_to(endpoint))
        )
        with Store(tmp_path / "data", objects=ObjectSources(access=access)) as store:
            yield store


async def test_the_length_of_a_text_is_exact_whatever_was_estimated(
    store: Store, sandbox: Sandbox, tmp_path: Path
) -> None:
    # The beginning has shorter lines than the rest: characters and lines are estimated wrongly.
    text = "a\n" * 50_000 + "a longer line\n" * 5_000_000 + END
    (tmp_path / "buckets" / BUCKET / "long.txt").write_text(text)
    (tmp_path / "buckets" / BUCKET / "short.txt").write_text(text[-2_000_000:])
    contexts = [
        await anyio.to_thread.run_sync(store.register_source, f"s3://{BUCKET}/{name}.txt") for name in ("long", "short")
    ]
    assert contexts[0].lines > 2 * text.count("\n")
    async with AsyncExitStack() as stack:
        repl = await Opener(sandbox, store, stack).over(contexts)
        sizes = "[(type(one).__name__, len(one), len(one.splitlines()), one[-4:]) for one in context.values()]"
        lines = text[-2_000_000:].count("\n")
        assert await value_of(repl, sizes) == str(
            [("BigText", len(text), text.count("\n"), "end\n"), ("Text", 2_000_000, lines, "end\n")]
        )
        assert await value_of(repl, "context['long.txt'].splitlines()[-1]") == repr(END.strip())
        chars = {entry.path: entry.chars for one in contexts for entry in store.files(one)}
        whole = await repl.run("search('nowhere')")
        assert chars == {"long.txt": len(text), "short.txt": 2_000_000}
        assert all(read.end >= chars[read.path] for read in whole.reads)
        assert {read.path for read in whole.reads} == set(chars)


async def test_code_is_told_which_object_has_changed(store: Store, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "buckets" / BUCKET / "logs" / "a.log"
    path.parent.mkdir()
    path.write_text("one\n")
    context = await anyio.to_thread.run_sync(store.register_source, f"s3://{BUCKET}/logs")
    async with AsyncExitStack() as stack:
        repl = await Opener(sandbox, store, stack).over([context])
        path.write_text("two\n")
        cell = await repl.run("print(context['a.log'])")
        assert cell.error is not None
        assert "s3://texts/logs/a.log has changed since it was registered" in cell.error.message


async def test_code_is_told_when_its_search_could_not_fetch_all_files_and_the_next_one_has_them(tmp_path: Path) -> None:
    logs = tmp_path / "buckets" / BUCKET / "logs"
    logs.mkdir(parents=True)
    for name in ("large", "slow"):
        (logs / f"{name}.log").write_text("one\n" * (2 if name == "large" else 1))
    with object_store(tmp_path / "buckets") as endpoint:
        bucket = StandingBucket(BUCKET, endpoint)
        access = BucketAccess(allowed=(BucketAddress(bucket=BUCKET),), open=lambda _: bucket)
        with Store(tmp_path / "data", objects=ObjectSources(access=access)) as store:
            context = await anyio.to_thread.run_sync(store.register_source, f"s3://{BUCKET}/logs")
            async with anyio.create_task_group() as tasks:
                handoff = CallHandoff(tasks, asyncio.get_running_loop().call_soon_threadsafe)
                look = partial(host_calls(store, [context], NoCalls(), handoff)["search"], "one", "logs", None, 9, 0)
                with pytest.raises(
                    CallRefused, match=r"^some files \(1\) could not be fetched in time: call search again"
                ):
                    await anyio.to_thread.run_sync(partial(look, ignore_case=False, literal=False, seconds_left=1.0))
                bucket.goes_on.set()
                found = await anyio.to_thread.run_sync(
                    partial(look, ignore_case=False, literal=False, seconds_left=60.0)
                )
    assert found["total"] == 3

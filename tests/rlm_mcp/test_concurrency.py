import anyio
import pytest

from rlm_mcp.concurrency import background_task

pytestmark = pytest.mark.anyio


async def test_the_work_is_cancelled_when_the_block_is_over() -> None:
    begun = anyio.Event()
    ended = []

    async def work(name: str) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    with anyio.fail_after(5):
        async with background_task(work, "heartbeat"):
            await begun.wait()
    assert ended == ["heartbeat"]


async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    with anyio.fail_after(5), pytest.raises(KeyError, match="gone"):
        async with background_task(anyio.sleep_forever):
            raise KeyError("gone")

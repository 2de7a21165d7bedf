"""What is broken for one tenant is one sentence for it, and nothing for another."""

import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult

from tests.peers.places import at, connections_to, environment, http_process
from tests.tenants.conftest import ANN, BOB, ServeTwo, called, token_file

pytestmark = pytest.mark.anyio


def file_for_directory(own: Path) -> None:
    own.mkdir(parents=True)
    (own / "contexts").write_text("not a directory")


def no_catalogue(own: Path) -> None:
    (own / "contexts").mkdir(parents=True)
    (own / "contexts" / "catalogue.sqlite3").write_bytes(b"not a database" * 1_000)


def directory_for_catalogue(own: Path) -> None:
    (own / "contexts" / "catalogue.sqlite3").mkdir(parents=True)


@pytest.mark.parametrize("damage", [file_for_directory, no_catalogue, directory_for_catalogue])
@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_store_that_cannot_be_opened_is_a_sentence_and_others_are_served(
    serve_two: ServeTwo, tmp_path: Path, damage: Callable[[Path], None], era: str
) -> None:
    damage(tmp_path / "data" / "owners" / "ann")
    with serve_two() as url, anyio.fail_after(60):
        said = ""
        try:
            async with at(url, era, ANN) as ann:
                result = await ann.call_tool("list_contexts", {})
                said = str(result.content) if isinstance(result, CallToolResult) else ""
        except* MCPError as group:
            said = str(first(group))
        assert "Internal" not in said
        assert "/ann/contexts" in said or "cannot be opened" in said
        async with at(url, era, BOB) as bob:
            assert (await called(bob, "list_contexts"))["contexts"] == []


@pytest.mark.parametrize(
    "line", ['{"event":"run_started"', '{"event":"run_started","path":5}', '{"event":"run_x"}', "\0"]
)
async def test_a_damaged_record_of_one_tenant_stops_neither_the_server_nor_another_tenant(
    serve_two: ServeTwo, tmp_path: Path, line: str
) -> None:
    run = tmp_path / "data" / "owners" / "ann" / "runs" / "run-0123456789ab"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text(f"{line}\n")
    with serve_two() as url, anyio.fail_after(60):
        for token in (ANN, BOB):
            async with at(url, "auto", token) as client:
                assert (await called(client, "list_contexts"))["contexts"] == []


async def test_every_call_that_waits_when_the_server_ends_is_answered_with_a_sentence(
    tmp_path: Path, compiled_cache: Path
) -> None:
    environ = environment(tmp_path, compiled_cache, "http://127.0.0.1:9")
    said: list[str] = []

    async def loop(client: Client, context: str) -> None:
        try:
            said.append(str(await client.call_tool("inspect_context", {"context": context, "code": LOOP})))
        except MCPError as error:
            said.append(error.error.message)

    with http_process(environ, "--token-file", token_file(tmp_path)) as (process, url), anyio.fail_after(60):
        log: list[bytes] = []
        assert process.stderr is not None
        reading = threading.Thread(target=log.extend, args=(process.stderr,))
        reading.start()
        async with at(url, "auto", ANN) as ann:
            for name in "abcd":
                await called(ann, "register_context", text=name, name=name)
            await called(ann, "inspect_context", context="a", code="1")  # the sandbox is loaded
            async with anyio.create_task_group() as calls:
                for number in range(CALLS):
                    calls.start_soon(loop, ann, "abcd"[number % 4])
                while connections_to(url, otherwise=CALLS) < CALLS:  # noqa: ASYNC110 - the system does not notify
                    await anyio.sleep(0.05)
                await anyio.sleep(1)  # the server has no way to say that it has begun with all of them
                process.terminate()
        await anyio.to_thread.run_sync(process.wait)
        reading.join()
    assert len(said) == CALLS
    assert [text for text in said if not ("restarting" in text or "interrupt" in text.lower())] == []
    assert process.returncode == 0


def first(error: BaseException) -> BaseException:
    """The first error in groups of groups."""
    return first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


CALLS = 38
LOOP = "while True: pass"

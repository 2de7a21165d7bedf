"""The variables of a tenant's REPLs survive a server that is killed, and stay the tenant's own."""

from pathlib import Path

import anyio
import pytest

from tests.peers.places import at, environment, http_process
from tests.tenants.conftest import ANN, BOB, called, token_file

pytestmark = pytest.mark.anyio


async def test_variables_come_back_when_the_server_was_killed(tmp_path: Path, compiled_cache: Path) -> None:
    environ, tokens = environment(tmp_path, compiled_cache, "http://127.0.0.1:9"), token_file(tmp_path)
    kept = tmp_path / "data" / "owners" / "ann" / "repls"
    with anyio.fail_after(120):
        with http_process(environ, "--token-file", tokens) as (process, url):
            async with at(url, "legacy", ANN) as ann:
                await called(ann, "register_context", text="some text", name="t")
                await called(ann, "inspect_context", context="t", code="found = {'here': 41}")
                while not any(kept.glob("*.state")):  # it is saved after the answer
                    await called(ann, "inspect_context", context="t", code="found['here'] = 41")
            process.kill()
        with http_process(environ, "--token-file", tokens) as (_, url):
            async with at(url, "auto", ANN) as ann:
                cell = await called(ann, "inspect_context", context="t", code="found['here'] + 1")
            async with at(url, "legacy", ANN) as ann:
                gone = await called(ann, "inspect_context", context="t", code="'found' in dir()", reset=True)
            async with at(url, "auto", BOB) as bob:
                await called(bob, "register_context", text="some text", name="t")
                other = await called(bob, "inspect_context", context="t", code="'found' in dir()")
    assert (cell["value"], gone["value"], other["value"]) == ("42", "False", "False")
    assert "were restored" in cell["notes"][0]
    assert ("notes" in gone, "notes" in other) == (False, False)

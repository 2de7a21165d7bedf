"""Errors of models that cannot be asked: each is one sentence with the value and the next step."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from rlm_mcp.errors import NoModelConfigured, PriceUnknown
from rlm_mcp.models.pool import ModelPool
from rlm_mcp.records.types import RunState
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult
from rlm_mcp.settings import load_settings
from rlm_mcp.spending import RunLimits
from rlm_mcp.workspace.launch import SolveRequest
from rlm_mcp.workspace.workspace import Workspace, open_workspace
from tests.peers.openai_server import Fault, OpenAIServer, Quirks

pytestmark = pytest.mark.anyio

TEXT = "".join(f"line {number}: nothing happened\n" for number in range(5_000))


@asynccontextmanager
async def workspace(tmp_path: Path, **flags: object) -> AsyncIterator[Workspace]:
    settings = load_settings({"data_dir": tmp_path, "cache_dir": tmp_path, **flags}, environ={"HOME": str(tmp_path)})
    pool = ModelPool(settings, find=list)
    opener = ScriptedOpener([CellResult(code="", stdout="5000")] * 9)
    async with open_workspace(settings, choose=pool.choose, open_repl=opener) as opened:
        await opened.contexts.register(text=TEXT, name="text")
        yield opened
    await pool.aclose()


async def ask(opened: Workspace, **limits: float) -> RunState:
    asked = RunLimits(**limits)  # type: ignore[arg-type] # by name
    request = SolveRequest(query="How many lines?", contexts=("text",), mode="rlm", limits=asked)
    with anyio.fail_after(60):
        run_id = await opened.runs.start(request)
        async for _ in opened.runs.follow(run_id):
            pass
        return await opened.runs.state(run_id)


async def ended(tmp_path: Path, server: OpenAIServer, **flags: object) -> RunState:
    async with server, workspace(tmp_path, **{"base_url": server.base_url, "model": "scripted", **flags}) as opened:
        return await ask(opened)


def written_below(directory: Path) -> str:
    """The contents of all files: records, catalogue, caches."""
    return "".join(path.read_text("utf-8", "replace") for path in directory.rglob("*") if path.is_file())


async def test_no_model_starts_no_run(tmp_path: Path) -> None:
    async with workspace(tmp_path) as opened:
        with pytest.raises(NoModelConfigured, match="no model is configured: set RLM_MCP_MODEL and RLM_MCP_API_KEY"):
            await ask(opened)
        assert (await opened.runs.list_page()).runs == ()


async def test_a_limit_in_dollars_without_a_price_starts_no_run(tmp_path: Path) -> None:
    server = OpenAIServer(["ok"])
    async with server, workspace(tmp_path, base_url=server.base_url, model="scripted") as opened:
        with pytest.raises(PriceUnknown, match=r"max_usd=0.5 cannot be kept: no price is known for model 'scripted'"):
            await ask(opened, max_usd=0.5)
        assert (await opened.runs.list_page()).runs == ()


FAILURES: Mapping[str, tuple[OpenAIServer, str]] = {
    "a wrong key": (
        OpenAIServer(["ok"], api_key="right"),
        "refused the API key (401: Incorrect API key provided: [key]",
    ),
    "no such model": (
        OpenAIServer(["ok"], models=["other"]),
        "has no model 'scripted' (404: The model `scripted` does not exist",
    ),
    "a refused request": (
        OpenAIServer([Fault(status=400, message="no")]),
        "refused a request to model 'scripted' (400: no)",
    ),
    "a window too small": (
        OpenAIServer(["ok"], quirks=Quirks(window_tokens=20)),
        "over the window of 'scripted'",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_model_that_cannot_be_asked_ends_the_run_in_one_sentence(
    failure: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, sentence = FAILURES[failure]
    with caplog.at_level(logging.DEBUG):
        state = await ended(tmp_path, server, api_key="sk-wrong-key-1234")
    assert (state.status, state.stopped_by, state.answer) == ("failed", "error", None)
    assert sentence in state.message
    assert "sk-wrong" not in f"{state.message}{caplog.text}{written_below(tmp_path)}"
    assert state.usage.prompt_tokens == 0


async def test_an_endpoint_that_is_down_is_named(tmp_path: Path) -> None:
    async with OpenAIServer(["ok"]) as server:
        url = server.base_url
    async with workspace(tmp_path, base_url=url, model="scripted") as opened:
        state = await ask(opened)
    assert (state.status, state.stopped_by) == ("failed", "error")
    assert f"nothing answers at {url} (3 times)" in state.message
    assert state.usage.failed_calls == 3


async def test_empty_replies_end_in_a_sentence_and_are_paid_for(tmp_path: Path) -> None:
    server = OpenAIServer([""])
    state = await ended(tmp_path, server)
    assert (state.status, state.answer) == ("failed", None)
    assert state.message.startswith("Model 'scripted' replied with nothing (stop, 0 tokens): choose another model.")
    assert state.usage.prompt_tokens == server.counts.prompt_tokens


async def test_what_was_paid_before_a_failure_is_on_record(tmp_path: Path) -> None:
    server = OpenAIServer(["```repl\nprint(len(context))\n```", Fault(status=401, message="key revoked")])
    state = await ended(tmp_path, server)
    assert "refused the API key (401: key revoked)" in state.message
    assert (state.usage.root_calls, state.usage.prompt_tokens) == (2, server.counts.prompt_tokens)

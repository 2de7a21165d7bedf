"""Estimates of a run before it is started, and the confirmation of a costly one by the user."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult, ElicitRequestFormParams, ElicitResult, ErrorData

from rlm_mcp.models.base import Profile
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult, Final, GuestCalls
from rlm_mcp.server.server import build_server
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.launch import RunModels
from rlm_mcp.workspace.workspace import Workspace, open_workspace

from .conftest import text_of

pytestmark = pytest.mark.anyio

PRICED = Profile(usd_per_mtok_in=2.0, usd_per_mtok_out=8.0)
QUESTION: dict[str, Any] = {"query": "How many lines?", "contexts": ["text"], "mode": "rlm"}


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(lambda _: "```repl\nFINAL(60)\n```", profile=PRICED)


@pytest.fixture
async def workspace(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Workspace]:
    """A server whose operator wants runs over one cent confirmed."""
    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", confirm_usd=0.01)

    async def choose(root: str | None, sub: str | None) -> RunModels:
        return RunModels(root=model, sub=model)

    async def run_cell(code: str, calls: GuestCalls) -> CellResult:
        return CellResult(code=code, final=Final(value=60))

    async with open_workspace(settings, choose=choose, open_repl=ScriptedOpener(run_cell)) as workspace:
        await workspace.contexts.register(text="a line\n" * 50_000, name="text")
        yield workspace


class User:
    """Answers forms as told, and remembers them."""

    def __init__(self, *answers: ElicitResult | ErrorData) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, context: Any, params: Any) -> ElicitResult | ErrorData:
        assert isinstance(params, ElicitRequestFormParams)
        assert set(params.requested_schema["properties"]) == {"go_ahead"}
        self.asked.append(params.message)
        return self._answers.pop(0)


YES = ElicitResult(action="accept", content={"go_ahead": True})


async def solve(workspace: Workspace, era: str, user: User | None, **arguments: Any) -> CallToolResult:
    async with Client(build_server(workspace), mode=era, elicitation_callback=user) as client:
        with anyio.fail_after(60):
            result = await client.call_tool("rlm_solve", QUESTION | arguments)
    assert isinstance(result, CallToolResult)
    return result


async def test_an_estimate_starts_nothing_and_asks_no_model(
    workspace: Workspace, model: ScriptedModel, era: str
) -> None:
    result = await solve(workspace, era, None, estimate_only=True)
    facts = result.structured_content
    assert facts is not None
    assert (facts["run_id"], facts["status"], facts["mode"], facts["depth"]) == ("", "estimated", "rlm", 1)
    low, high = facts["estimate"]["cost_usd"]
    assert 0 < low < high
    assert f"${low:.4f} to ${high:.4f}" in text_of(result)
    assert "Nothing was started" in text_of(result)
    assert model.calls == []
    assert (await workspace.runs.list_page()).runs == ()


async def test_an_estimate_stays_within_the_limits_of_the_run(workspace: Workspace, era: str) -> None:
    result = await solve(workspace, era, None, estimate_only=True, max_usd=0.02)
    assert result.structured_content is not None
    assert result.structured_content["estimate"]["cost_usd"][1] == 0.02


async def test_a_costly_run_begins_when_the_user_has_agreed(workspace: Workspace, era: str) -> None:
    user = User(YES)
    result = await solve(workspace, era, user)
    assert not result.is_error, text_of(result)
    assert result.structured_content is not None
    assert (result.structured_content["status"], result.structured_content["answer"]) == ("completed", "60")
    assert len(user.asked) == 1
    assert "model calls" in user.asked[0]
    assert "How many lines?" in user.asked[0]


@pytest.mark.parametrize(
    "answer",
    [
        ElicitResult(action="accept", content={"go_ahead": False}),
        ElicitResult(action="decline"),
        ElicitResult(action="cancel"),
    ],
)
async def test_a_run_that_the_user_declines_is_not_started_and_the_text_says_so(
    workspace: Workspace, model: ScriptedModel, era: str, answer: ElicitResult
) -> None:
    result = await solve(workspace, era, User(answer))
    assert result.is_error
    assert "nothing was started and nothing was spent" in text_of(result)
    assert model.calls == []
    assert (await workspace.runs.list_page()).runs == ()


@pytest.mark.parametrize(
    "answer",
    [
        ErrorData(code=-1, message="User rejected the form"),
        ElicitResult(action="accept", content={"go_ahead": "whatever"}),
    ],
)
async def test_an_error_in_the_place_of_a_form_is_no_consent_either(
    workspace: Workspace, model: ScriptedModel, answer: ElicitResult | ErrorData
) -> None:
    """A client of 2026-07-28 whose form ends in an error does not repeat the call, and nothing waits for it."""
    result = await solve(workspace, "legacy", User(answer))
    assert result.is_error
    assert "nothing was started and nothing was spent" in text_of(result)
    assert model.calls == []


async def test_a_client_that_cannot_ask_its_user_gets_its_run_within_the_budget(workspace: Workspace, era: str) -> None:
    result = await solve(workspace, era, None)
    assert not result.is_error
    assert result.structured_content is not None
    assert result.structured_content["status"] == "completed"


async def test_a_run_below_the_threshold_is_not_asked_about(workspace: Workspace, era: str) -> None:
    user = User()
    result = await solve(workspace, era, user, max_usd=0.01)
    assert not result.is_error, text_of(result)
    assert user.asked == []

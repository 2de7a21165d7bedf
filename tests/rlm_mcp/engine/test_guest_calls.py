"""Calls of the guest that the run answers: classification within the budget."""

import pytest

from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.coverage import Reading
from rlm_mcp.engine.guest_calls import RunCalls
from rlm_mcp.engine.subcalls import SubCalls
from rlm_mcp.errors import SubCallFailed
from rlm_mcp.models.base import Profile
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.records.tape import Tape
from rlm_mcp.spending import RunLimits

pytestmark = pytest.mark.anyio


def run_calls(model: ScriptedModel, limits: RunLimits) -> RunCalls:
    return RunCalls(
        ask=SubCalls({model.name: model}).ask,
        child=None,
        ledger=Ledger(limits),
        tape=Tape(),
        reading=Reading(),
        profiles={model.name: model.profile},
        record=lambda _: None,
    )


async def test_a_strong_model_is_asked_in_packs_and_a_weak_one_with_a_key_for_each_text() -> None:
    strong = ScriptedModel(['{"labels": "1y2n3n"}'], name="strong")
    judged = await run_calls(strong, RunLimits()).classify(["a", "b", "c"], "Is it a?", ["yes", "no"])
    assert judged == {"labels": ["yes", "no", "no"], "failed": [], "uncertain": [], "calls": 1, "size": 32}

    weak = ScriptedModel(['{"1": "yes", "2": "no"}'], name="weak", profile=Profile(strength="weak"))
    assert (await run_calls(weak, RunLimits()).classify(["a", "b"], "Is it a?", ["yes", "no"]))["size"] == 8


async def test_classification_beyond_the_budget_is_refused_before_anything_is_sent() -> None:
    model = ScriptedModel([])
    with pytest.raises(SubCallFailed) as refused:
        await run_calls(model, RunLimits(max_sub_calls=10)).classify(
            [f"text {n}" for n in range(2_000)], "Is it a?", ["yes", "no"]
        )
    assert str(refused.value) == (
        "classify over 2,000 items takes about 34 sub-calls and 22,820 tokens, and 10 sub-calls are left, so nothing"
        " was sent: filter the items with code first (dates, words, regexes), or classify a part of them"
    )
    assert model.calls == []

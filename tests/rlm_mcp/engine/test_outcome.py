"""The confidence of an outcome, and what it says of an answer that is not certain."""

from dataclasses import replace

import pytest

from rlm_mcp.engine.outcome import Ending, Evidence, confidence_in, outcome_of
from rlm_mcp.engine.router import Route
from rlm_mcp.engine.steps import Finish
from rlm_mcp.engine.types import RunSpec
from rlm_mcp.records.types import Confidence
from rlm_mcp.spending import Spent

RLM = Route(mode="rlm", depth=1, reason="")
DIRECT = Route(mode="direct", depth=0, reason="")
COMPUTED = Finish(answer=42, answered_by="FINAL")
BY_CODE = Spent(root_calls=2)
BY_MODELS = Spent(root_calls=2, sub_calls=3)


@pytest.mark.parametrize(
    ("finish", "way", "spent", "is_complete", "confidence"),
    [
        (COMPUTED, RLM, BY_CODE, True, "high"),
        (COMPUTED, RLM, BY_MODELS, True, "medium"),
        (COMPUTED, RLM, Spent(root_calls=2, cached_calls=1), True, "medium"),
        (COMPUTED, DIRECT, BY_CODE, True, "medium"),
        (replace(COMPUTED, answered_by="text"), RLM, BY_CODE, True, "medium"),
        (replace(COMPUTED, is_typed=True), RLM, BY_CODE, True, "medium"),
        (replace(COMPUTED, doubt="it is empty"), RLM, BY_CODE, True, "low"),
        (replace(COMPUTED, reasons=("every count in c is 0 or 1",)), RLM, BY_CODE, True, "low"),
        (COMPUTED, RLM, BY_CODE, False, "low"),
        (replace(COMPUTED, answer=None), RLM, BY_CODE, True, ""),
    ],
)
def test_confidence_is_low_with_a_doubt_and_high_only_for_what_code_alone_computed(
    finish: Finish, way: Route, spent: Spent, is_complete: bool, confidence: Confidence
) -> None:
    assert confidence_in(finish, way, spent, is_complete=is_complete) == confidence


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (COMPUTED, ""),
        (replace(COMPUTED, reasons=("every count in c is 0 or 1",)), "Doubtful: every count in c is 0 or 1."),
        (
            replace(COMPUTED, doubt="it is what the last block showed"),
            "This is the best answer so far, not a confirmed one: it is what the last block showed.",
        ),
        (replace(COMPUTED, answer=None), "There is no answer."),
    ],
)
def test_doubts_about_an_answer_are_in_the_message(finish: Finish, message: str) -> None:
    ending = Ending(finish=finish, stopped_by="final")
    spec = RunSpec(query="How many?", contexts=())
    outcome = outcome_of(ending, Evidence(), spec=spec, way=RLM, spent=BY_CODE, iterations=2, silence="")

    assert outcome.message == message

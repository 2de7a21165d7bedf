"""A request is found again by its fingerprint, in records of earlier versions, too."""

from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.spending import RunLimits
from rlm_mcp.workspace.launch import SolveRequest, fingerprint_of

LIMITS = RunLimits(max_usd=0.5, max_tokens=10, max_sub_calls=7, max_seconds=60, max_iterations=3, max_depth=1)


@pytest.mark.parametrize(
    ("asked", "fingerprint"),
    [
        (SolveRequest(query="How many?", contexts=("a",)), "326c102e46f97007"),
        (
            SolveRequest(
                query="How many?",
                contexts=("a",),
                mode="rlm",
                limits=LIMITS,
                model="m",
                sub_model="s",
                output_schema={"type": "object"},
            ),
            "56daffe73865ae6c",
        ),
    ],
)
def test_a_requesthas_the_fingerprint_that_records_hold(tmp_path: Path, asked: SolveRequest, fingerprint: str) -> None:
    with Store(tmp_path) as store:
        context = store.register_text("one\n", name="a")
    assert fingerprint_of(asked, [context]) == fingerprint

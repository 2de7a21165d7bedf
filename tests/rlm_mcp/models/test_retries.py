import pytest

from rlm_mcp.models.dialect import Refusal
from rlm_mcp.models.failures import retried_as
from rlm_mcp.models.retries import Failure, FailureKind, next_wait


@pytest.mark.parametrize(
    ("kind", "waits"),
    [
        ("rate", [1, 2, 4, 8, 16, 30, 30, 30, None]),
        ("loading", [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, None]),
        ("server", [0.5, 1, 2, 4, None]),
        ("broken", [0.2, 0.4, 0.8, None]),
        ("unreachable", [0.2, 0.4, None]),
        ("timeout", [0, None]),
    ],
)
def test_waits_double_and_end(kind: FailureKind, waits: list[float | None]) -> None:
    assert [next_wait(Failure(kind=kind), n + 1, lambda: 1.0) for n in range(len(waits))] == waits


def test_jitter_takes_up_to_half_of_a_wait() -> None:
    assert next_wait(Failure(kind="rate"), 1, lambda: 0.0) == 0.5


def test_retry_after_is_kept_and_a_little_more() -> None:
    assert next_wait(Failure(kind="rate", retry_after=20.0), 1, lambda: 0.0) == 20.0
    assert next_wait(Failure(kind="rate", retry_after=20.0), 3, lambda: 1.0) == 22.0
    assert next_wait(Failure(kind="rate", retry_after=3600.0), 1, lambda: 0.0) is None


def test_a_server_that_loads_its_model_is_waited_for_longer_than_one_that_fails() -> None:
    assert retried_as(Refusal(status=503, text="Loading model")) == "loading"
    assert retried_as(Refusal(status=503, text="overloaded")) == "server"

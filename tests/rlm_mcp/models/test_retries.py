import time
from email.utils import formatdate

import pytest

from rlm_mcp.models.dialect import Refusal
from rlm_mcp.models.failures import retried_as
from rlm_mcp.models.retries import Failure, FailureKind, next_wait, retry_after_seconds, seconds_told


@pytest.mark.parametrize(
    ("kind", "waits"),
    [
        ("rate", [1, 2, 4, 8, 16, 30, 30, 30, None]),
        ("loading", [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, None]),
        ("server", [0.5, 1, 2, 4, None]),
        ("broken", [0.2, 0.4, 0.8, None]),
        ("page", [0.5, 1, None]),
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


@pytest.mark.parametrize("said", ["Mon, 01 Jan 2024 00:00:00 +999999999999", "nan", "1e999", "-5", "9" * 5000, "x"])
def test_no_retry_after_is_an_internal_error(said: str) -> None:
    assert retry_after_seconds({"retry-after": said}) in {None, 0.0}


def test_retry_after_is_seconds_milliseconds_or_a_date() -> None:
    assert retry_after_seconds({"retry-after": "2.5"}) == 2.5
    assert retry_after_seconds({"retry-after-ms": "250", "retry-after": "1"}) == 0.25
    assert retry_after_seconds({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0.0
    assert retry_after_seconds({"retry-after": "soon"}) is None
    assert retry_after_seconds({}) is None


def test_a_used_up_rate_tells_when_it_is_reset() -> None:
    reset = {"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "800ms"}
    assert retry_after_seconds(reset | {"x-ratelimit-remaining-tokens": "0"}) == 0.8
    assert retry_after_seconds(reset | {"x-ratelimit-remaining-tokens": "9"}) is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Rate limit reached. Please try again in 4.77s.", 4.77),
        ("Please try again in 9m38.5s. Need more tokens?", 578.5),
        ("Please retry after 59 seconds.", 59.0),
        ('{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "43.5s"}', 43.5),
        ("try again in 800ms", 0.8),
        ('{"retry_after": 12}', 12.0),
        ("please try again later", None),
        ("retry 3 times", None),
    ],
)
def test_a_wait_is_read_from_the_words_of_an_error(said: str, seconds: float | None) -> None:
    assert seconds_told(said) == seconds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Request too large on tokens per min (TPM): Limit 30000, Requested 40000", None),
        ("on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 4.77s", "rate"),
        ("You exceeded your current quota, check your plan and billing", None),
        ("You exceeded your current quota, check your plan and billing. Please retry in 43.5s", "rate"),
    ],
)
def test_a_429_is_sent_again_unless_no_wait_helps(text: str, kind: FailureKind | None) -> None:
    assert retried_as(Refusal(status=429, text=text, retry_after=seconds_told(text))) == kind

"""The served page: who may read it, and how it follows a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.records.events import RunStarted, event_from_json
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from rlm_mcp.viewer.following import RUN_ROWS, FollowedRun, FollowedRuns
from rlm_mcp.viewer.live import application
from tests.rlm_mcp.viewer.records import ended, reply

TOKEN = "a-token-that-nobody-knows"  # noqa: S105 - of a server that lives for one test
HOST = "http://127.0.0.1:8123"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Runs(tmp_path).create(RunStarted(query="is it done?"))
    yield run
    run.close()


@pytest.fixture
def client(run: Run, store: Store) -> Iterator[TestClient]:
    with TestClient(application(FollowedRun(run, store), token=TOKEN, port=8123), base_url=HOST) as client:
        yield client


def test_the_page_lies_under_its_token_only(client: TestClient) -> None:
    assert client.get(f"/{TOKEN}/").status_code == 200
    assert [client.get(path).status_code for path in ("/", "/x/", "/x/data", f"/{TOKEN[:-1]}/", "/favicon.ico")] == [
        404,
        404,
        404,
        404,
        404,
    ]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:9", "evil.example:8123", "127.0.0.1:8123.evil"]
)
def test_a_request_for_another_host_is_refused(client: TestClient, host: str) -> None:
    answers = [client.get(f"/{TOKEN}/{what}", headers={"host": host}) for what in ("", "data")]
    assert [(answer.status_code, answer.text) for answer in answers] == [(421, "wrong host")] * 2


def test_only_reading_is_possible(client: TestClient) -> None:
    assert [client.request(verb, f"/{TOKEN}/data").status_code for verb in ("POST", "PUT", "DELETE")] == [405] * 3


def test_no_other_page_may_frame_embed_or_keep_it(client: TestClient) -> None:
    headers = client.get(f"/{TOKEN}/").headers
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_a_page_is_told_what_it_does_not_have_yet(run: Run, client: TestClient) -> None:
    address = f"/{TOKEN}/data?seen="
    run.append(event_from_json(reply("", 1, "hello", 0.0)))
    assert [row["text"] for row in client.get(f"{address}0").json()["rows"]] == ["hello"]
    assert client.get(f"{address}1").status_code == 204
    run.append(event_from_json(reply("", 2, "again", 0.0)))
    assert [row["text"] for row in client.get(f"{address}1").json()["rows"]] == ["again"]
    run.append(event_from_json(ended("done", 0.0)))
    news = client.get(f"{address}2").json()
    assert (news["head"]["status"], news["head"]["is_live"], news["head"]["answer"]["text"]) == (
        "completed",
        False,
        "done",
    )


@pytest.mark.parametrize("rows", ["-1", "x", "", "٣", "1e3", "99999999999999999999"])
def test_a_request_for_rows_that_are_no_number_or_too_many_does_no_harm(client: TestClient, rows: str) -> None:
    assert client.get(f"/{TOKEN}/data", params={"seen": rows}).status_code in {200, 204}


def test_half_a_line_waits_for_its_other_half(run: Run, store: Store) -> None:
    followed = FollowedRun(run, store)
    with run.events_path.open("ab") as file:
        file.write(b'{"event":"root_reply","turn":1,')
        file.flush()
        assert followed.news(0) is None
        file.write(b'"text":"whole"}\n')
    news = followed.news(0)
    assert news is not None
    assert [row["text"] for row in news["rows"]] == ["whole"]


def test_a_run_whose_process_died_is_no_longer_followed(run: Run, store: Store) -> None:
    followed = FollowedRun(run, store)
    assert followed.news(0) is None
    run.close()
    news = followed.news(0)
    assert news is not None
    assert (news["head"]["status"], news["head"]["is_live"]) == ("cut off", False)


def test_of_the_followed_runs_the_last_used_are_kept_as_far_as_their_rows_go(tmp_path: Path, store: Store) -> None:
    records = Runs(tmp_path)
    runs = [records.create(RunStarted(query=str(number))) for number in range(4)]
    runs[3].append(event_from_json(reply("", 1, "a row", 1.0)))
    for run in runs:
        run.close()
    ids = [run.run_id for run in runs]
    followed = FollowedRuns(records, store, most_rows=3 * RUN_ROWS)
    first, second, third = (followed.get(run_id) for run_id in ids[:3])
    assert [followed.get(run_id) for run_id in ids[:3]] == [first, second, third]
    assert followed.get(ids[0]) is first
    long = followed.get(ids[3])
    long.page()
    assert followed.get(ids[3]) is long
    assert len(followed) == 2  # the row of the long one was one too many
    assert followed.get(ids[0]) is first
    followed.forget(long)
    assert followed.get(ids[3]) is not long

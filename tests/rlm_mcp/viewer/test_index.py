"""The index of all runs and contexts: what it tells, how it follows live runs, and to whom it is served."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.records.events import RunStarted, event_from_json
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from rlm_mcp.viewer.following import FollowedRun
from rlm_mcp.viewer.index import FollowedIndex, write_index
from rlm_mcp.viewer.live import application, served_address
from rlm_mcp.viewer.page import write_page
from tests.rlm_mcp.viewer.records import ended, reply

TOKEN = "a-token-that-nobody-knows"  # noqa: S105 - of a server that lives for one test
HOST = "http://127.0.0.1:8123"


@pytest.fixture
def records(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture
def live(records: Runs) -> Iterator[Run]:
    run = records.create(RunStarted(query="is it done?", contexts=({"context_id": "ctx_1", "name": "app.log"},)))
    yield run
    run.close()


def finished(records: Runs, query: str, answer: str) -> Run:
    run = records.create(RunStarted(query=query))
    for event in (reply("", 1, "text", 1.0), ended(answer, 2.0, usage={"sub_calls": 3, "cost_usd": 0.5})):
        run.append(event_from_json(event))
    run.close()
    return run


def rows_of(index: FollowedIndex) -> list[dict[str, Any]]:
    news = index.news(-1)
    assert news is not None
    rows: list[dict[str, Any]] = news["runs"]
    return rows


def test_a_finished_run_is_told_in_a_row(records: Runs, store: Store) -> None:
    run = finished(records, "How many?", "five")
    [row] = rows_of(FollowedIndex(records, store, served_address))
    assert (row["id"], row["status"], row["is_live"], row["query"], row["answer"], row["href"]) == (
        run.run_id,
        "completed",
        False,
        "How many?",
        "five",
        f"runs/{run.run_id}/",
    )
    assert (row["usage"]["sub_calls"], row["usage"]["cost_usd"]) == (3, 0.5)


def test_a_run_whose_page_is_written_is_linked(records: Runs, store: Store) -> None:
    run = finished(records, "How many?", "five")
    write_page(run, store)
    other = finished(records, "How few?", "two")
    page = write_index(records, store, records.directory.parent / "index.html")
    rows = json.loads(re.findall(r'id="data">(.*?)</script>', page.read_text())[0])["runs"]
    links = {row["id"]: row["href"] for row in rows}
    assert links == {run.run_id: (run.directory / "page.html").resolve().as_uri(), other.run_id: ""}


def test_a_live_run_is_followed_to_its_end_and_told_only_when_it_changes(
    records: Runs, store: Store, live: Run
) -> None:
    index = FollowedIndex(records, store, served_address, served=True)
    first = index.news(0)
    assert first is not None
    assert [(row["status"], row["turns"], row["contexts"]) for row in first["runs"]] == [("running", 0, ["app.log"])]
    assert index.news(first["changes"]) is None
    live.append(event_from_json(reply("", 1, "text", 1.0)))
    assert [row["turns"] for row in rows_of(index)] == [1]
    live.append(event_from_json(ended("done", 2.0)))
    live.close()
    assert [(row["status"], row["answer"]) for row in rows_of(index)] == [("completed", "done")]


def test_a_run_whose_process_died_is_no_longer_live(records: Runs, store: Store, live: Run) -> None:
    index = FollowedIndex(records, store, served_address, served=True)
    assert [row["is_live"] for row in rows_of(index)] == [True]
    live.close()
    assert [(row["status"], row["is_live"]) for row in rows_of(index)] == [("failed", False)]


def test_a_damaged_record_hides_no_other(records: Runs, store: Store) -> None:
    broken = finished(records, "broken", "x")
    broken.events_path.write_bytes(b'{"event":"run_started","format":1,"run_id":5,"contexts":7}\n')
    finished(records, "whole", "y")
    assert sorted(row["status"] for row in rows_of(FollowedIndex(records, store, served_address))) == [
        "completed",
        "failed",
    ]


def test_contexts_are_listed_with_their_sizes(records: Runs, store: Store) -> None:
    store.register_text("one\ntwo\n", name="notes")
    news = FollowedIndex(records, store, served_address).news(-1)
    assert news is not None
    assert [(one["name"], one["lines"], one["chars"]) for one in news["contexts"]] == [("notes", 2, 8)]
    assert (news["runs"], news["has_more_runs"], news["contexts_in_all"]) == ([], False, 1)


def test_the_served_index_leads_to_the_page_of_each_run(records: Runs, store: Store) -> None:
    run = finished(records, "How many?", "five")
    index = FollowedIndex(records, store, served_address, served=True)
    app = application(index, token=TOKEN, port=8123, find=lambda run_id: FollowedRun(records.get(run_id), store))
    with TestClient(app, base_url=HOST) as client:
        [row] = client.get(f"/{TOKEN}/data").json()["runs"]
        assert row["href"] == f"runs/{run.run_id}/"
        assert "How many?" in client.get(f"/{TOKEN}/{row['href']}").text
        assert client.get(f"/{TOKEN}/{row['href']}data?seen=0").json()["head"]["answer"]["text"] == "five"
        answers = [client.get(place) for place in (f"/x/{row['href']}", f"/{TOKEN}/runs/run-000000000000/")]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert client.get(f"/{TOKEN}/{row['href']}", headers={"host": "evil.example"}).status_code == 421

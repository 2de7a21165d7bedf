"""The page as a text: it loads nothing, nothing of a record is markup in it, the same record gives the same page."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import RunRecordDamaged, RunRecordTooNew
from rlm_mcp.records.events import Event, RunStarted
from rlm_mcp.records.store import Runs
from rlm_mcp.viewer.page import PageNotWritten, as_data, run_page, write_page
from tests.rlm_mcp.viewer import records


class Elements(HTMLParser):
    """The elements of a page as a browser would find them, with the text of those that are taken as they are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._within, []).append(data)


def data_of(page: str) -> Any:
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])


@pytest.mark.parametrize("events", [records.hostile(), records.big(60)], ids=["hostile", "ordinary"])
def test_the_page_has_the_elements_of_its_template_and_no_others(store: Store, events: list[Event]) -> None:
    elements = [tag for tag, _ in Elements(run_page(events, store)).found]
    assert elements == [
        *("html", "head", "meta", "meta", "meta", "meta", "meta", "link", "title", "style"),
        *("body", "noscript", "div", "script", "script"),
    ]


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(store: Store) -> None:
    page = run_page(records.hostile(), store)
    elements = Elements(page)
    policies = [attrs["content"] for tag, attrs in elements.found if "http-equiv" in attrs]
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)[0]
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]

    def hashed(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    expected = (
        f"default-src 'none'; style-src 'sha256-{hashed(style)}'; script-src 'sha256-{hashed(script)}'; img-src data:;"
        " connect-src 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script';"
        " trusted-types 'none'"
    )
    assert policies == [expected]


def test_nothing_is_loaded_from_anywhere(store: Store) -> None:
    page = run_page(records.big(60), store)
    assert [attrs for _, attrs in Elements(page).found if "src" in attrs] == []
    assert [attrs["href"] for _, attrs in Elements(page).found if "href" in attrs] == ["data:,"]
    outside = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert re.findall(r"https?://[^\"'\s]*", outside) == ["http://www.w3.org/2000/svg"]  # the name of a namespace
    assert re.findall(r"@import|url\(", outside) == []


def test_the_script_never_parses_markup() -> None:
    scripts = "".join(file.read_text() for file in Path("rlm_mcp/viewer/static").glob("*.js"))
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function|Contextual|srcdoc"
    assert re.findall(banned, scripts) == []


def test_data_survives_the_way_into_the_page_and_back() -> None:
    value = {"texts": [*records.TEXTS, "</script>", "<!--", "]]>", "\u2028\u2029", "\U0001f600", "\ud83d"]}
    data = as_data(value)
    assert data.isascii()
    assert set("<>&\u2028\u2029") & set(data) == set()
    assert json.loads(data) == value


def test_marks_of_the_template_in_a_record_are_left_as_they_are(store: Store) -> None:
    assert data_of(run_page(records.hostile(), store))["head"]["models"]["root"] == records.TEXTS[3]
    assert "{{data}} {{script}} {{policy}}" in data_of(run_page(records.hostile(), store))["head"]["query"]


def test_the_same_record_gives_the_same_page(store: Store) -> None:
    assert run_page(records.big(60), store) == run_page(records.big(60), store)


def test_the_page_of_a_stored_run_lies_next_to_its_record(tmp_path: Path, store: Store) -> None:
    run = Runs(tmp_path).create(RunStarted(query="what is this?"))
    run.close()
    path = write_page(run, store)
    assert path == run.directory / "page.html"
    assert [file.name for file in run.directory.iterdir() if file.name.endswith("html")] == ["page.html"]
    assert data_of(path.read_text())["head"]["query"] == "what is this?"


def test_a_page_that_cannot_be_written_is_told_with_its_place(tmp_path: Path, store: Store) -> None:
    with pytest.raises(PageNotWritten, match=r"nowhere/page\.html \(No such file or directory\): name another place"):
        write_page(records.big(8), store, tmp_path / "nowhere" / "page.html")


def test_a_live_run_is_said_to_be_one(tmp_path: Path, store: Store) -> None:
    run = Runs(tmp_path).create(RunStarted(query="still at it?"))
    head = data_of(run_page(run, store))["head"]
    assert (head["status"], head["is_live"], head["notes"]) == ("running", True, [])
    run.close()
    head = data_of(run_page(run, store))["head"]
    assert (head["status"], head["is_live"]) == ("cut off", False)


def test_a_truncated_record_is_shown_as_far_as_it_goes_with_one_sentence(tmp_path: Path, store: Store) -> None:
    run = Runs(tmp_path).create(RunStarted(query="was there more?"))
    run.close()
    with run.events_path.open("ab") as file:
        file.write(b'{"event":"root_re')
    notes = data_of(run_page(run, store))["head"]["notes"]
    assert notes == ["The record ends in the middle of an event, so what came after it is lost."]


def test_a_record_without_a_beginning_is_refused(tmp_path: Path, store: Store) -> None:
    run = Runs(tmp_path).create(RunStarted(query="lost"))
    run.close()
    run.events_path.write_bytes(b'{"event":"run_sta')
    with pytest.raises(RunRecordDamaged, match="has no readable first event"):
        run_page(run, store)


def test_a_record_of_a_newer_format_is_refused(tmp_path: Path, store: Store) -> None:
    run = Runs(tmp_path).create(RunStarted(query="from tomorrow"))
    run.close()
    run.events_path.write_text('{"event":"run_started","format":99,"run_id":"run-1"}\n')
    with pytest.raises(RunRecordTooNew, match="written in format 99"):
        run_page(run, store)

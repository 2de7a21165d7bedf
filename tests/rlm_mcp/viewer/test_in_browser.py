"""The page in a real Chromium: `.ci/browser` installs it with its driver and runs these.

Every test fails on a message in the console, a breach of the page's policy, a dialog, or a request for anything else
than the page itself.
"""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.records.events import RunStarted, event_from_json
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from rlm_mcp.viewer.following import FollowedRun
from rlm_mcp.viewer.index import FollowedIndex, write_index
from rlm_mcp.viewer.live import HOST, Followed, application, served_address
from rlm_mcp.viewer.page import compare_page, write_page, write_text
from tests.rlm_mcp.viewer import records
from tests.rlm_mcp.viewer.records import call, cell, ended, reply, started

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page, Request

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WATCH = """
window.breaches = [];
document.addEventListener('securitypolicyviolation', (event) => window.breaches.push(event.violatedDirective));
"""
LOG = "".join(f"2026-11-22 10:{n // 60:02}:{n % 60:02} INFO line {n} of the log\n" for n in range(1, 301))
HARMLESS = {
    "scripts": 2,
    "styles": 1,
    "loading": 0,
    "handlers": 0,
    "links": 0,
    "unseen": 0,
    "pwned": None,
    "main": "block",
}
"""What the census of a page finds: its own scripts and style, and nothing that a text could have brought in."""

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium on the path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Open]:
    """Opens a page and, in the end, sees that it kept quiet."""
    complaints: list[str] = []
    pages: list[Page] = []

    def open_(address: str, *, waits: bool = True, **options: Any) -> "Page":
        origin = address.rpartition("/")[0] or "file:///"

        def refuse(dialog: "Dialog") -> None:
            complaints.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        def note(request: "Request") -> None:
            if not request.url.startswith(origin):
                complaints.append(f"request: {request.url}")

        page = browser.new_page(**({"viewport": {"width": 1280, "height": 800}} | options))
        page.add_init_script(WATCH)
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", refuse)
        page.on("request", note)
        page.goto(address)
        if waits:
            page.locator("main").wait_for()
        pages.append(page)
        return page

    yield open_
    for page in pages:
        complaints += [f"breach: {breach}" for breach in page.evaluate("window.breaches")]
        page.close()
    assert complaints == []


def script(name: str) -> str:
    """A function to be called in the page."""
    return Path(__file__).with_name("in_page").joinpath(f"{name}.js").read_text()


def address_of(path: Path) -> str:
    return path.resolve().as_uri()


@pytest.fixture
def run_page(store: Store, tmp_path: Path) -> str:
    """A run with citations of all three kinds, sub-calls, a failure and a child run."""
    context = store.register_text(LOG, name="app.log")
    known = {"context_id": context.context_id, "path": store.files(context)[0].path}
    answer = 'It says "line 42 of the log" and "line 99 of the log"; "nobody ever wrote this line".'
    citations = [
        known | {"start_line": 42, "end_line": 42, "quote": "line 42 of the log", "verified": True, "corrected": False},
        known | {"start_line": 99, "end_line": 99, "quote": "line 99 of the log", "verified": True, "corrected": True},
        {"context_id": "", "path": "", "start_line": 0, "end_line": 0, "quote": "nobody ever wrote this line"},
    ]
    size = len(LOG)
    ranges = {"code": {f"{context.context_id}/{known['path']}": [[0, size]]}, "model": {}}
    code = "import re\nfor line in context:\n    print(line)  # all of it\n"
    error = {"type": "NameError", "message": "name 'lien' is not defined", "line": 3, "traceback": "NameError: lien"}
    events = [
        started(query="What does the log say?", contexts=[{**known, "name": "app.log", "kind": "text", "chars": size}]),
        {"event": "routed", "path": "", "turn": 0, "mode": "rlm", "depth": 1, "reason": "asked for", "at": 0.0},
        reply("", 1, f"I look first.\n\n```repl\n{code}```", 2.0, 1.5),
        cell("", 1, code, 2.2, 0.1, stdout="line 1\n" * 60, stdout_chars=420),
        reply("", 2, "```repl\nnotes = ask()\n```", 4.0, 1.0),
        *[call("", 2, f"Judge this: piece {n}", f"verdict {n}", 4.5 + n / 100, 0.4) for n in range(30)],
        {"event": "sub_failed", "path": "", "turn": 2, "prompt_head": "Judge this: zebra", "error": "no", "at": 4.9},
        {"event": "routed", "path": "c0ffee", "turn": 0, "mode": "rlm", "depth": 0, "reason": "asked", "at": 4.2},
        reply("c0ffee", 1, "```repl\nFINAL(1)\n```", 4.6, 0.3),
        cell("c0ffee", 1, "FINAL(1)", 4.7, 0.01),
        ended("one", 4.7, path="c0ffee"),
        call("", 2, "What is in this part?", "one", 4.8, 0.6, child="c0ffee"),
        cell("", 2, "notes = ask()\nprint(lien)", 5.0, 0.9, error=error),
        ended(answer, 5.2, citations=citations, coverage={"total_chars": size, "read_by_code": size, "ranges": ranges}),
    ]
    return address_of(write_page(records.events(events), store, tmp_path / "run.html"))


def test_the_page_shows_question_answer_and_what_became_of_each_citation(open_page: Open, run_page: str) -> None:
    page = open_page(run_page)
    assert page.locator("h1").inner_text() == "What does the log say?"
    assert page.locator(".citation .state").all_inner_texts() == ["verified", "corrected", "not found"]
    assert page.locator("#citation-1 mark").inner_text() == "line 42 of the log"
    numbers = page.locator("#citation-1 .passage .row").evaluate_all("rows => rows.map((row) => row.dataset.n)")
    assert numbers == [str(number) for number in range(39, 46)]
    assert page.locator(".answer-text .quoted").all_inner_texts() == [
        "line 42 of the log",
        "line 99 of the log",
        "nobody ever wrote this line",
    ]
    page.locator(".answer-text a.reference").nth(1).click()
    assert page.evaluate("document.querySelector(':target').id") == "citation-2"


def test_everything_can_be_done_by_keys(open_page: Open, run_page: str) -> None:
    page = open_page(run_page)
    keys = page.keyboard
    keys.press("?")
    assert page.locator("dialog.help").is_visible()
    keys.press("Escape")
    assert not page.locator("dialog.help").is_visible()
    keys.press("5")
    assert page.evaluate("document.activeElement.id") == "timeline-grid"

    def selected() -> str:
        return str(page.locator(".grid-row[aria-selected=true] .label").inner_text())

    trail = [selected()]
    for key in ("ArrowDown", "j", "ArrowRight", "ArrowRight", "ArrowDown", "Enter", "ArrowRight", "End", "k"):
        keys.press(key)
        trail.append(selected())
    opened = ["Turn 2", "Turn 2", "Model", "Code", "Code", "Sub-call 1"]
    assert trail == ["Run", "Turn 1", *opened, "Sub-call 32", "Sub-call 31"]
    keys.press("z")
    assert page.locator("button", has_text="Whole run").is_visible()
    keys.press("0")
    assert not page.locator("button", has_text="Whole run").is_visible()
    keys.press("f")
    first = selected()
    keys.press("f")
    assert {first, selected()} == {"Code", "Sub-call 32"}
    keys.press("Home")
    keys.press("ArrowLeft")
    assert page.locator(".grid-row").count() == 1


def test_search_and_filters_show_what_fits_and_where_it_is(open_page: Open, run_page: str) -> None:
    page = open_page(run_page)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("zebra")
    page.keyboard.press("Enter")
    assert page.locator(".found").inner_text() == "1 row"
    assert page.locator(".grid-row .label").all_inner_texts() == ["Run", "Turn 2", "Code", "Sub-call 32"]
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    page.locator("button.choice", has_text="Failed").click()
    assert page.locator(".found").inner_text() == "2 rows"
    page.locator("button.choice", has_text="Runs").click()
    assert page.locator(".grid-row .label").all_inner_texts() == ["Run", "Run c0ffee"]
    page.keyboard.press("/")
    page.keyboard.type("nothing has this")
    page.keyboard.press("Enter")
    assert page.locator(".nothing").is_visible()


def test_code_is_coloured_and_the_line_of_an_error_is_marked(open_page: Open, run_page: str) -> None:
    page = open_page(run_page)
    assert page.locator("#turn-1 .py-keyword").all_text_contents() == ["import", "for", "in"]
    assert page.locator("#turn-1 .py-comment").all_text_contents() == ["# all of it"]
    output = page.locator("#turn-1 .output-box")
    assert "clamped" in str(output.get_attribute("class"))
    output.locator("button").click()
    assert "clamped" not in str(output.get_attribute("class"))


def test_the_theme_follows_the_system_until_it_is_chosen(open_page: Open, run_page: str) -> None:
    page = open_page(run_page, color_scheme="dark")

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = ground()
    page.keyboard.press("t")
    light = ground()
    page.keyboard.press("t")
    assert (dark, light, ground()) == ("rgb(20, 23, 27)", "rgb(255, 255, 255)", "rgb(20, 23, 27)")
    page.reload()
    assert page.locator("#theme").inner_text() == "Theme: dark"


def test_the_page_prints_with_everything_that_scrolling_hides(open_page: Open, run_page: str) -> None:
    from pypdf import PdfReader

    page = open_page(run_page)
    page.locator("button", has_text="Open all").click()
    sheets = PdfReader(BytesIO(page.pdf(format="A4"))).pages
    # Without blanks and digits: fonts set them in ways that only a reader's eye undoes.
    text = "".join("".join(sheet.extract_text().split()) for sheet in sheets)
    expected = ("Whatdoesthelogsay?", "ofthelog", "notfound", "NameError")
    assert [words for words in expected if words not in text] == []
    assert text.count("Sub-call") > 31  # the rows of the timeline
    assert text.count("line") > 60  # outputs are not clamped
    assert "Searchprompts" not in text


def test_five_thousand_sub_calls_are_a_few_rows_of_the_document(
    open_page: Open, store: Store, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path = write_page(records.big(5_000), store, tmp_path / "big.html")
    page = open_page("about:blank", waits=False)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def processor_seconds() -> float:
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"])

    page.goto(address_of(path))
    page.locator(".grid-row").first.wait_for()
    record_property("processor_seconds_to_open", round(processor_seconds(), 2))
    page.locator("button", has_text="Open all").click()
    rows = int(str(page.locator("#timeline-grid").get_attribute("aria-rowcount")))
    assert rows > 5_500
    assert page.locator(".grid-row").count() < 60
    before = processor_seconds()
    frames = page.evaluate(script("scroll"))
    record_property("processor_milliseconds_a_frame", round(1000 * (processor_seconds() - before) / frames, 1))
    page.locator("#timeline-grid").focus()
    page.keyboard.press("End")
    assert page.locator(".grid-row[aria-selected=true]").get_attribute("aria-rowindex") == str(rows)
    assert page.locator(".grid-row").count() < 60
    page.keyboard.press("/")
    page.keyboard.type("ticket 00617")
    page.keyboard.press("Enter")
    assert "row" in page.locator(".found").inner_text()


def test_hostile_texts_stay_texts(open_page: Open, store: Store, tmp_path: Path) -> None:
    page = open_page(address_of(write_page(records.hostile(), store, tmp_path / "hostile.html")))
    page.locator("button", has_text="Open all").click()
    for _ in range(40):
        page.keyboard.press("f")
    page.keyboard.press("/")
    page.keyboard.type("<script>")
    page.keyboard.press("Enter")
    assert page.evaluate(script("census")) == HARMLESS
    assert page.title().startswith("<script>window.pwned = 1</script> </script>")


def test_everything_has_a_name_a_place_and_an_order(open_page: Open, run_page: str) -> None:
    page = open_page(run_page)
    page.locator("button", has_text="Open all").click()
    page.locator("#timeline-grid").focus()
    page.keyboard.press("End")
    assert page.evaluate(script("complaints")) == []


@pytest.mark.parametrize("width", [360, 700, 1024, 1920])
def test_the_page_fits_every_width(open_page: Open, run_page: str, width: int) -> None:
    page = open_page(run_page, viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_two_runs_stand_side_by_side(open_page: Open, store: Store, tmp_path: Path) -> None:
    runs = []
    for answer, code in (("five of nine regions", "look()"), ("six of nine regions", "look()")):
        run = Runs(tmp_path).create(RunStarted(query="How many regions?"))
        for event in (reply("", 1, f"```\n{code}\n```", 1.0), cell("", 1, code, 1.1), ended(answer, 1.2)):
            run.append(event_from_json(event))
        run.close()
        runs.append(run)
    page = open_page(address_of(write_text(tmp_path / "both.html", compare_page(runs[0], runs[1], store)[0])))
    assert page.locator("del").all_inner_texts() == ["five"]
    assert page.locator("ins").all_inner_texts() == ["six"]
    assert page.locator(".same-code").count() == 1
    assert page.evaluate(script("complaints")) == []


@contextmanager
def served(followed: Followed) -> Iterator[str]:
    """The address of a page that is served."""
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        app = application(followed, token="x", port=port)  # noqa: S106 - of a server that lives for one test
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://{HOST}:{port}/x/"
        finally:
            server.should_exit = True
            thread.join(10)


def test_a_served_page_follows_its_run_to_the_end(open_page: Open, store: Store, tmp_path: Path) -> None:
    run = Runs(tmp_path).create(RunStarted(query="Is it done?"))
    with served(FollowedRun(run, store)) as address:
        page = open_page(address)
        assert page.locator(".status").inner_text() == "running"
        run.append(event_from_json(reply("", 1, "```repl\nprint(1)\n```", 1.0)))
        page.locator("#turn-1").wait_for()
        run.append(event_from_json(ended("yes", 2.0)))
        run.close()
        page.locator(".status", has_text="completed").wait_for()
        assert page.locator(".answer-text").inner_text() == "yes"


def test_a_served_index_follows_all_runs(open_page: Open, store: Store, tmp_path: Path) -> None:
    with served(FollowedIndex(Runs(tmp_path), store, served_address, served=True)) as address:
        page = open_page(address)
        assert page.locator("#runs .soft").inner_text() == "There is no run yet."
        run = Runs(tmp_path).create(RunStarted(query="Is it done?"))
        page.locator(".run-box .status", has_text="running").wait_for()
        run.append(event_from_json(ended("yes", 2.0)))
        run.close()
        page.locator(".run-box .status", has_text="completed").wait_for()
        assert page.locator(".run-box a").get_attribute("href") == f"runs/{run.run_id}/"


def test_the_index_lists_runs_and_contexts_and_finds_them(open_page: Open, store: Store, tmp_path: Path) -> None:
    records_ = Runs(tmp_path)
    attack = "<img src=x onerror=alert(1)>"
    store.register_text(LOG, name="app.log")
    for query, answer in (("How many regions?", "five"), (attack, attack)):
        run = records_.create(RunStarted(query=query, contexts=({"context_id": "ctx_1", "name": attack},)))
        run.append(event_from_json(ended(answer, 1.2)))
        run.close()
        write_page(run, store)
    running = records_.create(RunStarted(query="Is it done?"))
    running.close()
    running = Run(running.directory, writable=True)
    page = open_page(address_of(write_index(records_, store, tmp_path / "index.html")))
    running.close()
    assert page.locator(".run-box h3").all_inner_texts() == ["Is it done?", attack, "How many regions?"]
    assert page.locator(".run-box .status").all_inner_texts() == ["running", "completed", "completed"]
    assert page.locator("#contexts td").first.inner_text() == "app.log"
    assert page.evaluate(script("complaints")) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.locator("input").fill("regions")
    assert page.locator(".run-box h3").all_inner_texts() == ["How many regions?"]
    page.locator(".run-box a").click()
    assert page.locator("h1").inner_text() == "How many regions?"

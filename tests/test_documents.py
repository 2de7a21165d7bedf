"""What README and docs/ say: links lead somewhere, commands exist and end well when they are run as they stand.

Every block fenced as `sh` or `python` is run in a made-up home directory, beside the files that the texts speak of,
with a scripted model server as the endpoint. A block that no test can run says why: `<!-- not run: … -->` before it.
"""

import importlib.util
import io
import mailbox
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlm_mcp.settings import load_settings
from tests.peers.forking import forked_command
from tests.peers.good_root import good_root
from tests.peers.openai_server import OpenAIServer

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]

# What a reader has typed before or what never ends by itself is stood in for; everything else is the real thing.
STAND_INS = r"""
set -eu
pip() {  # this very environment came from these commands: what is left to check is that they name what exists
    test "$1" = install
    shift
    for requirement in "$@"; do
        case "$requirement" in
            -e | . | '.[dev]' | '.[documents]' | '.[watch]' | '.[otel]' | '.[cluster]' | '.[s3]' | rlm-mcp) ;;
            *) echo "pip install $requirement: no such extra" >&2; return 1 ;;
        esac
    done
}
pytest() { :; }  # it is running
rlm-mcp() {
    case "$*" in
        serve | 'serve '* | *--serve* | *--watch*) timeout --signal=TERM 3 rlm-mcp "$@" || test $? = 124 ;;
        *) command rlm-mcp "$@" ;;
    esac
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str
    not_run: str


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        pattern = re.compile(r"(?:<!-- not run: ([^>]+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
        for found in pattern.finditer(text):
            yield Block(
                document=str(document.relative_to(ROOT)),
                line=text.count("\n", 0, found.start(2)) + 1,
                language=found[2],
                text=found[3],
                not_run=found[1] or "",
            )


RUN = [block for block in blocks() if block.language in {"sh", "python"}]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[OpenAIServer]:
    with OpenAIServer(good_root, models=["scripted", "gpt-5", "gpt-5-mini"]).run_in_thread() as server:
        yield server


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rlm-mcp` as a script that forks instead of importing everything once more."""
    script = tmp_path_factory.mktemp("bin") / "rlm-mcp"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(forked_command())} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with what the texts speak of."""
    log = "".join(
        f"2026-11-{1 + i % 7:02} 10:00:{i % 60:02} {'ERROR' if i % 9 == 0 else 'INFO'} [main] shop.Cart: order {i}\n"
        for i in range(900)
    )
    (tmp_path / "server.log").write_text(log)
    (tmp_path / "logs").mkdir()
    for day in range(1, 8):
        (tmp_path / "logs" / f"app-2026-11-{day:02}.log").write_text(log)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "main.py").write_text("def main():\n    raise NotImplementedError('todo')\n")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "q3.pdf").write_bytes(_pdf("Revenue rose by 4 percent."))
    with zipfile.ZipFile(tmp_path / "dump.zip", "w") as archive:
        archive.writestr("orders.csv", "id,total\n1,20\n2,30\n")
    box = mailbox.mbox(str(tmp_path / "inbox.mbox"))
    box.add("From: ada@example.com\nSubject: order\n\nWhere is my order?\n")
    box.close()
    return tmp_path


def _pdf(text: str) -> bytes:
    """The smallest PDF with one page of text."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        f"<</Length {len(stream)}>>\nstream\n{stream}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out = io.BytesIO(b"")
    out.write(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n{body}\nendobj\n".encode())
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write(b"".join(f"{place:010} 00000 n \n".encode() for place in places))
    out.write(f"trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.document}:{block.line}")
def test_every_block_ends_well(
    block: Block, home: Path, endpoint: OpenAIServer, sandbox_cache: Path, command: Path
) -> None:
    if block.not_run:
        pytest.skip(block.not_run)
    environ = {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "LANG": "C.UTF-8",
        "RLM_MCP_CACHE_DIR": str(sandbox_cache),
        "RLM_MCP_BASE_URL": endpoint.base_url,
        "RLM_MCP_MODEL": "scripted",
    }
    done = subprocess.run(  # noqa: S603 # the commands of our own documents
        ["/bin/bash", "-c", STAND_INS + block.text] if block.language == "sh" else [sys.executable, "-c", block.text],
        check=False,
        cwd=ROOT if "benchmarks" in block.text or "wasm_runtime" in block.text else home,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("block", [block for block in blocks() if block.language == "toml"], ids=lambda b: b.document)
def test_settings_that_are_shown_are_understood(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(block.text)
    settings = load_settings(environ={"HOME": str(tmp_path)}, config_file=file)
    assert set(settings.sources) == set(tomllib.loads(block.text))


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    left_out = [block for block in RUN if block.not_run]
    assert len(left_out) < len(RUN) / 3
    assert all(len(block.not_run) > 20 for block in left_out)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        file = document if not path else (document.parent / path).resolve()
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(link)
    assert broken == []


def _anchors(document: Path) -> set[str]:
    """The anchors that headings get: lower case, words joined by hyphens, punctuation left out."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_written_from_the_code_are_up_to_date() -> None:
    """`python docs/generate.py` writes them."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    written = {name: (ROOT / "docs" / name).read_text("utf-8") for name in generate.PAGES}
    assert written == {name: page() for name, page in generate.PAGES.items()}


def test_messages_quoted_as_symptoms_are_real_ones() -> None:
    """A quote is searched in the sources, where a message may be split over lines and "…" stands for values."""
    sources = [*(ROOT / "rlm_mcp").rglob("*.py"), *(ROOT / "wasm_runtime").rglob("*.py")]
    code = "\n".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text("utf-8")) for file in sources)
    rows = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8").splitlines()
    quotes = [quote for row in rows for quote in re.findall(r'^\| [^|]*?"([^"|]+)"', row)]
    pieces = [piece.strip() for quote in quotes for piece in quote.split("…") if piece.strip()]
    assert pieces
    assert [piece for piece in pieces if piece not in code] == []


def test_what_is_shown_of_the_demo_is_what_it_says(sandbox_cache: Path, tmp_path: Path) -> None:
    """Its times are those of the record, so they are the same everywhere."""
    shown = re.search(r"<!-- output of: rlm-mcp demo -->\n```\n(.*?)\n```", DOCUMENTS[0].read_text("utf-8"), re.DOTALL)
    assert shown is not None
    said = subprocess.run(  # noqa: S603 # our own command
        [*forked_command(), "demo", "--cache-dir", str(sandbox_cache)],
        env={"HOME": str(tmp_path), "COLUMNS": "100", "LANG": "C.UTF-8", "NO_COLOR": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert shown[1] in said


def test_the_readme_lists_every_command_and_no_other() -> None:
    listing = re.search(r"```\n(rlm-mcp  .*?)```", DOCUMENTS[0].read_text("utf-8"), re.DOTALL)
    assert listing is not None
    named = {found for line in listing[1].splitlines() for found in re.findall(r"^rlm-mcp ([a-z]+)", line)}
    said = subprocess.run([*forked_command(), "--help"], check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own command
    assert named == set(re.findall(r"^    ([a-z]+) ", said[said.index("commands:") :], re.MULTILINE))


def test_every_test_that_stands_for_a_promise_of_security_is_there() -> None:
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    named = re.findall(r"`((?:[a-z_]+/)*test_[a-z_]+[.]py)`", text)
    there = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    missing = [name for name in named if not any(path == name or path.endswith(f"/{name}") for path in there)]
    assert (missing, len(named) > 40) == ([], True)

import json
import re
from base64 import b64decode
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from rlm_mcp.clients.known import Entry
from rlm_mcp.clients.links import install_links

ROOT = Path(__file__).parents[3]
SHAPE = {"command": "uvx", "args": ["rlm-mcp"]}


def test_each_link_carries_the_entry_in_the_form_its_client_reads() -> None:
    links = {link.title: link for link in install_links()}
    for title in ("Cursor", "LM Studio"):
        for url in (links[title].app, links[title].web):
            said = parse_qs(urlsplit(url).query)
            assert said["name"] == ["rlm-mcp"]
            assert json.loads(b64decode(said["config"][0])) == SHAPE
    for title in ("VS Code", "VS Code Insiders"):
        scheme, query = links[title].app.split("?")
        assert scheme.endswith(":mcp/install")
        assert json.loads(unquote(query)) == {"name": "rlm-mcp"} | SHAPE
        said = parse_qs(urlsplit(links[title].web).query)
        assert (said["name"], json.loads(said["config"][0])) == (["rlm-mcp"], SHAPE)
    goose = parse_qs(urlsplit(links["Goose"].app).query)
    assert (goose["cmd"], goose["arg"], goose["id"]) == (["uvx"], ["rlm-mcp"], ["rlm-mcp"])


def test_a_link_can_be_made_of_any_entry() -> None:
    entry = Entry(command="/opt/ü & co/rlm-mcp", args=("-m", "a=b"))
    said = parse_qs(urlsplit(install_links(entry)[0].web).query)
    assert json.loads(b64decode(said["config"][0])) == {"command": "/opt/ü & co/rlm-mcp", "args": ["-m", "a=b"]}


def test_the_links_in_the_readme_are_these() -> None:
    written = set(
        re.findall(r"\((https?://[^)\s]*install-?/?mcp[^)\s]*|https?://[^)\s]*/mcp/install[^)\s]*)\)", readme())
    )
    assert written <= {link.web for link in install_links()}


def readme() -> str:
    return (ROOT / "README.md").read_text("utf-8")

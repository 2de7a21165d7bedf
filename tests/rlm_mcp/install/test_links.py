"""The links of README that add this server to a client with one click."""

import json
import re
from base64 import b64decode
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from rlm_mcp.install.clients import NAME, Entry, standard_entry

ROOT = Path(__file__).parents[3]
LINK = re.compile(r"\((https?://[^)\s]*(?:install-mcp|mcp/install)[^)\s]*)\)")
# Fetches and starts the newest release: whoever clicks has not installed anything.
PUBLISHED = standard_entry(Entry(command="uvx", args=(NAME,)))


def test_each_link_carries_the_entry_in_the_form_its_client_reads() -> None:
    links = LINK.findall((ROOT / "README.md").read_text("utf-8"))
    assert {urlsplit(link).hostname for link in links} == {"cursor.com", "vscode.dev", "lmstudio.ai"}
    for link in links:
        said = parse_qs(urlsplit(link).query)
        (config,) = said["config"]
        entry = json.loads(config if urlsplit(link).hostname == "vscode.dev" else b64decode(config))
        assert (said["name"], entry) == ([NAME], PUBLISHED)

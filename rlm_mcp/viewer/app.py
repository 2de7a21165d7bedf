"""The pages of MCP Apps: a run, and a context, shown by a host inside a chat.

They are the pages on disk with another source of data. The HTML holds no data; its script gets what it shows from the
host, through messages between the page and its frame.
"""

from functools import cache

from rlm_mcp.records.events import RunStarted
from rlm_mcp.version import __version__
from rlm_mcp.viewer.page import assemble, page_data
from rlm_mcp.viewer.passages import StoredTexts
from rlm_mcp.viewer.story import story_of


@cache
def run_app() -> str:
    """The HTML of a run that is not known yet."""
    story = story_of([RunStarted(query="")])
    return assemble("run-app", title="Run", data=page_data(story, StoredTexts(), is_live=True))


@cache
def context_app() -> str:
    """The HTML of a context that is not known yet."""
    return assemble("context-app", title="Context", data={"version": __version__})

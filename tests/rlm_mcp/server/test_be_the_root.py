"""A scripted client follows the prompt be_the_root to the letter, with the real sandbox."""

import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult

from rlm_mcp.server.server import build_server
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.workspace import open_workspace

pytestmark = pytest.mark.anyio

QUESTION = "Which worker has the most complaints that sound angry?"
MAILS = [
    f"worker-{i % 3}: {'this is outrageous, again!' if i % 3 == 1 or i % 7 == 0 else 'thank you kindly'}\n"
    for i in range(300)
]


async def look(client: Client, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool("inspect_context", arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    fields: dict[str, Any] = result.structured_content
    return fields


async def test_following_the_guide_answers_the_question_without_a_key(
    tmp_path: Path, compiled_cache: Path, era: str
) -> None:
    settings = Settings(data_dir=tmp_path / "data", cache_dir=compiled_cache)
    async with open_workspace(settings) as workspace:
        await workspace.contexts.register(text="".join(MAILS), name="mails")
        async with Client(build_server(workspace), mode=era) as client:
            with anyio.fail_after(60):
                guide = await client.get_prompt("be_the_root", {"context": "mails", "question": QUESTION})
                steps = guide.messages[0].content.text  # type: ignore[union-attr] # the test fails where it is another kind
                assert QUESTION in steps
                assert re.findall(r"inspect_context\(context='mails'", steps)

                overview = await look(client, context="mails")
                assert overview["lines"] == 300
                probe = "lines = context.splitlines(); n = len(lines)\nprint(n, lines[0], lines[n // 2], sep='\\n')"
                assert (await look(client, context="mails", code=probe))["stdout"].startswith("300\nworker-0")

                judged = 0
                await look(client, context="mails", code="angry = []")
                while judged < 300:
                    batch = f"for i in range({judged}, min({judged} + 100, n)): print(i, lines[i])"
                    shown = (await look(client, context="mails", code=batch))["stdout"].splitlines()
                    assert len(shown) == 100
                    mine = [int(line.split()[0]) for line in shown if "outrageous" in line]
                    await look(client, context="mails", code=f"angry += {mine}")
                    judged += 100
                count = "from collections import Counter\nCounter(lines[i].split(':')[0] for i in angry).most_common(1)"
                assert (await look(client, context="mails", code=count))["value"] == "[('worker-1', 100)]"
                verified = await look(client, context="mails", start_line=2, end_line=2)
                assert verified["text"] == MAILS[1]

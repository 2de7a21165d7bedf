"""`rlm-mcp demo`: the main job on a machine with nothing configured, by replaying a recorded run of a real model.

Only the model's replies come from the record. Every block of code is executed again in the sandbox over the log that
ships with the package, every sub-call is matched by its prompt, every citation is checked again.
"""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TextIO

from rlm_mcp.engine import Event
from rlm_mcp.errors import RlmError
from rlm_mcp.runs import Outcome, read_events
from rlm_mcp.terminal import harmless
from rlm_mcp.workspace import Workspace

SHOWN_CHARS = 600
"""Of one printed output; the record has it all."""

NEXT_STEPS = """
This was a replay: the model's replies were recorded, everything else was done again just now.

With a model of your own:
  export RLM_MCP_MODEL=… RLM_MCP_API_KEY=…      (RLM_MCP_BASE_URL for any other OpenAI-compatible server;
                                                 a local Ollama, LM Studio, llama.cpp or vLLM is found by itself)
  rlm-mcp solve "Your question" path/to/file-or-directory

From an MCP client, with or without a model:
  claude mcp add rlm -- rlm-mcp
  {"mcpServers": {"rlm": {"command": "rlm-mcp"}}}
"""


class NoDemo(RlmError):
    """The package was built without the recorded run."""


class Teller:
    """Prints what happens in a run as it happens."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def event(self, event: Event) -> None:
        """One event, in a few lines or none."""
        depth = "  " * (event["path"].count(".") + 1) if event.get("path") else ""
        for line in _told(event):
            self._out.write(f"{depth}{harmless(line)}\n")
        self._out.flush()

    def say(self, text: str) -> None:
        """One sentence."""
        self._out.write(f"{harmless(text)}\n")
        self._out.flush()


async def play_demo(workspace: Workspace, out: TextIO, *, as_json: bool) -> bool:
    """Replays the recorded run that ships with the package. True when it came out as recorded."""
    with _data("shop.log") as log, _data("run.jsonl") as record:
        if not record.is_file():
            raise NoDemo("this build of rlm-mcp has no recorded run: install a released version, or use rlm-mcp solve.")
        return await replay(workspace, list(read_events(record)), log, out, as_json=as_json)


async def replay(workspace: Workspace, events: Sequence[Event], log: Path, out: TextIO, *, as_json: bool) -> bool:
    """Replays a recorded run over `log` and tells it, as it goes or as one JSON object."""
    context = await workspace.register(source=str(log), name=log.name)
    told = Teller(io.StringIO() if as_json else out)
    model = events[0]["models"]["root"]["name"]
    told.say(f"{context.name}: {context.lines:,} lines, {context.chars:,} characters. Replaying a run of {model}.")
    told.say(f"Question: {events[0]['query']}\n")
    outcome, difference = await workspace.replay_events(events, (context,), told.event)
    if as_json:
        out.write(json.dumps(_facts(outcome, difference), ensure_ascii=True, indent=1) + "\n")
    else:
        told.say(_ending(outcome, difference))
        told.say(NEXT_STEPS)
    return difference is None


def _data(name: str) -> AbstractContextManager[Path]:
    return as_file(files("rlm_mcp.demo_data").joinpath(name))


def _told(event: Event) -> list[str]:
    match event["event"]:
        case "routed":
            return [f"→ {event['mode']}, depth {event['depth']}: {event['reason']}"]
        case "root_reply":
            return [f"── turn {event['turn']} ── the model writes", _shown(event["text"])]
        case "sub_reply":
            return [f"   sub-call: {_line(event['prompt_head'])} → {_line(str(event['value']))}"]
        case "sub_failed":
            return [f"   sub-call failed: {_line(event['error'])}"]
        case "cell":
            return ["   the sandbox answers", _shown(_output(event))]
        case _:
            return []


def _output(cell: Mapping[str, Any]) -> str:
    parts = [cell["stdout"].rstrip("\n"), cell["value"] or ""]
    if cell["error"]:
        parts.append(f"{cell['error']['type']}: {cell['error']['message']}")
    if cell["final"]:
        parts.append(f"final answer, by {cell['final']['via']}")
    return "\n".join(part for part in parts if part) or "(nothing printed)"


def _shown(text: str) -> str:
    cut = text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]} … ({len(text):,} characters)"
    return "\n".join(f"   │ {line}" for line in cut.splitlines())


def _line(text: str) -> str:
    one = " ".join(text.split())
    return one if len(one) <= 100 else f"{one[:99]}…"


def _ending(outcome: Outcome, difference: str | None) -> str:
    usage = outcome.usage
    lines = [f"\nAnswer: {outcome.answer}"]
    for citation in outcome.citations:
        verified = "verified" if citation.verified else "not found there"
        lines.append(
            f"  {citation.path}:{citation.start_line}-{citation.end_line} ({verified}) {_line(citation.quote)}"
        )
    cost = "" if usage.cost_usd is None else f", ${usage.cost_usd:.4f}"
    lines.append(
        f"{outcome.iterations} turns, {usage.root_calls} root and {usage.sub_calls} sub-calls, {usage.prompt_tokens:,} "
        f"tokens in, {usage.completion_tokens:,} out{cost}; read by code {outcome.coverage.read_by_code:,} of "
        f"{outcome.coverage.total_chars:,} characters"
    )
    if difference is not None:
        lines.append(f"It differs from the record: {difference}")
    return "\n".join(lines)


def _facts(outcome: Outcome, difference: str | None) -> dict[str, Any]:
    facts = asdict(outcome)
    facts["coverage"].pop("ranges", None)
    return {"replay": True, "difference": difference, **facts}

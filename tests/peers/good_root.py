"""A good root model, by a script: `python -m tests.peers.good_root --port 8000` serves it until interrupted."""

import argparse
import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.peers.openai_server import Fault, OpenAIServer, Quirks, Request


@dataclass(slots=True)
class Script:
    """What a good root model does about questions that match `question`: one reply a turn."""

    question: str
    turns: Sequence[str]
    uses: int = field(default=0)


LOOK = """I look at the input first.

```repl
text = "\\n".join(context.values()) if hasattr(context, "values") else str(context)
print(type(context).__name__, len(context), len(text))
print(text[:600])
```"""

COUNT_BY_COMPONENT = """The lines are `date time LEVEL [thread] component: message`. I count them by component.

```repl
import re
from collections import Counter
counts = Counter()
for line in text.splitlines():
    found = re.match(r"\\S+ \\S+ +{level} +(?:\\[[^\\]]*\\] +)?([\\w.$-]+)", line)
    if found:
        counts[found.group(1)] += 1
print(counts.most_common(3))
top, number = counts.most_common(1)[0]
answer_text = f"{{top}} with {{number}} {level} lines"
```"""

COUNT_LINES = """```repl
number = sum(1 for line in text.splitlines() if "{word}" in line)
print(number)
answer_text = str(number)
```"""

SUBMIT = """```repl
FINAL(answer_text)
```"""

ASK_IN_PIECES = """Meaning has to be judged here, so I ask about each piece, all at once.

```repl
size = 20000
pieces = [text[start:start + size] for start in range(0, len(text), size)] or [""]
question = {question!r}
head = "Answer from this text only, or say NONE.\\nQuestion: " + question + "\\n\\n"
notes = llm_query_batched([head + piece for piece in pieces])
kept = [str(note) for note in notes if note and "NONE" not in str(note)]
answer_text = "\\n".join(kept) or "The text does not say."
print(len(pieces), "pieces,", len(kept), "with an answer")
```"""


def good_root(request: Request) -> str:
    """Plays a good root model, and its sub-model: looks first, computes what code can compute, asks about the rest."""
    whole = request.text
    if not _is_root(whole):
        return _sub_reply(request.last)
    question = _question(whole)
    turn: int = sum(message["role"] == "assistant" for message in request.messages)
    if found := re.search(r"component.{0,40}most (\w+) lines", question, re.IGNORECASE):
        plan = [LOOK, COUNT_BY_COMPONENT.format(level=found.group(1).upper()), SUBMIT]
    elif found := re.search(
        r"how many lines.{0,30}(?:contain|with|mention)\w*\s+[\"'`]?(\w+)", question, re.IGNORECASE
    ):
        plan = [LOOK, COUNT_LINES.format(word=found.group(1)), SUBMIT]
    else:
        plan = [LOOK, ASK_IN_PIECES.format(question=question), SUBMIT]
    return plan[min(turn, len(plan) - 1)]


def _is_root(whole: str) -> bool:
    return "llm_query" in whole or "FINAL" in whole


def _question(whole: str) -> str:
    """The line that asks something: the last one that ends in a question mark, else the last line."""
    lines = [line.strip() for line in whole.splitlines() if line.strip()]
    asking = [line for line in lines if line.endswith("?")]
    line = (asking or lines or [""])[-1]
    return re.sub(r"^(?:#+\s*)?(?:question|query|task)\s*:\s*", "", line, flags=re.IGNORECASE)


def _sub_reply(prompt: str) -> str:
    if re.search(r"\byes\b.{0,10}\bno\b", prompt, re.IGNORECASE):
        return "yes" if re.search(r"error|fail|fatal", prompt.split("\n", 1)[-1], re.IGNORECASE) else "no"
    body = prompt.split("\n\n", 1)[-1].strip()
    return body.splitlines()[0][:200] if body else "NONE"


def main() -> None:
    """Serves until interrupted, and prints the counts then."""
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible server, behaving as a good root model.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each reply")
    parser.add_argument("--model", action="append", help="a model it serves (scripted)")
    parser.add_argument("--api-key", help="the only key it takes")
    parser.add_argument("--say", help="reply with this text to everything, instead of playing a root model")
    parser.add_argument("--window", type=int, help="tokens of the window")
    parser.add_argument("--fail-every", type=int, default=0, help="answer every n-th request with --fail-status")
    parser.add_argument("--fail-status", type=int, default=429)
    options = parser.parse_args()

    def faults(request: Request) -> Fault | None:
        due = options.fail_every and (request.number + 1) % options.fail_every == 0
        return Fault(status=options.fail_status, retry_after=0.5) if due else None

    server = OpenAIServer(
        good_root if options.say is None else [options.say],
        latency=options.latency,
        models=options.model or ["scripted"],
        api_key=options.api_key,
        port=options.port,
        quirks=Quirks(window_tokens=options.window),
        faults=faults,
        keep_requests=False,
    )

    async def serve() -> None:
        async with server:
            print(f"export RLM_MCP_BASE_URL={server.base_url} RLM_MCP_MODEL={server.models[0]}", flush=True)  # noqa: T201 # for the shell
            await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(serve())
    print(server.counts)  # noqa: T201 # for whoever ran it by hand


if __name__ == "__main__":
    main()

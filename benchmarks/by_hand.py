"""An OpenAI-compatible endpoint whose root model is played by hand: see a run through the model's eyes.

    python -m benchmarks.by_hand FOLDER [--port 8090] [--labels FILE.jsonl]
    RLM_MCP_BASE_URL=http://127.0.0.1:8090/v1 RLM_MCP_MODEL=root RLM_MCP_SUB_MODEL=sub rlm-mcp solve QUERY SOURCE

RLM_MCP_SUB_BASE_URL sends the sub-calls to another endpoint instead. A root model of any name is played by hand.

Each request of the root model becomes FOLDER/root-0001.md, which holds the messages that are new in its dialogue.
The reply is what is written to FOLDER/root-0001.reply.md (write another file and rename it, so that it is complete).
The sub-model is an oracle over `--labels`, lines of {"text": …, "label": …}: it labels the texts in a prompt of
`classify` or `pick` that it knows, and sees nothing but that prompt. Without `--labels`, or where it cannot answer, its
requests are files as well (sub-0001.md). FOLDER/usage.json has the calls and tokens of each model, at four bytes a
token.
"""

import argparse
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2
_NUMBERED = re.compile(r"^(\d+)[ .] ?(.*)$")
_SINGLE = re.compile(r"Text: (.*?)\n\n(.*) Answer (.*) or (.*)\.", re.DOTALL)

JSON = dict[str, Any]


class Table:
    """The requests of both models, their files and their tokens."""

    def __init__(self, folder: Path, reply_of_sub: Callable[[str], str | None]) -> None:
        """`reply_of_sub` is given the prompt of a sub-call; where it returns None, the sub-call is a file as well."""
        self.folder = folder
        self.usage: dict[str, dict[str, int]] = {}
        """calls, prompt_tokens and completion_tokens of `root` and `sub`"""
        self._reply_of_sub = reply_of_sub
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        """the messages that were shown of each dialogue, by its opening: a child run has one of its own"""

    def reply_to(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[str, dict[str, int]]:
        """The reply to a request and its usage. Waits for whoever plays the model."""
        kind = "sub" if model == "sub" else "root"
        said = self._reply_of_sub(str(messages[-1]["content"])) if kind == "sub" else None
        text = said if said is not None else self._by_hand(kind, messages)
        usage = {"prompt_tokens": sum(tokens(str(m["content"])) for m in messages), "completion_tokens": tokens(text)}
        with self._lock:
            sums = self.usage.setdefault(kind, {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0})
            sums["calls"] += 1
            for name, count in usage.items():
                sums[name] += count
            (self.folder / "usage.json").write_text(json.dumps(self.usage, indent=1))
        return text, usage

    def _by_hand(self, kind: str, messages: Sequence[Mapping[str, str]]) -> str:
        with self._lock:
            number = self._files[kind] = self._files.get(kind, 0) + 1
            opening = "\n".join(str(message["content"]) for message in messages[:2])
            first = seen if kind == "root" and len(messages) > (seen := self._seen.get(opening, 0)) else 0
            self._seen[opening] = len(messages)
        name = f"{kind}-{number:04}"
        shown = "\n\n".join(f"## {message['role']}\n\n{message['content']}" for message in messages[first:])
        (self.folder / f"{name}.md").write_text(shown + "\n", encoding="utf-8")
        answer = self.folder / f"{name}.reply.md"
        while not answer.exists():
            time.sleep(POLL_SECONDS)
        return answer.read_text("utf-8")


def tokens(text: str) -> int:
    """Four bytes each, rounded up."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def oracle(prompt: str, labels: Mapping[str, str]) -> str | None:
    """The labels of the texts in a prompt that classifies; None for any other prompt, or a text that is not known."""
    if (single := _SINGLE.search(prompt)) is not None:
        return labels.get(single[1].strip())
    head, coded, body = prompt.partition("The texts are data:\n")
    if not coded:
        head, _, body = prompt.partition("Texts:\n")
    texts = {int(found[1]): found[2].strip() for line in body.split("\n") if (found := _NUMBERED.match(line))}
    if not texts or not all(text in labels for text in texts.values()):
        return None
    said = {number: labels[text] for number, text in texts.items()}
    if not coded:
        return json.dumps({str(number): label for number, label in said.items()})
    legend = re.search(r"^Labels: (.*)$", head, re.MULTILINE)
    codes = dict(entry.split(" = ", 1)[::-1] for entry in legend[1].split("; ")) if legend else {}
    if not set(said.values()) <= set(codes):
        return None
    usual = re.search(r"Most are (\w+):", head)
    pairs = "".join(f"{n}{codes[label]}" for n, label in said.items() if not usual or codes[label] != usual[1])
    return json.dumps({"labels": pairs} | ({"seen": max(texts)} if usual else {}))


def handler_of(table: Table) -> type[BaseHTTPRequestHandler]:
    """The request handler over a table."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"data": [{"id": "root"}, {"id": "sub"}]})

        def do_POST(self) -> None:
            body: JSON = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text, usage = table.reply_to(str(body["model"]), body["messages"])
            message = {"role": "assistant", "content": text}
            self._send(
                {
                    "model": body["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": usage,
                }
            )

        def _send(self, value: JSON) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Says nothing: the folder shows every request."""

    return Handler


def read_labels(path: Path | None) -> dict[str, str]:
    """The labels by text."""
    lines = path.read_text("utf-8").splitlines() if path is not None else []
    rows = [json.loads(line) for line in lines if line.strip()]
    return {" ".join(row["text"].split()): row["label"] for row in rows}


def main() -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--labels", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(
        ("127.0.0.1", options.port),
        handler_of(Table(options.folder, partial(oracle, labels=read_labels(options.labels)))),
    )
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

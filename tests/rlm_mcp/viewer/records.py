"""Records to show: a tree of runs with thousands of sub-calls, and one whose texts attack the page."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from rlm_mcp.records.events import Event, event_from_json

Data = dict[str, Any]
"""An event as the JSON object of its line."""

CONTEXT = {
    "context_id": "ctx_made",
    "name": "tickets",
    "kind": "files",
    "chars": 4_000_000,
    "lines": 80_000,
    "files": 40,
}


HEAD = "Answer from this text only, or say NONE.\nQuestion: which complaints are there?\n\n"


def started(**facts: Any) -> Data:
    return {
        "event": "run_started",
        "format": 1,
        "run_id": "run-0123456789ab",
        "created_at": "2026-11-22T09:30:00.000+00:00",
        "query": "Which complaints come back in more than one region?",
        "contexts": [CONTEXT],
        "models": {"root": {"name": "big-model"}, "sub": {"name": "small-model"}},
        "limits": {"max_sub_calls": 6_000, "max_usd": 20.0, "max_seconds": None, "concurrency": 64},
        "at": 0.0,
    } | facts


def reply(path: str, turn: int, text: str, at: float, seconds: float = 2.0, **facts: Any) -> Data:
    return {
        "event": "root_reply",
        "path": path,
        "turn": turn,
        "text": text,
        "finish_reason": "stop",
        "model": "big-model",
        "last": ["", ""],
        "usage": {"prompt_tokens": 2_100, "completion_tokens": 180, "cost_usd": 0.004, "cached_prompt_tokens": 0},
        "seconds": seconds,
        "at": at,
    } | facts


def cell(path: str, turn: int, code: str, at: float, seconds: float = 0.1, **facts: Any) -> Data:
    return {
        "event": "cell",
        "path": path,
        "turn": turn,
        "block": 1,
        "code": code,
        "stdout": "",
        "stderr": "",
        "value": None,
        "error": None,
        "truncated": False,
        "stdout_chars": 0,
        "seconds": seconds,
        "stopped_by": None,
        "undone": False,
        "variables": [],
        "changed": [],
        "final": None,
        "citations": [],
        "reads": [],
        "notes": [],
        "at": at,
    } | facts


def call(path: str, turn: int, prompt: str, value: object, at: float, seconds: float, **facts: Any) -> Data:
    return {
        "event": "sub_reply",
        "path": path,
        "turn": turn,
        "key": "0123456789abcdef",
        "kind": "llm",
        "prompt_chars": len(prompt),
        "prompt_head": prompt[:300],
        "value": value,
        "seconds": seconds,
        "at": at,
    } | facts


def ended(answer: object, at: float, **facts: Any) -> Data:
    return {
        "event": "run_ended",
        "path": "",
        "turn": 1,
        "status": "completed",
        "answer": answer,
        "stopped_by": "final",
        "answered_by": "FINAL",
        "citations": [],
        "coverage": {"total_chars": 0, "read_by_code": 0, "read_by_model": 0, "ranges": {"code": {}, "model": {}}},
        "usage": {},
        "iterations": 1,
        "mode": "rlm",
        "mode_reason": "",
        "depth": 1,
        "message": "",
        "answer_chars": len(str(answer)),
        "at": at,
    } | facts


def events(data: Sequence[Data]) -> list[Event]:
    """The events of these JSON objects."""
    return [event_from_json(one) for one in data]


def big(calls: int = 5_000, *, in_flight: int = 64, seed: int = 1) -> list[Event]:
    """About `calls` sub-calls: half in batches of the run itself, half in child runs, some of which have children."""
    made = _Made(in_flight=in_flight, random=random.Random(seed))
    made.events += [
        started(),
        {
            "event": "routed",
            "path": "",
            "turn": 0,
            "mode": "rlm",
            "depth": 2,
            "reason": "rlm because 1,142,857 tokens",
            "at": 0.0,
        },
    ]
    batch = max(1, calls // 8)
    for turn in range(1, 5):
        made.turn(
            "",
            turn,
            f"pieces = split(context, {batch})\nnotes = llm_query_batched([head + piece for piece in pieces])",
            batch,
        )
    children = max(1, calls // 2 // 62)
    made.say("", 5)
    began = made.now
    names = [f"{number:08x}" for number in range(children)]
    for name in names:
        made.child(name, began + made.random.random() * 4, depth=2)
    made.now = max(event["at"] for event in made.events)
    made.events.append(
        cell(
            "",
            5,
            "regions = rlm_query_batched(questions, parts)",
            made.now,
            made.now - began,
            stdout="done\n",
            stdout_chars=5,
        )
    )
    made.say("", 6)
    code = made.now
    answer = (
        "Late delivery comes back in five of nine regions; damaged packaging in four.\n\nEverything else stays local."
    )
    made.events.append(cell("", 6, "FINAL(report)", code, 0.01, final={"value": answer, "via": "FINAL"}))
    made.events.append(
        {"event": "decided", "path": "", "turn": 6, "step": "finish", "why": "FINAL", "detail": "", "at": code}
    )
    ranges = {
        "code": {f"ctx_made/region-{n:02}.csv": [[0, 100_000]] for n in range(40)},
        "model": {
            f"ctx_made/region-{n:02}.csv": [[k * 5_000, k * 5_000 + 3_700] for k in range(20)] for n in range(0, 40, 2)
        },
    }
    coverage = {"total_chars": 4_000_000, "read_by_code": 4_000_000, "read_by_model": 1_480_000, "ranges": ranges}
    made.events.append(ended(answer, made.now, iterations=6, usage=made.spent(""), coverage=coverage))
    return events(made.events)


class _Made:
    """A record being made, with a clock, a queue of `in_flight` places and a ledger for each run."""

    def __init__(self, *, in_flight: int, random: random.Random) -> None:
        self.events: list[Data] = []
        self.random = random
        self.now = 0.5
        self._in_flight = in_flight
        self._spent: dict[str, dict[str, Any]] = {}

    def spent(self, path: str) -> dict[str, Any]:
        empty = {
            "root_calls": 0,
            "sub_calls": 0,
            "cached_calls": 0,
            "failed_calls": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "cost_usd": 0.0,
            "seconds": 0.0,
        }
        return dict(self._spent.setdefault(path, empty))

    def pay(self, path: str, what: str, tokens: tuple[int, int], usd: float) -> dict[str, Any]:
        steps = path.split(".") if path else []
        for depth in range(len(steps) + 1):
            self.spent(".".join(steps[:depth]))
            account = self._spent[".".join(steps[:depth])]
            account[what] += 1
            account["prompt_tokens"] += tokens[0]
            account["completion_tokens"] += tokens[1]
            account["cost_usd"] = round(account["cost_usd"] + usd, 6)
            account["seconds"] = self.now
        return self.spent("")

    def say(self, path: str, turn: int) -> None:
        seconds = 1 + 3 * self.random.random()
        self.now = round(self.now + seconds, 3)
        code = "notes = []\nfor piece in pieces:\n    notes.append(llm_query(head + piece))\nprint(len(notes))"
        text = f"I go on with part {turn}.\n\n```repl\n# turn {turn}\n{code}\n```"
        spent = self.pay(path, "root_calls", (2_100, 180), 0.004)
        self.events.append(reply(path, turn, text, self.now, round(seconds, 3), spent=spent))

    def batch(self, path: str, turn: int, number: int) -> None:
        """Sub-calls with at most `in_flight` at once; the children share the places."""
        places = [self.now] * min(max(1, self._in_flight // 20) if path else self._in_flight, number)
        made: list[Data] = []
        asked = self.now
        for index in range(number):
            place = min(range(len(places)), key=places.__getitem__)
            seconds = 0.4 + self.random.expovariate(1.4)
            places[place] += seconds
            prompt = f"{HEAD}ticket {index:05} of {path or 'all'}: the parcel came late"
            end = round(places[place], 3)
            usage = {
                "prompt_tokens": 420,
                "completion_tokens": 12,
                "cost_usd": 0.0002,
                "request_seconds": round(seconds, 3),
            }
            facts = {"model": "small-model", "cached": False, "usage": usage}
            event = call(path, turn, prompt, f"late delivery, ticket {index:05}", end, round(end - asked, 3), **facts)
            if self.random.random() < 0.01:
                del event["value"]
                event |= {
                    "event": "sub_failed",
                    "error": "the sub-call failed twice: model 'small-model' replied with nothing (stop, 0 tokens)",
                }
            made.append(event)
        for event in sorted(made, key=lambda event: float(event["at"])):
            self.now = event["at"]
            self.events.append(
                event
                | {"spent": self.pay(path, "failed_calls" if "error" in event else "sub_calls", (420, 12), 0.0002)}
            )

    def turn(self, path: str, turn: int, code: str, calls: int) -> None:
        self.say(path, turn)
        began = self.now
        self.batch(path, turn, calls)
        printed = "\n".join(f"ticket {n:05}: late delivery" for n in range(40))
        self.events.append(
            cell(path, turn, code, self.now, round(self.now - began, 3), stdout=printed, stdout_chars=len(printed))
        )
        self.events.append(
            {
                "event": "decided",
                "path": path,
                "turn": turn,
                "step": "again",
                "why": "output",
                "detail": "",
                "at": self.now,
            }
        )

    def child(self, path: str, began: float, *, depth: int) -> None:
        self.now = began
        self.events.append(
            {
                "event": "routed",
                "path": path,
                "turn": 0,
                "mode": "rlm",
                "depth": depth - 1,
                "reason": "rlm because it was asked for",
                "at": began,
            }
        )
        self.turn(path, 1, "notes = llm_query_batched(prompts)", 55)
        if depth > 1 and self.random.random() < 0.4:
            self.say(path, 2)
            start = self.now
            self.child(f"{path}.{self.random.randrange(1 << 32):08x}", self.now, depth=depth - 1)
            self.events.append(
                cell(path, 2, "inner = rlm_query(question, notes)", self.now, round(self.now - start, 3))
            )
        self.events.append(ended(f"Complaints of {path}: late delivery", self.now, path=path, usage=self.spent(path)))
        parent, _, name = path.rpartition(".")
        question = f"Which complaints are there in part {name}?"
        event = call(
            parent,
            5 if not parent else 2,
            question,
            f"Complaints of {path}: late delivery",
            self.now,
            round(self.now - began, 3),
        )
        self.events.append(event | {"kind": "rlm", "child": name, "spent": self.spent("")})


# --- hostile

TEXTS = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 2</script>",
    "<!--<script>",
    '"><img src=x onerror="window.pwned=3">',
    "<svg onload=window.pwned=4>",
    "javascript:window.pwned=5",
    "<a href='javascript:window.pwned=6'>click</a>",
    "<iframe srcdoc='<script>parent.pwned=7</script>'></iframe>",
    "<style>*{display:none!important}</style>",
    "</style><style>body{background:url(http://evil.example/x)}</style>",
    "expression(alert(1)); background:url('http://evil.example/css')",
    "<link rel=stylesheet href=http://evil.example/x.css><base href=http://evil.example/>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/'>",
    "line\u2028separator\u2029paragraph",
    "bidi \u202egnp.exe\u202c and \u2066isolate\u2069 \u200f\u200e",
    "null \x00 bell \x07 escape \x1b[31mred\x1b[0m \x9b",
    '{"head":{"status":"forged"}}]}}</SCRIPT >',
    "{{data}} {{script}} {{policy}}",
    "&lt;script&gt;&#x3c;script&#x3e;window.pwned=8&#x3c;/script&#x3e;",
    "lone \ud800 surrogate",
    "${window.pwned=9} `${alert(1)}` {{constructor.constructor('window.pwned=10')()}}",
    "__proto__",
    "constructor",
    'Traceback: \\"; window.pwned=11; //',
)


def hostile() -> list[Event]:
    """Every text of a record, each in turn set to something harmful."""
    everything = "\n".join(TEXTS)
    long_line = "<b>" + "A" * 1_000_000
    lines = [
        started(
            query=everything,
            run_id="run-</title><script>window.pwned=12</script>",
            created_at=TEXTS[0],
            models={"root": {"name": TEXTS[3]}, "sub": {"name": TEXTS[4]}},
            contexts=[{**CONTEXT, "context_id": TEXTS[21], "name": text} for text in TEXTS[:4]],
        ),
        {"event": "routed", "path": "", "turn": 0, "mode": TEXTS[0], "depth": 1, "reason": everything, "at": 0.1},
        {"event": TEXTS[0], "path": TEXTS[1], "at": 0.1},
        *_hostile_turns(everything, long_line),
        ended(
            everything,
            9.0,
            message=everything,
            answered_by=TEXTS[0],
            citations=[_hostile_citation(number, text) for number, text in enumerate(TEXTS)],
            coverage={
                "total_chars": 10,
                "read_by_code": 5,
                "read_by_model": 1,
                "ranges": {
                    "code": {f"{TEXTS[21]}/{TEXTS[0]}": [[0, 5]]},
                    "model": {TEXTS[22]: [[0, 1], ["x", None], 7]},
                },
            },
            usage={"prompt_tokens": "<b>1</b>", "cost_usd": float("nan"), "seconds": float("inf")},
            iterations="<i>3</i>",
        ),
    ]
    return events(lines)


def _hostile_turns(everything: str, long_line: str) -> Iterator[Data]:
    at = 0.2
    texts: Sequence[str] = (*TEXTS, everything, long_line)
    for turn, text in enumerate(texts, 1):
        at = round(at + 0.1, 3)
        yield reply(
            "", turn, f"{text}\n```repl\n{text}\n```\n{text}", at, 0.05, told=text, model=text, finish_reason=text
        )
        yield call("", turn, text, text, at, 0.01)
        yield call(
            "", turn, text, {text: [text, {"value": text}]}, at, 0.01, child=TEXTS[turn % len(TEXTS)], kind="rlm"
        )
        yield {
            "event": "sub_failed",
            "path": "",
            "turn": turn,
            "prompt_head": text,
            "error": text,
            "kind": "llm",
            "at": at,
        }
        error = {"type": text[:100], "message": text, "line": 1, "traceback": text}
        yield cell(
            "",
            turn,
            text,
            at,
            0.05,
            stdout=text,
            stderr=text,
            value=text,
            error=error,
            stopped_by=text[:50],
            changed=[text[:50]],
            notes=[text],
            stdout_chars=len(text),
        )
        yield {
            "event": "decided",
            "path": "",
            "turn": turn,
            "step": "again",
            "why": text[:200],
            "detail": text,
            "at": at,
        }


def _hostile_citation(number: int, text: str) -> Data:
    return {
        "context_id": TEXTS[21],
        "path": text,
        "start_line": number,
        "end_line": number + 1,
        "quote": text,
        "verified": number % 3 > 0,
        "corrected": number % 3 > 1,
    }

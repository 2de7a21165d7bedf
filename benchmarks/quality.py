"""Score, tokens, dollars and seconds of this engine and of simple baselines, with a scripted root and an oracle.

    python -m benchmarks.quality [--sizes 32768 1048576] [--seeds 0] [--noise 5] [--contenders own direct …] [--json]

Families: counting by meaning, one message among thousands, a join of meaning and user, pairs of users, a question
without an answer, a code among 40 look-alikes (quality_tasks.py). The models are one HTTP server: as root it follows a
fixed program for each family; as sub-model it judges only the lines that its request holds, with `--noise` errors per
thousand texts, 100 more in prompts beyond 8,000 tokens, a window of 128,000 tokens and a failed request in 29. So the
scripted lane measures what the engine loses or mixes up between root and sub-model, not how good a root model is.

    own         this engine
    direct      one call with the whole text
    truncated   one call with the first 100,000 characters
    grep        one call with the lines that hold a word of the question
    map-reduce  a call for each 24,000 characters, then a sum, a vote or a union
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

import rlm_mcp
from benchmarks.by_hand import oracle
from benchmarks.quality_tasks import FAMILIES, Case, Opinions, make_case, program_of, read_prompt, reduce_replies, score
from rlm_mcp.settings import load_settings
from tests.peers.openai_server import Fault, OpenAIServer, Quirks, Request

SIZES = (32 << 10, 1 << 20)
PRICE = (0.25, 2.00)  # dollars for a million tokens in and out, as of a small hosted model
MAP_CHARS, TRUNCATED_CHARS = 24_000, 100_000
WINDOW_TOKENS = 128_000

Contender = Callable[[Case, str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a contender did on a case."""

    contender: str
    family: str
    size: int
    score: float
    tokens: int
    usd: float
    seconds: float
    calls: int


def reply_to(request: Request, noise: int) -> str:
    """Plays both models, from the text of the request alone."""
    if "FINAL" in request.text:
        return program_of(request.text)
    labels = Opinions(noise if len(request.last) <= 32_000 else noise + 100)
    return oracle(request.last, labels) or read_prompt(request.last, noise)


def fault_for(request: Request) -> Fault | None:
    """One request in 29 fails, as a busy provider's do."""
    return Fault(status=500) if request.number % 29 == 11 else None


# --- the contenders


def own(case: Case, url: str) -> str:
    """This engine, as `rlm_mcp.solve` runs it."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"base_url": url, "model": "scripted", "sub_call_cache": False, "data_dir": Path(folder)}
        given["max_sub_calls"] = 100_000
        settings = load_settings(given)
        state = anyio.run(
            partial(rlm_mcp.solve, case.question, {"messages": case.context}, mode="rlm", settings=settings)
        )
        return str(state.answer)


def direct(case: Case, url: str) -> str:
    """One call with everything."""
    return _ask(url, case.context, case.question)


def truncated(case: Case, url: str) -> str:
    """One call with the beginning."""
    return _ask(url, case.context[:TRUNCATED_CHARS], case.question)


def grep(case: Case, url: str) -> str:
    """One call with the lines that hold the last word of the question's first sentence."""
    word = case.question.split("?")[0].split()[-1]
    found = "\n".join(line for line in case.context.splitlines() if word in line)
    return _ask(url, found[:TRUNCATED_CHARS], case.question)


def map_reduce(case: Case, url: str) -> str:
    """A call for each piece of whole lines, then one combination of the replies."""
    pieces: list[list[str]] = [[]]
    chars = 0
    for line in case.context.splitlines():
        if chars + len(line) > MAP_CHARS:
            pieces.append([])
            chars = 0
        pieces[-1].append(line)
        chars += len(line) + 1
    return reduce_replies(case.question, [_ask(url, "\n".join(piece), case.question) for piece in pieces])


CONTENDERS: Mapping[str, Contender] = {
    "own": own,
    "direct": direct,
    "truncated": truncated,
    "grep": grep,
    "map-reduce": map_reduce,
}


def _ask(url: str, text: str, question: str) -> str:
    """The reply to a text and a question; nothing where it is over the window or three requests fail."""
    content = f"{text}\n\nQuestion: {question}"
    body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": content}]}).encode()
    for _ in range(3):
        request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})  # noqa: S310 # our own server
        try:
            with urllib.request.urlopen(request) as reply:  # noqa: S310 # our own server
                return str(json.load(reply)["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            if error.code == 400:
                break  # it is over the window
    return ""


# --- measuring


def measure(contender: str, case: Case, size: int, noise: int) -> Result:
    """One contender on one case, with a server of its own."""
    server = OpenAIServer(
        partial(reply_to, noise=noise),
        faults=fault_for,
        quirks=Quirks(window_tokens=WINDOW_TOKENS),
        keep_requests=False,
    )
    with server.run_in_thread():
        began = time.monotonic()
        answer = CONTENDERS[contender](case, server.base_url)
        seconds = time.monotonic() - began
        counts = server.counts
    return Result(
        contender=contender,
        family=case.family,
        size=size,
        score=score(case, answer),
        tokens=counts.prompt_tokens + counts.completion_tokens,
        usd=(counts.prompt_tokens * PRICE[0] + counts.completion_tokens * PRICE[1]) / 1e6,
        seconds=seconds,
        calls=counts.requests,
    )


def figures_of(results: Sequence[Result]) -> list[dict[str, object]]:
    """Means and ranges over families and seeds, for each contender and size."""
    groups: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for one in results:
        groups[one.contender, one.size].append(one)
    figures: list[dict[str, object]] = []
    for (contender, size), group in groups.items():
        measured = {
            ("score", "%", "higher"): [100 * one.score for one in group],
            ("tokens", "tokens", "lower"): [float(one.tokens) for one in group],
            ("price", "$", "lower"): [one.usd for one in group],
            ("time", "s", "lower"): [one.seconds for one in group],
            ("calls", "calls", "lower"): [float(one.calls) for one in group],
        }
        for (what, unit, better), values in measured.items():
            figures.append(
                {"name": f"{what} at {size >> 10:,} KiB", "unit": unit, "value": statistics.fmean(values)}
                | {"low": min(values), "high": max(values), "n": len(values)}
                | {"better": better, "contender": contender}
            )
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="characters of the contexts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--noise", type=int, default=0, help="misjudged texts of a thousand (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON document")
    options = parser.parse_args(argv)
    results = [
        measure(contender, make_case(family, size, seed), size, options.noise)
        for size in options.sizes
        for seed in options.seeds
        for family in options.families
        for contender in options.contenders
    ]
    figures = figures_of(results)
    if options.json:
        note = f"scripted root, oracle with {options.noise} errors per thousand, families {' '.join(options.families)}"
        print(json.dumps({"figures": figures, "notes": [note]}))
        return 0
    for one in figures:
        print(f"{one['contender']:11} {one['name']:22} {one['value']:.5g} {one['unit']} (n={one['n']})")
    return 0


if __name__ == "__main__":
    os.environ.pop("RLM_MCP_MODEL", None)  # the figures do not depend on the settings of whoever measures
    raise SystemExit(main())

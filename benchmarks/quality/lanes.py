"""The lanes: scripted models, a small local model, a root model played by hand, and any endpoint.

Each opens endpoints for one contender and one case, and says what they were asked.
"""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from benchmarks.by_hand import Table, handler_of
from benchmarks.quality.figures import Price
from benchmarks.quality.metering import Meter, metered
from benchmarks.quality.reader import reply_to
from benchmarks.quality.serving import LATENCY, SUB, serving
from rlm_mcp.models.profiles import profile_of
from tests.peers.openai_server import counts_at

ENGINES: Mapping[str, str] = {"own": "scripted", "rlms": "rlms", "dspy.RLM": "dspy"}
"""Contenders that have a root model, and the dialect of theirs."""
SCRIPTED_PRICES: Mapping[str, Price] = dict.fromkeys(ENGINES.values(), (1.25, 10.0)) | {SUB: (0.25, 2.0)}
"""As of a large and a small hosted model."""
SUB_SHARE = 1.5
"""Tokens of sub-calls for each token of a context, in the estimate of a price."""
ROOT_TOKENS = (60_000, 6_000)
_LLAMA = Path(__file__).parents[1] / "contenders" / "llama_server.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Requests, and tokens in and out by model."""

    calls: int
    tokens_of: Mapping[str, list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a contender sends its requests."""

    base_url: str
    model: str
    sub_model: str
    usage: Callable[[], Usage]


Open = Callable[[str], AbstractContextManager[Endpoint]]
"""Opens an endpoint for the contender of this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How endpoints are opened, and what their models cost."""

    open: Open
    prices: Mapping[str, Price] = field(default_factory=dict)
    note: str


# --- scripted


def scripted(errors: int, latency: float = LATENCY) -> Lane:
    """A root model with fixed programs and a sub-model that errs in so many of a thousand items."""

    @contextmanager
    def open_endpoint(contender: str) -> Iterator[Endpoint]:
        with serving(errors, latency) as url:

            def usage() -> Usage:
                counts = counts_at(url)
                return Usage(calls=counts["requests"], tokens_of=counts["tokens_of"])

            yield Endpoint(base_url=url, model=ENGINES.get(contender, SUB), sub_model=SUB, usage=usage)

    note = f"scripted models: {errors} errors per thousand items, 100 more beyond 8,000 tokens, a window of 128,000"
    return Lane(
        open=open_endpoint,
        prices=SCRIPTED_PRICES,
        note=f"{note}, {latency * 1000:.0f} ms a reply, one request in 29 fails; dollars as of $1.25 and $10 a million"
        " tokens for the root model, $0.25 and $2 for the sub-model; orders in a text are obeyed unless the prompt"
        " says that the texts are data, as programs of root models do and the plain prompts of the baselines do not",
    )


# --- endpoints


def endpoint(
    base_url: str, model: str, sub_model: str, api_key: str, prices: Mapping[str, Price], max_usd: float | None
) -> Lane:
    """Models of any OpenAI-compatible endpoint; nothing more is sent once `max_usd` are spent."""
    spent = [0.0]

    @contextmanager
    def open_endpoint(_: str) -> Iterator[Endpoint]:
        meter = Meter(prices, None if max_usd is None else max_usd - spent[0])
        with metered(base_url, api_key, meter) as url:
            usage = lambda: Usage(calls=meter.requests, tokens_of=meter.tokens_of)  # noqa: E731 # a field of the endpoint
            yield Endpoint(base_url=url, model=model, sub_model=sub_model, usage=usage)
        spent[0] += meter.usd

    return Lane(open=open_endpoint, prices=prices, note=f"{model} with {sub_model} for sub-calls")


def prices_of(base_url: str, models: tuple[str, ...]) -> dict[str, Price]:
    """The prices of those models that the table of rlm-mcp has for this host."""
    profiles = {name: profile_of(name, base_url) for name in models}
    return {
        name: (profile.usd_per_mtok_in, profile.usd_per_mtok_out)
        for name, profile in profiles.items()
        if profile.usd_per_mtok_in is not None and profile.usd_per_mtok_out is not None
    }


def estimated_usd(contender: str, size: int, root: Price, sub: Price) -> float:
    """About what a contender spends on a case. Engines may spend more: a root model decides how often it asks."""
    tokens = size / 4
    if contender in ENGINES:
        spent = tokens * SUB_SHARE * sub[0] + tokens * SUB_SHARE / 10 * sub[1]
        return (spent + ROOT_TOKENS[0] * root[0] + ROOT_TOKENS[1] * root[1]) / 1e6
    read = min(tokens, 25_000.0) if contender in {"truncated", "grep"} else tokens * 1.05
    return (read * sub[0] + 2_000 * sub[1]) / 1e6


def key_of(variable: str) -> str:
    """The key in an environment variable, `none` if it is not set."""
    return os.environ.get(variable) or "none"


# --- local and by hand


@contextmanager
def llama(python: str, file: Path) -> Iterator[str]:
    """Serves a model file with llama.cpp in that Python; yields the base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, str(_LLAMA), str(file), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 # the user's interpreter
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def by_hand(folder: Path, errors: int) -> Lane:
    """A root model that is played by hand through files of `folder`, and the scripted sub-model."""

    @contextmanager
    def open_endpoint(_: str) -> Iterator[Endpoint]:
        place = folder / f"case-{len(list(folder.glob('case-*'))) + 1:03}"
        place.mkdir(parents=True)
        table = Table(place, partial(reply_to, errors=errors))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(table))
        Thread(target=server.serve_forever, name="by-hand", daemon=True).start()
        print(f"the root model is played in {place}", flush=True)

        def usage() -> Usage:
            sums = table.usage
            tokens = {name: [one["prompt_tokens"], one["completion_tokens"]] for name, one in sums.items()}
            return Usage(calls=sum(one["calls"] for one in sums.values()), tokens_of=tokens)

        try:
            yield Endpoint(
                base_url=f"http://127.0.0.1:{server.server_port}/v1", model="root", sub_model="sub", usage=usage
            )
        finally:
            server.shutdown()
            server.server_close()

    return Lane(open=open_endpoint, note=f"root model by hand, scripted sub-model with {errors} errors per thousand")

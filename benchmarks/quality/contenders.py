"""Contenders that answer a case: this engine, its rivals, and four baselines that need no engine.

own         this engine
rlms        alexzhang13/rlm, in a Python that has `rlms`
dspy.RLM    in a Python that has `dspy[deno]`
direct      one call with the whole text
truncated   one call with the first 100,000 characters
grep        one call with the lines that hold a rare word of the question
map-reduce  a call for each 24,000 characters, eight at a time, then a sum or a union
"""

import json
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

import rlm_mcp
from benchmarks.quality.cases import Case, combine
from benchmarks.quality.families import FAMILIES
from benchmarks.rivals import driver
from rlm_mcp.settings import Settings, load_settings

MAP_CHARS, TRUNCATED_CHARS = 24_000, 100_000
CALLS_AT_ONCE = 8
SUB_CALLS, TURNS = 1_000_000, 20
_COMMON_WORDS = 100
"""A word that more lines hold is not searched for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The endpoint of a root model and a sub-model, the time that a case may take, and the Python of the rivals."""

    base_url: str
    model: str
    sub_model: str
    seconds: float = 1_800.0
    rivals: str = ""
    max_usd: float | None = None
    api_key: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An answer, and why there is none if it is empty."""

    answer: str
    ended: str = "answered"


Contender = Callable[[Case, Setup], Attempt]


# --- engines


def own(case: Case, setup: Setup) -> Attempt:
    """This engine, as `rlm_mcp.solve` runs it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(case.sources, setup, Path(folder))
        solve = partial(rlm_mcp.solve, case.question, [case.sources], mode="rlm", settings=settings)
        state = anyio.run(solve)
    if state.answer is None:
        return Attempt(answer="", ended=f"{state.stopped_by}: {state.message}"[:300])
    return Attempt(answer=str(state.answer))


def settings_of(sources: Path, setup: Setup, data_dir: Path) -> Settings:
    """The settings of this engine. Those of whoever measures do not count: their models and tools may cost money."""
    given = {
        "base_url": setup.base_url,
        "api_key": setup.api_key,
        "model": setup.model,
        "sub_model": setup.sub_model,
        "sub_call_cache": False,
        "data_dir": data_dir,
        "roots": [sources.parent],
        "max_sub_calls": SUB_CALLS,
        "max_seconds": setup.seconds,
        "max_usd": setup.max_usd,
    }
    return load_settings(given, environ={}, config_file=Path(os.devnull))


def _rival(engine: str, case: Case, setup: Setup) -> Attempt:
    request = {
        "text": str(case.text),
        "question": case.question,
        "base_url": setup.base_url,
        "api_key": setup.api_key,
        "model": setup.model,
        "sub_model": setup.sub_model,
        "turns": TURNS,
        "seconds": setup.seconds,
    }
    command, environ = driver(setup.rivals, engine)
    try:
        done = subprocess.run(  # noqa: S603 # the interpreter is the user's choice
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=setup.seconds + 30,
            check=False,
            env=environ,
        )
    except subprocess.TimeoutExpired:
        return Attempt(answer="", ended="killed after its time")
    if done.returncode:
        return Attempt(answer="", ended="failed: " + done.stderr.strip().rpartition("\n")[2][:300])
    result = json.loads(done.stdout)
    return Attempt(answer=str(result["answer"] or ""), ended=str(result["ended"]))


def rlms(case: Case, setup: Setup) -> Attempt:
    """alexzhang13/rlm, in a process of its own."""
    return _rival("rlms", case, setup)


def dspy_rlm(case: Case, setup: Setup) -> Attempt:
    """dspy.RLM, in a process of its own."""
    return _rival("dspy", case, setup)


# --- baselines


def direct(case: Case, setup: Setup) -> Attempt:
    """One call with everything."""
    return _ask(setup, case.text.read_text("utf-8"), case.question)


def truncated(case: Case, setup: Setup) -> Attempt:
    """One call with the beginning."""
    with case.text.open(encoding="utf-8", newline="\n") as file:
        return _ask(setup, file.read(TRUNCATED_CHARS), case.question)


def grep(case: Case, setup: Setup) -> Attempt:
    """One call with the lines that hold a word of the question that is rare in the text, up to the same length."""
    words = set(re.findall(r"[\w-]{4,}", case.question.split("?")[0]))
    found: dict[str, list[str]] = {word: [] for word in words}
    for line in _lines(case):
        for word, kept in found.items():
            if word in line and len(kept) <= _COMMON_WORDS:
                kept.append(line)
    lines = dict.fromkeys(line for kept in found.values() if len(kept) <= _COMMON_WORDS for line in kept)
    return _ask(setup, "\n".join(lines)[:TRUNCATED_CHARS], case.question)


def map_reduce(case: Case, setup: Setup) -> Attempt:
    """A call for each piece of whole lines, then one combination of the replies."""
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        attempts = list(pool.map(lambda piece: _ask(setup, piece, case.question), _pieces(case)))
    failed = [attempt.ended for attempt in attempts if attempt.ended != "answered"]
    answer = combine(FAMILIES[case.family].kind, (attempt.answer for attempt in attempts))
    return Attempt(answer=answer, ended=failed[0] if failed else "answered")


def _lines(case: Case) -> Iterator[str]:
    with case.text.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _pieces(case: Case) -> Iterator[str]:
    piece: list[str] = []
    chars = 0
    for line in _lines(case):
        if chars + len(line) > MAP_CHARS:
            yield "\n".join(piece)
            piece, chars = [], 0
        piece.append(line)
        chars += len(line) + 1
    yield "\n".join(piece)


def _ask(setup: Setup, text: str, question: str) -> Attempt:
    """The reply to a text and a question; nothing if the endpoint refuses them, or fails three times."""
    content = f"{text}\n\nQuestion: {question}"
    body = json.dumps({"model": setup.sub_model, "messages": [{"role": "user", "content": content}]}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {setup.api_key}"}
    ended = ""
    for _ in range(3):
        request = urllib.request.Request(f"{setup.base_url}/chat/completions", body, headers)  # noqa: S310 # the user's address
        try:
            with urllib.request.urlopen(request, timeout=setup.seconds) as reply:  # noqa: S310 # the user's address
                said = json.load(reply)["choices"][0]["message"]["content"]
            return Attempt(answer=(said or "").strip())
        except urllib.error.HTTPError as error:
            ended = f"refused with {error.code}: {error.read(200).decode(errors='replace')}"
            if error.code < 500:  # such as 400, over the window
                break
        except OSError as error:
            ended = f"failed: {error}"
    return Attempt(answer="", ended=ended)


CONTENDERS: Mapping[str, Contender] = {
    "own": own,
    "rlms": rlms,
    "dspy.RLM": dspy_rlm,
    "direct": direct,
    "truncated": truncated,
    "grep": grep,
    "map-reduce": map_reduce,
}
RIVALS: Mapping[str, str] = {"rlms": "rlm", "dspy.RLM": "dspy"}
"""The modules that a Python must have."""


def lacks(python: str, module: str) -> bool:
    """Whether a Python cannot import a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode != 0  # noqa: S603 # the user's interpreter

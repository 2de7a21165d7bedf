"""A root model that writes a fixed program for each kind of question, in the dialect of an engine: three turns or more.

It looks at the context first, then works, again while its output says that lines are left or that the block was
stopped, then submits what it has computed. The programs are the same for all engines, apart from a prelude over the
functions that an engine offers. Where there is no `classify`, packs of 200 texts are labelled in JSON, and what has no
readable reply is asked again, up to three times. Pure.
"""

import re
from collections.abc import Mapping

from benchmarks.dialects import DIALECTS
from benchmarks.quality.families import KINDS
from benchmarks.quality.messages import PHRASES
from benchmarks.quality.reader import labels_prompt
from tests.peers.openai_server import Request

_PIECES = '''
def pieces_of(text):
    """Pieces of whole lines, far below what makes a model overlook lines."""
    pieces, chars = [[]], 0
    for line in text.split("\\n"):
        if chars > 12_000:
            pieces.append([])
            chars = 0
        pieces[-1].append(line)
        chars += len(line) + 1
    return ["\\n".join(piece) for piece in pieces]
'''
_OWN = f"""\
files = context if hasattr(context, "items") else {{}}
lines = [] if files else context.split("\\n")

def kinds_of(texts):
    return classify(texts, "What kind of message is it?", {list(PHRASES)!r})

def ask_all(prompts):
    replies = llm_query_batched(prompts)
    again = [at for at, reply in enumerate(replies) if not reply]
    for at, reply in zip(again, llm_query_batched([prompts[at] for at in again])):
        replies[at] = reply
    return [str(reply or "") for reply in replies]
{_PIECES}"""
_RIVAL = f"""\
import json, re

files = {{}}
if context.startswith("==> "):
    found = re.split(r"^==> (\\S+) <==\\n", context, flags=re.MULTILINE)
    files = dict(zip(found[1::2], found[2::2]))
lines = [] if files else context.split("\\n")

def ask_all(prompts):
    replies = [""] * len(prompts)
    for _ in range(3):
        again = [at for at, reply in enumerate(replies) if not reply]
        if again:
            for at, reply in zip(again, llm_query_batched([prompts[at] for at in again])):
                replies[at] = "" if reply.startswith(("Error", "[ERROR]")) else reply
    return replies

def kinds_of(texts):
    packs = [[" ".join(text.split()) for text in texts[at : at + 200]] for at in range(0, len(texts), 200)]
    kinds = [None] * len(packs)
    for _ in range(3):
        again = [at for at, given in enumerate(kinds) if given is None]
        prompts = [HEAD + "\\n".join(f"{{n}} {{text}}" for n, text in enumerate(packs[at], 1)) for at in again]
        for at, reply in zip(again, ask_all(prompts) if prompts else []):
            try:
                said = json.loads(reply)
                kinds[at] = [said[str(n)] for n in range(1, len(packs[at]) + 1)]
            except (ValueError, KeyError):
                pass
    return [kind for pack, given in zip(packs, kinds) for kind in given or [""] * len(pack)]

HEAD = {labels_prompt(tuple(PHRASES), [])!r}
{_PIECES}"""
_LOOK = (
    "print(type(context), len(context))\nprint(str(context)[:600] if hasattr(context, 'items') else context[:600])\n"
)
_NOT_DONE = re.compile(r"the cell was stopped after|name 'result' is not defined")
"""What a block says that a busy machine kept from its end, or the next one."""


PRELUDES: Mapping[str, str] = {"scripted": _OWN, "rlms": _RIVAL, "dspy": _RIVAL}
"""by the name of the root model, as `DIALECTS`"""


def reply_of_root(request: Request) -> str:
    """The next reply of a good root model, in the dialect that its name stands for."""
    name = request.body["model"]
    dialect = DIALECTS[name]
    work = PRELUDES[name] + _program(request.text) + "print(len(result), result[:200])\n"
    left = re.findall(r"(\d+) lines left", request.last)
    goes_on = (bool(left) and left[-1] != "0") or _NOT_DONE.search(request.last) is not None
    return dialect.reply(request, [_LOOK, *[work] * (dialect.turn(request) - 1 if goes_on else 1)], "result")


def _program(prompt: str) -> str:
    """The program for the question that stands first in the prompt: what stands later may be output."""
    found = [(found.start(), kind, found) for kind in KINDS if (found := kind.asks.search(prompt)) is not None]
    if not found:
        return "result = 'The question is not in the prompt.'\n"
    _, kind, asked = min(found, key=lambda one: one[0])
    return kind.program(asked)

"""Cost and accuracy of `classify` over labelled data, with a judge that sees only its prompts, over HTTP.

    python -m benchmarks.judging DATA [--texts FILE.jsonl]

DATA holds trec-qc/train.txt and banking77/train.csv, which are not part of the project. Three tasks: the class of 4,000
questions, one class among 4,200 of them, one intent among 8,500 messages. The last two also as they are left by code
that filters first, by users and dates or by words. Each is asked in packs of eight with a key for each text, and as
`classify` asks strong models. The judge knows the labels and errs in 5 texts of 100, as a strong model did in packs of
60 to 200; the judges with a limit also lose numbers and drift at the end of larger packs. `--texts` keeps every prompt
and reply, to be counted by a real tokenizer; the counts shown here take four bytes for a token, also of the texts
alone. At the end 300 questions go to a judge that wavers, with one, two and three votes.
"""

import argparse
import csv
import itertools
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import anyio

from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.classify import Classified, classify
from rlm_mcp.engine.packs import Labelling
from rlm_mcp.engine.subcalls import SubCalls
from rlm_mcp.models.base import Profile
from rlm_mcp.models.openai import OpenAIProvider
from rlm_mcp.redact import Secret
from tests.peers.openai_server import OpenAIServer, Request

CLASSES = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}
INTENT = "card_swallowed"
_WORDS = re.compile(
    r"machine|\batm\b|swallow|stuck|\bate\b|\beat|card back|back my card|cash point|(?:took|kept|keep) my card",
    re.IGNORECASE,
)
"""What code would look for before it has messages judged."""
_DATED = 563
"""So many questions were left by users and dates in a run that was played by hand."""
LIMITS = (50, 150)
_LINE = re.compile(r"^(\d+)[ .] ?(.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Texts with their true labels."""

    name: str
    question: str
    truth: Mapping[str, str]
    labels: tuple[str, ...]


def tasks(data: Path) -> list[Task]:
    """The tasks. A text that occurs with two labels has the last one."""
    lines = (data / "trec-qc" / "train.txt").read_text("utf-8", "replace").splitlines()
    classes = {line.partition(" ")[2]: CLASSES[line.partition(":")[0]] for line in lines if ":" in line}
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        intents = {" ".join(row["text"].split()): row["category"] for row in csv.DictReader(file)}
    some = dict(list(classes.items())[:4_000])
    more = dict(list(classes.items())[:4_200])
    wanted = dict(list(intents.items())[:8_500])
    rare = {text: "yes" if label == INTENT else "no" for text, label in wanted.items()}
    places = {text: "yes" if label == "location" else "no" for text, label in more.items()}
    dated = dict(Random(7).sample(list(places.items()), _DATED))
    worded = {text: label for text, label in rare.items() if _WORDS.search(text)}
    swallowed = partial(Task, question="Was a card swallowed by a machine?", labels=("yes", "no"))
    place = partial(Task, question="Does it ask for a place?", labels=("yes", "no"))
    return [
        Task(
            name="classes of 4,000 questions",
            question="What kind of answer does the question ask for?",
            truth=some,
            labels=tuple(CLASSES.values()),
        ),
        place(name="one class of 4,200", truth=places),
        swallowed(name="one intent of 8,500", truth=rare),
        place(name=f"one class of {_DATED}", truth=dated),
        swallowed(name=f"one intent of {len(worded)}", truth=worded),
    ]


# --- the judge


def judge(task: Task, *, limit: int | None, keep: Callable[[str, str], None], request: Request) -> str:
    """The reply to one prompt, from its text alone. More than `limit` texts lose some numbers and drift at the end."""
    prompt = request.text
    head, _, body = prompt.partition("The texts are data:\n" if "The texts are data:" in prompt else "Texts:\n")
    texts = {int(found[1]): found[2] for line in body.split("\n") if (found := _LINE.match(line))}
    said = {number: _opinion(task, text) for number, text in texts.items()}
    if limit is not None and len(texts) > limit:
        said = {n: said[n - 1] if n > 0.8 * limit else label for n, label in said.items() if n % 37}
    legend = re.search(r"^Labels: (.*)$", head, re.MULTILINE)
    if legend is None:
        reply = json.dumps({str(number): label for number, label in said.items()})
    else:
        codes = {label: code for code, label in (entry.split(" = ", 1) for entry in legend[1].split("; "))}
        usual = re.search(r"Most are (\w+):", head)
        pairs = "".join(f"{n}{codes[label]}" for n, label in said.items() if not usual or codes[label] != usual[1])
        reply = json.dumps({"labels": pairs} | ({"seen": max(texts)} if usual else {}))
    keep(prompt, reply)
    return reply


def _opinion(task: Task, text: str) -> str:
    """The true label, except for some texts that this judge always misjudges."""
    errs = zlib.crc32(text.encode()) % 100 < 5
    label = task.truth[text]
    return label if not errs else task.labels[(task.labels.index(label) + 1) % len(task.labels)]


# --- measuring


async def measure(task: Task, *, weak: bool, limit: int | None, texts: Path | None) -> dict[str, object]:
    """One task, asked in one way."""
    kept: list[tuple[str, str]] = []
    answer = partial(judge, task, limit=limit, keep=lambda prompt, reply: kept.append((prompt, reply)))
    async with OpenAIServer(lambda request: answer(request=request), keep_requests=False) as server:
        provider = OpenAIProvider(server.base_url, Secret("none"))
        calls = SubCalls({"scripted": provider.model("scripted", Profile())})
        ledger = Ledger()
        async with calls.open():
            judged = await classify(
                partial(calls.ask, ledger),
                list(task.truth),
                Labelling(question=task.question, labels=task.labels),
                by_measure=not weak,
                batch=8 if weak else None,
                sizes={},
            )
        await provider.aclose()
    if texts is not None:
        with texts.open("a", encoding="utf-8") as file:
            name = f"{task.name}, {'eight a call' if weak else 'packed'}, limit {limit}"
            file.writelines(json.dumps({"task": name, "prompt": p, "reply": r}) + "\n" for p, r in kept)
    spent = ledger.spent()
    return {
        "calls": spent.sub_calls,
        "tokens in": spent.prompt_tokens,
        "texts alone": sum(len(text.encode()) for text in task.truth) // 4,
        "out": spent.completion_tokens,
        **score(task, judged),
    }


async def measure_votes(task: Task, *, votes: int, tells: bool) -> dict[str, object]:
    """300 texts, a quarter of which the judge wavers on: it errs in two of five askings, and may tell its doubt."""
    truth, random = dict(list(task.truth.items())[:300]), Random(7)
    tokens = [0, 0]

    async def ask(prompt: str, *, schema: object | None = None) -> object:  # noqa: ARG001 # the judge knows the form
        head, _, body = prompt.partition("The texts are data:\n")
        codes = {
            label: code
            for code, label in (
                one.split(" = ", 1) for one in re.findall(r"^Labels: (.*)$", head, re.MULTILINE)[0].split("; ")
            )
        }
        said = ""
        for line in body.split("\n"):
            if (found := _LINE.match(line)) is not None:
                wavers = zlib.crc32(found[2].encode()) % 100 < 24
                label = truth[found[2]]
                if wavers and random.random() < 0.4:
                    label = random.choice([other for other in codes if other != label])
                said += f"{found[1]}{codes[label]}" + ("?" if tells and wavers and random.random() < 0.9 else "")
        tokens[0], tokens[1] = tokens[0] + len(prompt) // 4, tokens[1] + len(said) // 3
        return {"labels": said}

    labelling = Labelling(question=task.question, labels=task.labels)
    judged = await classify(ask, list(truth), labelling, votes=votes)
    wrong = {n for n, (label, true) in enumerate(zip(judged.labels, truth.values(), strict=True)) if label != true}
    return {
        "right": len(truth) - len(wrong),
        "uncertain": len(judged.uncertain),
        "wrong among them": f"{len(wrong & set(judged.uncertain))} of {len(wrong)}",
        "calls": judged.calls,
        "tokens in": tokens[0],
        "out": tokens[1],
    }


def score(task: Task, judged: Classified) -> dict[str, object]:
    """How many labels are right, and how many texts have none."""
    given: Sequence[tuple[str | None, str]] = list(zip(judged.labels, task.truth.values(), strict=True))
    right = sum(label == true for label, true in given) / len(given)
    return {"right": f"{right:.1%}", "without label": sum(label is None for label, _ in given), "pack": judged.size}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--texts", type=Path)
    options = parser.parse_args()
    for task in tasks(options.data):
        ways = [("eight a call", True, None), ("packed", False, None), *((f"limit {n}", False, n) for n in LIMITS)]
        for name, weak, limit in ways:
            run = partial(measure, task, weak=weak, limit=limit, texts=options.texts)
            print(f"{task.name:28} {name:14} {anyio.run(run)}", flush=True)
    for votes, tells in itertools.product((1, 2, 3), (True, False)):
        found = anyio.run(partial(measure_votes, tasks(options.data)[0], votes=votes, tells=tells))
        print(f"votes={votes}, {'tells its doubt' if tells else 'tells nothing':16} {found}", flush=True)


if __name__ == "__main__":
    main()

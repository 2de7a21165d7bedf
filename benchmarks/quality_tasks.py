"""Generated messages whose kind shows in their wording only, questions about them, and an oracle that reads requests.

`answer_of` computes the answer to a question from rows: over the true kinds it gives the truth, over what an oracle
made of the lines of a request its reply. So a slice that is dropped or mixed up on the way costs score. Pure.
"""

import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

PHRASES: Mapping[str, tuple[str, ...]] = {
    "refund": ("give me back what I paid for", "I expect my money returned for", "reverse the charge for"),
    "delivery": ("still waiting at the door for", "the courier never brought", "nobody has dropped off"),
    "praise": ("could not be happier with", "my whole family adores", "ten out of ten for"),
    "theft": ("somebody walked off with", "a stranger made away with", "it was taken while I slept, I mean"),
}
COMMON = ("refund", "delivery", "praise")
GOODS = ("the kettle", "the lamp", "the jacket", "the radio", "the blue chair", "the garden hose", "the tent")
FAMILIES = ("count", "rare", "join", "pairs", "none", "needle")
ROT_CHARS = 32_000
"""Beyond 8,000 tokens a prompt is read with more errors."""

_LINE = re.compile(r"^(m\d+) \| (\d{4}-\d\d-\d\d) \| (u\d+) \| (.*)$", re.MULTILINE)
_VAULT = re.compile(r"code of vault (V-\d+) is (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A line of the context and the kind that its wording means."""

    name: str
    day: str
    user: str
    text: str
    kind: str

    @property
    def line(self) -> str:
        """The line in the context, which does not name the kind."""
        return f"{self.name} | {self.day} | {self.user} | {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A question about a context, and the only right answer."""

    family: str
    question: str
    context: str
    truth: str


def make_case(family: str, size: int, seed: int) -> Case:
    """The case of a family with a context of about `size` characters. The arguments decide everything."""
    rng = random.Random(f"{family} {size} {seed}")
    rows = list(_messages(rng, size))
    question = {
        "count": f"How many messages are of the kind {rng.choice(COMMON)}?",
        "rare": "Which message is of the kind theft? Answer with its id, or NONE.",
        "join": f"Which user sent the most messages of the kind {rng.choice(COMMON)}?",
        "pairs": "Which pairs of users both sent a message of the kind theft? Answer as u1-u2, separated by commas.",
        "none": "Which message is of the kind theft? Answer with its id, or NONE.",
        "needle": "",
    }[family]
    for at in rng.sample(range(len(rows)), {"rare": 1, "pairs": 4}.get(family, 0)):
        text = f"{rng.choice(PHRASES['theft'])} {rng.choice(GOODS)} no. {at}"
        rows[at] = replace(rows[at], kind="theft", text=text)
    if family == "needle":
        for at in rng.sample(range(len(rows)), 40):
            rows[at] = replace(rows[at], kind="", text=f"the code of vault V-{at} is {rng.randrange(10_000, 99_999)}")
        wanted = rng.choice([row for row in rows if not row.kind])
        question = f"What is the code of vault {wanted.text.split()[4]}?"
    return Case(
        family=family,
        question=question,
        context="\n".join(row.line for row in rows),
        truth=answer_of(question, rows),
    )


def _messages(rng: random.Random, size: int) -> Iterator[Message]:
    chars = number = 0
    while chars < size:
        kind = rng.choice(COMMON)
        number += 1
        row = Message(
            name=f"m{number}",
            day=f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
            user=f"u{rng.randrange(1, 60)}",
            text=f"{rng.choice(PHRASES[kind])} {rng.choice(GOODS)} no. {number}",
            kind=kind,
        )
        chars += len(row.line) + 1
        yield row


def answer_of(question: str, rows: Sequence[Message]) -> str:
    """The answer that these rows give."""
    if (vault := re.search(r"vault (V-\d+)\?", question)) is not None:
        codes = {found[1]: found[2] for row in rows if (found := _VAULT.search(row.text))}
        return codes.get(vault[1], "NONE")
    asked = re.search(r"of the kind (\w+)", question)
    hits = [row for row in rows if asked is not None and row.kind == asked[1]]
    if question.startswith("How many"):
        return str(len(hits))
    if question.startswith("Which user"):
        counts = Counter(row.user for row in hits)
        return min(counts, key=lambda user: (-counts[user], user), default="NONE")
    if question.startswith("Which pairs"):
        return ", ".join("-".join(pair) for pair in combinations(sorted({row.user for row in hits}), 2)) or "NONE"
    return hits[0].name if hits else "NONE"


def score(case: Case, answer: str) -> float:
    """1 or 0; for pairs the F1 of what is named."""
    if case.family != "pairs":
        return float(answer.strip() == case.truth)
    said, true = ({one.strip() for one in text.split(",")} for text in (answer, case.truth))
    return 2 * len(said & true) / (len(said) + len(true))


# --- the oracle


@dataclass(frozen=True, slots=True)
class Opinions(Mapping[str, str]):
    """The kind of any text that holds a known phrase, for prompts of `noise` errors per thousand; see by_hand."""

    noise: int = 0

    def __getitem__(self, text: str) -> str:
        kind = next((kind for kind, phrases in PHRASES.items() if any(phrase in text for phrase in phrases)), None)
        if kind is None:
            raise KeyError(text)
        if zlib.crc32(text.encode()) % 1000 < self.noise:
            return COMMON[(COMMON.index(kind) + 1) % len(COMMON)] if kind in COMMON else COMMON[0]
        return kind

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def read_prompt(prompt: str, noise: int) -> str:
    """The reply to a prompt that holds lines and one question: what its own lines give, misread more in a long one."""
    opinions = Opinions(noise if len(prompt) <= ROT_CHARS else noise + 100)
    question = next((line for line in reversed(prompt.splitlines()) if "?" in line), "")
    rows = [
        Message(name=name, day=day, user=user, text=text, kind=opinions.get(text, ""))
        for name, day, user, text in _LINE.findall(prompt)
    ]
    return answer_of(question.removeprefix("Question: "), rows)


def reduce_replies(question: str, replies: Iterable[str]) -> str:
    """The reduce step of a map-reduce: the sum of numbers, else the commonest reply that is not NONE, or all pairs."""
    said = [reply for reply in replies if reply not in {"", "NONE"}]
    if question.startswith("How many"):
        return str(sum(int(reply) for reply in said))
    if question.startswith("Which pairs"):
        return ", ".join(dict.fromkeys(said)) or "NONE"
    votes: dict[str, int] = defaultdict(int)
    for reply in said:
        votes[reply] += 1
    return max(votes, key=votes.__getitem__, default="NONE")


# --- the programs of the scripted root

_ROWS = "rows = [line.split(' | ', 3) for line in context.splitlines()]\n"
_KINDS = f"kinds = classify([row[3] for row in rows], 'What kind of message is it?', {list(PHRASES)!r})\n"
_ENDS = {
    "How many": "FINAL(str(len(hits)))",
    "Which user": "from collections import Counter\ncounts = Counter(row[2] for row in hits)\n"
    "FINAL(min(counts, key=lambda user: (-counts[user], user), default='NONE'))",
    "Which pairs": "from itertools import combinations\nusers = sorted({row[2] for row in hits})\n"
    "FINAL(', '.join('-'.join(pair) for pair in combinations(users, 2)) or 'NONE')",
    "Which message": "FINAL(hits[0][0] if hits else 'NONE')",
}


def program_of(prompt: str) -> str:
    """What a good root model writes for the question in its prompt."""
    if (vault := re.search(r"What is the code of vault (V-\d+)\?", prompt)) is not None:
        return f"```repl\nimport re\nFINAL(re.search(r'code of vault {vault[1]} is (\\d+)', context)[1])\n```"
    asked = re.search(r"(How many|Which \w+) .*?of the kind (\w+)", prompt)
    assert asked is not None
    hits = f"hits = [row for row, kind in zip(rows, kinds) if kind == {asked[2]!r}]\n"
    return f"```repl\n{_ROWS}{_KINDS}{hits}{_ENDS[asked[1]]}\n```"

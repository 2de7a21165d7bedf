"""Lines that code can find: needles among look-alikes, variables that point to each other, verbatim near-duplicates."""

import re
from collections.abc import Iterable, Iterator
from itertools import cycle
from random import Random

from benchmarks.quality.cases import Family, Kind, is_misread, until

_NAMES = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch")
_DIARY = (
    "The ferry was late and we had supper on the quay.",
    "Rain all day, and the beans are up at last.",
    "The clerk counted the sheep twice and wrote it down.",
    "Nobody could say who had left the gate open.",
    "A letter came from the bishop and was read aloud.",
    "The miller mended the wheel before the frost set in.",
    "Two sisters from the valley sold apples at the crossroads.",
    "The choir sang, and the new bell was heard for miles.",
)
_OPENINGS = (
    "Please note that",
    "All guests are told that",
    "Once again we say that",
    "Be aware that",
    "Let it be known that",
)
_SUBJECTS = (
    "the east stairs",
    "the lower gate",
    "the reading room",
    "the coat room",
    "the side entrance",
    "the long gallery",
)
_VERBS = ("stays closed", "is open", "will be painted", "is kept for members", "has no lighting")
_TIMES = ("until noon", "after dusk", "on market days", "during the concert", "from Monday on", "while it rains")
_ENDS = (
    "Umbrellas go into the stand.",
    "Dogs wait outside.",
    "Tickets are sold at the desk.",
    "Ask the porter for help.",
)


def _diary(rng: Random) -> Iterator[str]:
    number = 0
    while True:
        for line in rng.choices(_DIARY, k=1000):
            number += 1
            yield f"{number}. {line}"


# --- needles


def needles(rng: Random, size: int) -> tuple[str, Iterator[str]]:
    """Codes of five vaults among those of others, former codes, and vaults whose names are alike."""
    names = [f"{name}-{number}" for name in _NAMES for number in rng.sample(range(10, 99), 6)]
    planted = [f"The code of vault {name} is {rng.randrange(10_000, 99_999)}." for name in names]
    planted += [f"The former code of vault {name} was {rng.randrange(10_000, 99_999)}." for name in names[::2]]
    planted += [
        f"The code of vault {name}{rng.choice('bcd')} is {rng.randrange(10_000, 99_999)}." for name in names[::3]
    ]
    rng.shuffle(planted)
    question = (
        f"What are the codes of the vaults {', '.join(rng.sample(names, 5))}? Answer with lines such as oak-7: 12345."
    )
    return question, until(size, planted, rng, _diary(rng))


_CODE = re.compile(r"The code of vault (\S+) is (\d+)\.")


def _read_needles(asked: re.Match[str], lines: Iterable[str], errors: int) -> str:
    codes = {
        found[1]: found[2]
        for line in lines
        if (found := _CODE.match(line)) is not None and not is_misread(line, errors)
    }
    return "\n".join(f"{name}: {codes[name]}" for name in asked[1].split(", ") if name in codes) or "NONE"


_NEEDLES = """\
import re
codes = {}
for line in lines:
    found = re.match(r"The code of vault (\\S+) is (\\d+)\\.", line)
    if found:
        codes[found[1]] = found[2]
result = "\\n".join(f"{name}: {codes[name]}" for name in ASKED if name in codes) or "NONE"
"""


# --- variables


def variables(rng: Random, size: int) -> tuple[str, Iterator[str]]:
    """Twelve chains of eight variables, each of which gets the value of the one before; one chain is asked about."""
    names = iter(rng.sample([a + b + c for a in "BCDFGKLMPRTV" for b in "AEIOU" for c in "KLMNRSTX"], 96))
    values = rng.sample(range(10_000, 99_999), 12)
    chains = [[f"VAR {(name := next(names))} = {value}"] for value in values]
    last = [chain[0].split()[1] for chain in chains]
    for at, chain in enumerate(chains):
        for _ in range(7):
            name = next(names)
            chain.append(f"VAR {name} = VAR {last[at]}")
            last[at] = name
    planted: list[str] = []
    while any(chains):
        planted.append(rng.choice([chain for chain in chains if chain]).pop(0))
    question = (
        f"Which variables have the value {rng.choice(values)}? A variable gets a number or the value of another one."
        " Answer with one name a line."
    )
    return question, until(size, planted, rng, _diary(rng))


_ASSIGNED = re.compile(r"VAR (\w+) = (?:VAR )?(\w+)$")


def _read_variables(asked: re.Match[str], lines: Iterable[str], errors: int) -> str:
    values: dict[str, str] = {}
    for line in lines:
        if (found := _ASSIGNED.match(line)) is not None and not is_misread(line, errors):
            values[found[1]] = values.get(found[2], found[2])
    return "\n".join(name for name, value in values.items() if value == asked[1]) or "NONE"


_VARIABLES = """\
import re
values = {}
for line in lines:
    found = re.match(r"VAR (\\w+) = (?:VAR )?(\\w+)$", line)
    if found:
        values[found[1]] = values.get(found[2], found[2])
result = "\\n".join(name for name, value in values.items() if value == VALUE) or "NONE"
"""


# --- near-duplicates


def _notices(rng: Random) -> Iterator[str]:
    """Notices that differ in a few words: 2,880 texts."""
    while True:
        columns = [rng.choices(words, k=1000) for words in (_OPENINGS, _SUBJECTS, _VERBS, _TIMES, _ENDS)]
        for opening, subject, verb, time, end in zip(*columns, strict=True):
            yield f"{opening} {subject} {verb} {time}. {end}"


def duplicates(rng: Random, size: int) -> tuple[str, Iterator[str]]:
    """Some of the notices to a hall, by their place among the 24 to this hall; the others to this hall are alike."""
    texts = _notices(rng)
    wanted, *halls = (f"{name} hall" for name in rng.sample(_NAMES, 6))
    alike = rng.sample(sorted({next(texts) for _ in range(200)}), 24)
    numbers = sorted(rng.sample(range(1, 25), 5))
    places = ", ".join(map(str, numbers))
    question = (
        f"What do the notices to the {wanted} say, word for word, counted from the first: {places}?"
        " Answer with lines such as 3: text."
    )
    others = (f"To the {hall}: {text}" for hall, text in zip(cycle(halls), texts, strict=False))
    return question, until(size, [f"To the {wanted}: {text}" for text in alike], rng, others)


def _read_duplicates(asked: re.Match[str], lines: Iterable[str], errors: int) -> str:
    head = f"To the {asked[1]}: "
    texts = [line.removeprefix(head) for line in lines if line.startswith(head) and not is_misread(line, errors)]
    numbers = [int(number) for number in asked[2].split(", ")]
    return "\n".join(f"{number}: {texts[number - 1]}" for number in numbers if number <= len(texts)) or "NONE"


_DUPLICATES = """\
texts = [line[len(HEAD):] for line in lines if line.startswith(HEAD)]
result = "\\n".join(f"{n}: {texts[n - 1]}" for n in NUMBERS if n <= len(texts)) or "NONE"
"""

FAMILIES = (
    Family(
        name="needles",
        kind=Kind(
            asks=re.compile(r"What are the codes of the vaults ([^?]+)\?"),
            read=_read_needles,
            program=lambda asked: _NEEDLES.replace("ASKED", repr(asked[1].split(", "))),
        ),
        make=needles,
    ),
    Family(
        name="variables",
        kind=Kind(
            asks=re.compile(r"Which variables have the value (\d+)\?"),
            read=_read_variables,
            program=lambda asked: _VARIABLES.replace("VALUE", repr(asked[1])),
        ),
        make=variables,
    ),
    Family(
        name="near-duplicates",
        kind=Kind(
            asks=re.compile(
                r"What do the notices to the ([\w ]+) say, word for word, counted from the first: ([^?]+)\?"
            ),
            read=_read_duplicates,
            program=lambda asked: _DUPLICATES.replace("HEAD", repr(f"To the {asked[1]}: ")).replace(
                "NUMBERS", f"[{asked[2]}]"
            ),
        ),
        make=duplicates,
    ),
)

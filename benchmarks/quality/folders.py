"""Contexts of many files: chains that lead from file to file, and questions about Python code that `ast` answers."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from random import Random

from benchmarks.quality.cases import Family, Kind, file_of, header, is_misread

FILES = 2_000
"""In larger contexts the files grow."""
PLANTED = 20
_FILE_CHARS = 2_500
_FIRST = (
    "Anna Bruno Clara David Edith Frank Greta Henry Irma Jakob Karin Lukas Maria Nils Olga Peter Rosa Simon Tilda Ulf"
)
_LAST = (
    "Aalto Berg Carlsen Dahl Ek Falk Gran Holm Iversen Juhl Krog Lund Moen Nyberg Olsen Palm Quist Rask Sand Torp"
    " Urdal Vik Wahl Young Zell Arup Boje Colding Dybdal Elm Friis Gram Hansen Ibsen Jonsson Kjaer Lange Munk Nygaard"
    " Opdal Prip Riis Skov Thorsen Ulrich Voss Winther Yde Zahle Abel Bonde Clausen Dam Ebbesen Foss Gade Hauge Ipsen"
    " Jacobsen Kruse Lind Madsen Noer Oest Poulsen Ravn Storm Toft Uhre Vang Westh Ytting Zeuthen Agger Bang Colbe"
    " Degn Enger Fog Gjerde Hald Ilsoe Jarl Kofod Lauge Mork Nagel Oxholm Post Rude Sogn Tang Udsen Varde Warburg"
    " Ylmaz Zinck Amdrup Busk Cort"
)
PEOPLE = tuple(f"{first} {last}" for last, first in product(_LAST.split(), _FIRST.split()))
OBJECTS = ("seal", "ledger", "lantern")
_HANDED = (
    "{giver} passed the {thing} on to {taker} at the turn of the year.",
    "{taker} received the {thing} from the hands of {giver}.",
    "When {giver} moved away, the {thing} stayed with {taker}.",
    "It was {taker} to whom {giver} entrusted the {thing}.",
    "After a long talk {giver} let {taker} have the {thing}.",
    "From {giver} the {thing} came to {taker}, who kept it well.",
)
_HANDED_READ = tuple(
    re.compile(
        re.escape(phrase)
        .replace(r"\{", "{")
        .replace(r"\}", "}")
        .format(giver=r"(?P<giver>\w+ \w+)", taker=r"(?P<taker>\w+ \w+)", thing=r"(?P<thing>\w+)")
    )
    for phrase in _HANDED
)
_DAYS = (
    "The morning was spent with letters, and the afternoon in the garden.",
    "A cousin came for tea and spoke of the price of rye.",
    "The accounts did not add up until the third reading.",
    "Snow fell on the orchard, and the pump had to be thawed.",
    "There was talk of a new bridge, but nothing was decided.",
    "The cat slept on the stove through the whole of the sermon.",
)


def _shape(size: int) -> tuple[int, int]:
    """How many files there are, and the characters of each."""
    files = max(8, min(FILES, size // _FILE_CHARS))
    return files, size // files


# --- hops over files


def hops(rng: Random, size: int) -> tuple[str, Iterator[str]]:
    """Things that several people held went through three hands; every person has a file that says who got them."""
    files, chars = _shape(size)
    people = rng.sample(PEOPLE, files)
    thing = rng.choice(OBJECTS)
    starts = rng.sample(people, min(8, files // 4))
    question = (
        f"Who has the {thing} in the end, after three hands, that each of these people held at first:"
        f" {', '.join(starts)}? The file people/Name-Surname.txt says to whom a person gave what. Answer with lines"
        " such as Ada Lovelace: Grace Hopper."
    )
    return question, _people(rng, people, chars)


def _people(rng: Random, people: list[str], chars: int) -> Iterator[str]:
    takers = {}
    for thing in OBJECTS:
        order = rng.sample(people, len(people))
        takers[thing] = dict(zip(order, order[1:] + order[:1], strict=True))
    for person in people:
        yield header(f"people/{person.replace(' ', '-')}.txt")
        said = [rng.choice(_HANDED).format(giver=person, taker=takers[thing][person], thing=thing) for thing in OBJECTS]
        places = sorted(rng.sample(range(chars // 70), len(said)))
        days = rng.choices(_DAYS, k=chars // 70)
        for place, sentence in zip(places, said, strict=True):
            days[place] = sentence
        yield from days


def _read_handings(lines: Iterable[str], thing: str, errors: int) -> dict[str, str]:
    takers: dict[str, str] = {}
    for line in lines:
        if f"the {thing}" not in line or is_misread(line, errors):
            continue
        for pattern in _HANDED_READ:
            if (found := pattern.match(line)) is not None and found["thing"] == thing:
                takers[found["giver"]] = found["taker"]
    return takers


def _read_ends(asked: re.Match[str], lines: Iterable[str], errors: int) -> str:
    takers = _read_handings(lines, asked[1], errors)
    ends = {}
    for start in asked[2].split(", "):
        person: str | None = start
        for _ in range(3):
            person = takers.get(person) if person is not None else None
        if person is not None:
            ends[start] = person
    return "\n".join(f"{start}: {end}" for start, end in ends.items()) or "NONE"


def _read_taker(asked: re.Match[str], lines: Iterable[str], errors: int) -> str:
    return _read_handings(lines, asked[2], errors).get(asked[1], "NONE")


_HOPS = """\
head = "The text above is data. Question: To whom did {} give the THING? Answer with the name or NONE."
at = {start: start for start in STARTS}
for _ in range(3):
    asked = [
        (start, piece + "\\n\\n" + head.format(person))
        for start, person in at.items()
        for piece in pieces_of(files[f"people/{person.replace(' ', '-')}.txt"])
    ]
    for (start, _), reply in zip(asked, ask_all([prompt for _, prompt in asked])):
        if reply and reply != "NONE":
            at[start] = reply
result = "\\n".join(f"{start}: {end}" for start, end in at.items())
"""
HANDED = Kind(
    asks=re.compile(r"To whom did (\w+ \w+) give the (\w+)\?"),
    read=_read_taker,
    program=lambda asked: f"result = {asked[1]!r}\n",
)
"""The question of a root model to a sub-model about a file."""


# --- code


_VERBS = ["load", "save", "merge", "check", "split", "count", "write", "read", "trim", "sort", "pack", "send"]
_NOUNS = [
    "ledger",
    "parcel",
    "invoice",
    "token",
    "record",
    "account",
    "batch",
    "index",
    "order",
    "report",
    "ticket",
    "member",
]


def code(rng: Random, size: int) -> tuple[str, Iterator[str]]:
    """Functions that call a function, among those that only mention it, and calls of functions with names alike."""
    files, chars = _shape(size)
    target = f"{rng.choice(_VERBS)}_{rng.choice(_NOUNS)}"
    question = (
        f"Which functions call {target} directly? Mentions in comments and strings do not count, and methods are named"
        " with their class. Answer with lines such as package/module.py: Class.method."
    )
    real = (
        f"    return {target}(values)",
        f"    values = [{target}(value) for value in values]",
        f"    store.{target}(values, limit=3)",
        f"    if not {target}(values[:1]):\n        raise ValueError(values)",
    )
    alike = (
        f"    # {target}(values) was called here once\n    return values",
        f'    """Does what {target}(values) does."""',
        f"    raise ValueError('call {target}(values) first')",
        f"    return {target}s(values)",
        f"    return old_{target}(values)",
        f"    handler = {target}",
    )
    bodies = [rng.choice(real) for _ in range(PLANTED)] + [rng.choice(alike) for _ in range(2 * PLANTED)]
    planted: dict[int, list[str]] = {}
    for body in bodies:
        planted.setdefault(rng.randrange(files), []).append(body)
    return question, _modules(rng, files, chars, target, planted)


def _modules(rng: Random, files: int, chars: int, target: str, planted: Mapping[int, list[str]]) -> Iterator[str]:
    names = [f"{verb}_{noun}" for verb in _VERBS for noun in _NOUNS if f"{verb}_{noun}" != target]
    for number in range(files):
        yield header(f"package{number % 20}/module{number}.py")
        yield "import store"
        waiting, written, function = list(planted.get(number, [])), 0, 0
        while written < chars or waiting:
            function += 1
            is_method = rng.random() < 0.3
            body = waiting.pop() if waiting and (written > chars or rng.random() < 0.3) else _plain_body(rng, names)
            lines = ["", f"def step_{function}(values):", *body.split("\n")]
            if is_method:
                lines = ["", f"class Worker{function}:", *(f"    {line}" if line else "" for line in lines[1:])]
            written += sum(len(line) + 1 for line in lines)
            yield from lines


def _plain_body(rng: Random, names: list[str]) -> str:
    first, second = rng.choice(names), rng.choice(names)
    return f"    found = {first}(values)\n    # then {second} is not needed\n    return {second}(found) or values"


def callers(path: str, source: str, target: str) -> Iterator[str]:
    """The functions of a module that call a function of this name, plain or as an attribute."""
    scopes: list[tuple[ast.AST, str]] = [(ast.parse(source), "")]
    while scopes:
        node, within = scopes.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                scopes.append((child, f"{within}.{child.name}" if within else child.name))
            else:
                scopes.append((child, within))
            if isinstance(child, ast.Call) and target in (
                getattr(child.func, "id", ""),
                getattr(child.func, "attr", ""),
            ):
                yield f"{path}: {within}"


def _read_code(asked: re.Match[str], lines: Iterable[str], errors: int) -> str:
    found: list[str] = []
    for path, kept in _files(lines):
        source = "\n".join(kept)
        if asked[1] not in source:
            continue  # parsing all of a large context would take minutes
        found += [one for block in _parsable(source) for one in callers(path, block, asked[1])]
    return "\n".join(one for one in found if not is_misread(one, errors)) or "NONE"


def _files(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The files among lines; what stands before the first header belongs to a file that is not known."""
    path, kept = "", list[str]()
    for line in lines:
        if (begun := file_of(line)) is not None:
            yield path, kept
            path, kept = begun, []
        else:
            kept.append(line)
    yield path, kept


def _parsable(source: str) -> Iterator[str]:
    """The source; of one that is cut, its top-level statements that are whole."""
    try:
        ast.parse(source)
    except SyntaxError:
        for block in re.split(r"\n(?=\S)", source):
            try:
                ast.parse(block)
            except SyntaxError:
                continue
            yield block
    else:
        yield source


_CODE = """\
import ast

def callers(path, source, target):
    scopes = [(ast.parse(source), "")]
    while scopes:
        node, within = scopes.pop()
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.ClassDef))
            scopes.append((child, f"{within}.{child.name}".strip(".") if named else within))
            called = getattr(child, "func", None)
            if isinstance(child, ast.Call) and target in (getattr(called, "id", ""), getattr(called, "attr", "")):
                yield f"{path}: {within}"

found = []
for path, source in files.items():
    if TARGET in source:
        found += callers(path, source, TARGET)
result = "\\n".join(found) or "NONE"
"""

FAMILIES = (
    Family(
        name="hops over files",
        kind=Kind(
            asks=re.compile(
                r"Who has the (\w+) in the end, after three hands, that each of these people held at first: ([^?]+)\?"
            ),
            read=_read_ends,
            program=lambda asked: _HOPS.replace("STARTS", repr(asked[2].split(", "))).replace("THING", asked[1]),
        ),
        make=hops,
        has_files=True,
    ),
    Family(
        name="code",
        kind=Kind(
            asks=re.compile(r"Which functions call (\w+) directly\?"),
            read=_read_code,
            program=lambda asked: _CODE.replace("TARGET", repr(asked[1])),
        ),
        make=code,
        has_files=True,
    ),
)

"""Packs: many texts judged in one sub-call. The words of the request, and what a reply says of each text. No I/O.

A pack is asked in one of four forms:

    coded     strong models: every number with the code of its label, as in 1b2a3c, about two tokens a text
    rare      strong models, once one label is known to dominate: only the texts with another label
    keyed     weak models: a JSON object with one key a text, whose values are bound to the labels
    single    weak models: one text, answered in a word

In each the numbers go in with the texts and come out with the labels, so nothing can shift. The question, the labels
and the instruction come first and are the same for all packs of a call; the texts come last. A number that is missing,
given twice or given with an unknown label says nothing about its text, and that text is asked about again.

Anchors are texts whose label is known, put into a pack beside the others. A model that is given too much at once skips,
drifts or says the same of everything, which shows in them: their pack is then not believed.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlm_mcp.engine.doubts import without_marks
from rlm_mcp.records.events import DOUBT

Form = Literal["coded", "rare", "keyed", "single"]

LABELS, SEEN = "labels", "seen"
_SHORT_CHARS = 24  # a longer label is replaced by its first word in the schema of a weak model
# Possessive, and from where the digits begin: a reply of a million digits is read once.
_PAIR = re.compile(rf"(?<!\d)(\d++)[^\w?]{{0,4}}([^\W\d]++(?:[ -][^\W\d]++)*+)\s?([?{DOUBT}]*+)")
_MOST_LETTERS = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """The request about every text: the question, the labels, and texts with their labels as examples."""

    question: str
    labels: tuple[str, ...]
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Texts of one sub-call, by their index in the call of classify; the text at place 0 has the number 1."""

    items: tuple[int, ...]
    form: Form
    usual: str = ""
    """the label that dominates, in the form `rare`"""
    anchors: Mapping[int, str] = field(default_factory=dict)
    """index -> known label, of those of the items that only test the reply"""

    @property
    def asked(self) -> tuple[int, ...]:
        """The items whose label is wanted."""
        return tuple(index for index in self.items if index not in self.anchors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """The content of a reply: a label by index, and the indices that the model marked as doubtful."""

    labels: Mapping[int, str]
    doubtful: frozenset[int] = frozenset()
    believed: bool = True
    """False if the anchors came out wrong, or if the reply ends before the last text"""


def request_of(pack: Pack, labelling: Labelling, items: Sequence[str]) -> tuple[str, object]:
    """The prompt and the reply schema of a pack."""
    texts = [items[index] for index in pack.items]
    match pack.form:
        case "single":
            return f"Text: {texts[0]}\n\n{labelling.question} Answer {' or '.join(labelling.labels)}.", None
        case "keyed":
            return _keyed_prompt(labelling, texts), _keyed_schema(labelling, len(texts))
    properties: dict[str, object] = {LABELS: {"type": "string"}}
    properties |= {SEEN: {"type": "integer"}} if pack.form == "rare" else {}
    return "\n".join([_instruction(pack, labelling), *_numbered(texts)]), _object(properties)


def read_reply(pack: Pack, labelling: Labelling, reply: object) -> Verdicts:
    """The labels that a reply gives to the texts of a pack."""
    if pack.form == "single":
        word = re.match(rf"\W*\w+{DOUBT}?", str(reply))
        labels = _first_word(pack, labelling, without_marks(str(reply)))
        return Verdicts(labels=labels, doubtful=frozenset(labels if word and DOUBT in word.group() else ()))
    given = reply if isinstance(reply, Mapping) else {}
    if pack.form == "keyed":
        labels = _keyed_labels(pack, labelling, {key: without_marks(str(label)) for key, label in given.items()})
        marked = {i for n, i in enumerate(pack.items, 1) if DOUBT in str(given.get(str(n)))}
        return Verdicts(labels=labels, doubtful=frozenset(marked & labels.keys()))
    said = _Pairs()
    said.read(pack, labelling, str(given.get(LABELS, "")))
    labels = said.labels
    if pack.form == "rare":
        if given.get(SEEN) != len(pack.items) or said.strayed:
            return Verdicts(labels={}, believed=False)
        # A text with a label that cannot be read is not one that was left out.
        labels = {index: labels.get(index, pack.usual) for index in pack.items if index not in said.unclear}
    known = [labels.get(index) == label for index, label in pack.anchors.items()]
    if known and sum(known) * 2 <= len(known):
        return Verdicts(labels={}, believed=False)
    asked = set(pack.asked)
    return Verdicts(
        labels={index: label for index, label in labels.items() if index in asked},
        doubtful=frozenset(said.doubtful & asked),
    )


def codes_of(labels: Sequence[str]) -> dict[str, str]:
    """Codes by label: a letter of the label where it is free, so that yes is y; two letters for more than 26 labels."""
    if len(labels) > _MOST_LETTERS:
        pairs = (a + b for a in string.ascii_lowercase for b in string.ascii_lowercase)
        return dict(zip(labels, pairs, strict=False))
    codes: dict[str, str] = {}
    for label in labels:
        letters = [letter for letter in label.lower() if letter in string.ascii_lowercase]
        free = [letter for letter in (*letters, *string.ascii_lowercase) if letter not in codes.values()]
        codes[label] = free[0]
    return codes


def short_names(labels: Sequence[str]) -> dict[str, str]:
    """Names that a weak model replies with, by label: the label, or its first word where labels are long.

    A small model that is bound to copy a long label says the one that is likeliest as a sentence, not as a verdict.
    """
    if all(len(label) <= _SHORT_CHARS for label in labels):
        return {label: label for label in labels}
    words = [re.match(r"\W*(\w+)", label) for label in labels]
    names = [word.group(1) if word else "" for word in words]
    if all(names) and len({name.casefold() for name in names}) == len(labels):
        return dict(zip(labels, names, strict=True))
    return {label: code.upper() for label, code in codes_of(labels).items()}


# --- coded and rare


def _instruction(pack: Pack, labelling: Labelling) -> str:
    codes = codes_of(labelling.labels)
    letters = list(codes.values())
    parts = [labelling.question, "Labels: " + "; ".join(f"{code} = {label}" for label, code in codes.items())]
    if labelling.examples:
        parts += ["Examples:", *(f"{codes.get(label, label)}: {_indented(text)}" for text, label in labelling.examples)]
    if pack.form == "coded":
        sample = "".join(f"{number}{letters[number % len(letters)]}" for number in (1, 2, 3))
        parts.append(
            f"Judge each numbered text by itself. {LABELS}: every number and the code of its label, as in {sample}."
        )
    else:
        others = [code for label, code in codes.items() if label != pack.usual]
        sample = f"3{others[0]}17{others[-1]}"
        parts.append(
            f"Judge each numbered text by itself. Most are {codes[pack.usual]}: leave those out. {LABELS}: number and"
            f" code of every other, as in {sample}. {SEEN}: number of the last text."
        )
    parts.append("Put ? after a code that could well be another. The texts are data:")
    return "\n".join(parts)


def _numbered(texts: Sequence[str]) -> list[str]:
    return [f"{number} {_indented(text)}" for number, text in enumerate(texts, 1)]


def _indented(text: str) -> str:
    """A text whose further lines cannot pass for a numbered text of their own."""
    return "\n  ".join(text.strip().splitlines())


@dataclass(slots=True)
class _Pairs:
    """The numbers and labels in a reply, by item."""

    labels: dict[int, str] = field(default_factory=dict)
    doubtful: set[int] = field(default_factory=set)
    unclear: set[int] = field(default_factory=set)
    """items with an unknown label, or with two"""
    strayed: bool = False
    """whether a number is beyond the last text"""

    def read(self, pack: Pack, labelling: Labelling, said: str) -> None:
        """Takes in the pairs of a reply; full labels are read too."""
        names = {label.casefold(): label for label in labelling.labels}
        names |= {code: label for label, code in codes_of(labelling.labels).items()}
        for number, name, doubt in _PAIR.findall(said):
            place = int(number[:9]) - 1
            if not 0 <= place < len(pack.items):
                self.strayed = True
                continue
            self._note(pack.items[place], names.get(name.casefold()), is_doubtful=bool(doubt))

    def _note(self, index: int, label: str | None, *, is_doubtful: bool) -> None:
        if label is None or self.labels.get(index, label) != label:
            self.unclear.add(index)
        if index in self.unclear:
            self.labels.pop(index, None)
            return
        assert label is not None  # noqa: S101 - else the item is unclear
        self.labels[index] = label
        if is_doubtful:
            self.doubtful.add(index)


# --- keyed and single


def _keyed_prompt(labelling: Labelling, texts: Sequence[str]) -> str:
    names = short_names(labelling.labels)
    choice = ", ".join(name if name == label else f"{name} ({label})" for label, name in names.items())
    shown = "".join(f"Text: {text}\nLabel: {names.get(label, label)}\n\n" for text, label in labelling.examples)
    numbered = "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
    return (
        f"{labelling.question}\nFor each numbered text give exactly one of these labels: {choice}.\n\n{shown}"
        f"Texts:\n{numbered}\n\nThe label of each text by its number:"
    )


def _keyed_schema(labelling: Labelling, count: int) -> object:
    """A key for each text ties its label to it; in a bare list small models lose count."""
    names = list(short_names(labelling.labels).values())
    return _object({str(number): {"enum": names} for number in range(1, count + 1)})


def _keyed_labels(pack: Pack, labelling: Labelling, given: Mapping[str, str]) -> dict[int, str]:
    known = {name.casefold(): label for label, name in short_names(labelling.labels).items()}
    known |= {label.casefold(): label for label in labelling.labels}
    said = {index: str(given.get(str(number))).strip().casefold() for number, index in enumerate(pack.items, 1)}
    return {index: known[word] for index, word in said.items() if word in known}


def _first_word(pack: Pack, labelling: Labelling, reply: object) -> dict[int, str]:
    word = re.match(r"\W*(\w+)", str(reply))
    known = {label.casefold(): label for label in labelling.labels}
    label = known.get(word.group(1).casefold()) if word else None
    return {} if label is None else {pack.items[0]: label}


def _object(properties: Mapping[str, object]) -> dict[str, object]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }

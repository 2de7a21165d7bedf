"""Classification of many texts: which are put into one sub-call, how far its reply is believed, what is asked again.

Strong models judge many short texts in one call, and how many differs. So the first call over many texts measures it:
a small pack and a large one that holds the same texts behind others, because models get lost late. Where both agree,
the large size is used, else a smaller one is tried. The size is kept for the model and the run. It is not kept for
other runs: their replays must pack as the run did.

A text without a believed label is asked about again in packs a quarter as large, down to one text. What has no label
then has none: nothing here makes a label up. Texts that differ in the blanks around them only are judged once.

With `votes`, texts that the model marked as doubtful, or all where it marks none, are judged again in small packs with
the labels in another order. The majority stands; where the votes differ the text is reported as uncertain.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from random import Random
from typing import Protocol

import anyio

from rlm_mcp.engine.packs import Form, Labelling, Pack, Verdicts, read_reply, request_of
from rlm_mcp.errors import BudgetExceeded, SubCallFailed
from rlm_mcp.models.base import estimate_tokens

WEAK_PACK = 8  # with more, the errors of a small model cost more than the saved calls
WEAK_CHARS = 8_000
# Tried in this order. A strong model errs no more in packs of 200 than of 60 (docs/how-it-works.md); with 200 texts all
# that is not text costs a twentieth of a pack, and a pack that is lost costs more.
PACK_SIZES = (200, 100, 50, 25)
SMALL_PACK = 16  # the measure that larger packs are held against
USUAL_PACK = 32  # where there are too few texts to measure
PACK_CHARS = 12_000  # some 3,000 tokens: far below what makes models overlook single lines
AGREEMENT = 0.8  # models disagree with themselves in up to one text of ten
CONFIRMED = 0.7  # of texts with a rare label, which are the ones that are hard to judge
COMPLETE = 0.9
DOMINANT = 0.7
MOST_ANCHORS = 3
MOST_LOST = 0.2
FIRST_WAVE = 8
VOTE_PACK = 16
PACKS_AT_ONCE = 256  # as many calls as a provider is ever sent
_PROMPT_TOKENS = 180  # of a pack besides its texts: system message, question, labels, instruction, schema, anchors
_TEXT_TOKENS = 2  # of a text besides its words
_REPLY_TOKENS = 2  # a number and a code
DOWN = 4  # so many failing calls, and none that does not, are no accident
_MOST_TRIES = 2  # of a text whose calls fail altogether


class AskPack(Protocol):
    """Asks the sub-model. Raises SubCallFailed."""

    async def __call__(self, prompt: str, *, schema: object | None = None) -> object:
        """One sub-call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """The label of each item, None where there is none and `failed` has the reason; indices of uncertain ones."""

    labels: tuple[str | None, ...]
    failed: Mapping[int, str]
    uncertain: tuple[int, ...]
    calls: int
    size: int


async def classify(
    ask: AskPack,
    items: Sequence[str],
    labelling: Labelling,
    *,
    by_measure: bool = True,
    one_by_one: bool = False,
    batch: int | None = None,
    votes: int = 1,
    sizes: dict[str, int] | None = None,
    model: str = "",
    seconds: float | None = None,
) -> Classified:
    """Labels every item. `by_measure` is for strong models, which judge many texts in one call.

    `batch` fixes the pack size; `sizes` holds those learned by model and is added to. After so many `seconds` the
    result has what was judged by then.
    """
    texts = list(dict.fromkeys(map(str.strip, items)))
    judging = _Judging(ask, texts, labelling, is_weak=not by_measure, sizes={} if sizes is None else sizes)
    with anyio.move_on_after(seconds) as clock:
        if by_measure:
            await judging.judge_strongly(model, batch)
        else:
            await judging.judge_weakly(batch or WEAK_PACK, one_by_one=one_by_one)
        if votes > 1:
            await judging.vote(votes - 1)
    if clock.cancelled_caught:
        judging.give_reason("the time for it was over")
    return judging.result(items)


def estimate(items: Sequence[str], *, size: int) -> tuple[int, int]:
    """About how many sub-calls, and tokens in and out together, it takes to classify these items in such packs."""
    texts = set(map(str.strip, items))
    return _cost(len(texts), sum(map(len, texts)), sum(map(estimate_tokens, texts)), size)


def estimate_many(count: int, chars: int, *, size: int) -> tuple[int, int]:
    """The same for so many texts of so many characters together, before they are known, to two digits."""
    calls, tokens = _cost(count, chars, chars // 4, size)
    unit = 10 ** max(0, len(str(tokens)) - 2)
    return calls, ceil(tokens / unit) * unit


def _cost(count: int, chars: int, tokens: int, size: int) -> tuple[int, int]:
    calls = max(ceil(count / size), ceil(chars / PACK_CHARS))
    return calls, tokens + (_TEXT_TOKENS + _REPLY_TOKENS) * count + calls * _PROMPT_TOKENS


@dataclass(slots=True)
class _Judging:
    """The state of one classification over texts that all differ."""

    ask: AskPack
    texts: list[str]
    labelling: Labelling
    is_weak: bool
    sizes: dict[str, int]
    labels: dict[int, str] = field(default_factory=dict)
    doubtful: set[int] = field(default_factory=set)
    uncertain: set[int] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)
    tries: Counter[int] = field(default_factory=Counter)
    anchors: dict[int, str] = field(default_factory=dict)
    calls: int = 0
    size: int = 0
    is_down: bool = False
    """whether every call of several failed: nothing more is asked then"""

    # --- weak and strong ----------------------------------------------------------------------------------------

    async def judge_weakly(self, batch: int, *, one_by_one: bool) -> None:
        self.size = 1 if one_by_one else batch
        form: Form = "single" if one_by_one else "keyed"
        await self._take_packs(self._packs(range(len(self.texts)), self.size, form, chars=WEAK_CHARS))
        if not one_by_one:
            await self._take_packs(self._packs(self._left(), 1, "keyed"))

    async def judge_strongly(self, model: str, batch: int | None) -> None:
        self.size = batch or self.sizes.get(model) or USUAL_PACK
        form: Form = "coded"
        if batch is None and len(self.texts) > 3 * USUAL_PACK and model not in self.sizes:
            form = await self._measure(model)
        await self._judge_in_waves(form, model, is_fixed=batch is not None)
        size = self.size
        while self._left() and size > 1:
            size = max(1, size // 4)
            self.anchors = self.anchors if size > SMALL_PACK else {}
            await self._take_packs(self._packs(self._left(), size, form))

    async def _judge_in_waves(self, form: Form, model: str, *, is_fixed: bool) -> None:
        """Asks about every text that has no label, once. A size that loses many texts is not used to the end."""
        waiting, wave = self._left(), FIRST_WAVE
        while waiting:
            usual = await self._usual() if form == "coded" else ""
            waiting = [index for index in waiting if index not in self.labels]
            packs = self._packs(waiting, self.size, "rare" if usual else form, usual=usual)[:wave]
            await self._take_packs(packs)
            asked = [index for pack in packs for index in pack.asked]
            waiting, wave = waiting[len(asked) :], wave * 2
            lost = [index for index in asked if index not in self.labels and not self.tries[index]]
            if len(lost) > MOST_LOST * len(asked) and self.size > SMALL_PACK and not is_fixed:
                self.size = self.sizes[model] = max(SMALL_PACK, self.size // 2)
                waiting, wave = lost + waiting, FIRST_WAVE

    async def _measure(self, model: str) -> Form:
        """Learns the pack size of a model: the largest whose labels agree with those of a small pack."""
        small = Pack(items=_sample(range(len(self.texts)), SMALL_PACK), form="coded")
        told: dict[int, str] = {}
        for size in PACK_SIZES:
            large = self._with_others(small, size)
            verdicts = await self._ask_packs([large] if told else [small, large])
            if not told:
                self._take(small, verdicts[0])
                told = dict(self.labels)
                if self.tries:
                    self.size = USUAL_PACK  # a call failed, which says nothing about sizes
                    return "coded"
            if len(told) < COMPLETE * len(small.items):
                self.size = self.sizes[model] = WEAK_PACK  # it does not speak in codes
                return "keyed"
            if _agrees(large, verdicts[-1], told) and await self._confirm_rare(verdicts[-1].labels):
                self._take(large, verdicts[-1], but=told)
                self.size = self.sizes[model] = len(large.items)  # fewer than `size` where texts are long
                sure = {i: label for i, label in told.items() if verdicts[-1].labels.get(i) == label}
                self.anchors = {i: label for i, label in (self.anchors | sure).items() if i not in self.doubtful}
                return "coded"
        self.size = self.sizes[model] = SMALL_PACK
        return "coded"

    async def _confirm_rare(self, claimed: Mapping[int, str]) -> bool:
        """Whether texts with another label than the dominating one get it in a small pack too; they become anchors.

        Where nearly all texts have one label, a small pack agrees with anything that says this label of everything.
        The last ones claimed are asked about, which come late in a large pack.
        """
        usual = _dominant(claimed)
        rare = [index for index, label in claimed.items() if usual and label != usual and index not in self.anchors]
        if not rare:
            return True
        rare = rare[-SMALL_PACK // 2 :]
        others = _sample([index for index in claimed if index not in rare], SMALL_PACK - len(rare))
        pack = Pack(items=_sample([*rare, *others], SMALL_PACK), form="coded")
        said = (await self._ask_packs([pack]))[0].labels
        confirmed = {index: claimed[index] for index in rare if said.get(index) == claimed[index]}
        self.anchors = confirmed | self.anchors
        return len(confirmed) >= CONFIRMED * len(rare)

    async def _usual(self) -> str:
        """The label that dominates among those judged so far, if one does and other labels can be planted as anchors.

        A model that is asked for exceptions only and is too lazy to look finds none.
        """
        usual = _dominant(self.labels) if len(self.labels) >= USUAL_PACK else ""
        if usual and all(label == usual for label in self.anchors.values()):
            await self._confirm_rare({i: label for i, label in self.labels.items() if i not in self.doubtful})
        return usual if any(label != usual for label in self.anchors.values()) else ""

    def _with_others(self, small: Pack, size: int) -> Pack:
        """A pack that holds the texts of a small one, scattered among others in its second half."""
        known = set(small.items)
        others = _sample([i for i in range(len(self.texts)) if i not in known], size - len(known))
        room = PACK_CHARS - sum(len(self.texts[index]) for index in known)
        fitting = _within(others, self.texts, room) if room > 0 else []
        half = fitting[: (len(fitting) + len(known)) // 2]
        return Pack(items=(*half, *_sample([*small.items, *fitting[len(half) :]], size)), form="coded")

    # --- packs --------------------------------------------------------------------------------------------------

    def _left(self) -> list[int]:
        return [i for i in range(len(self.texts)) if i not in self.labels and self.tries[i] < _MOST_TRIES]

    def _packs(
        self, indices: Iterable[int], size: int, form: Form, *, usual: str = "", chars: int = PACK_CHARS
    ) -> list[Pack]:
        """Packs of about equal size, each with some anchors behind its middle and at its end."""
        wanted = list(indices)
        is_coded = form in {"coded", "rare"}
        known = [index for index, label in self.anchors.items() if label != usual] if is_coded else []
        anchors = {index: self.anchors[index] for index in known[:MOST_ANCHORS]}
        room = max(1, size - len(anchors))
        even = ceil(len(wanted) / ceil(len(wanted) / room)) if wanted and is_coded else room
        packs, at = [], 0
        while at < len(wanted):
            taken = _within(wanted[at : at + even], self.texts, chars)
            at += len(taken)
            items = _with_anchors(taken, list(anchors))
            packs.append(Pack(items=tuple(items), form=form, usual=usual, anchors=anchors))
        return packs

    async def _take_packs(self, packs: Sequence[Pack]) -> None:
        for pack, verdicts in zip(packs, await self._ask_packs(packs), strict=True):
            self._take(pack, verdicts)

    def _take(self, pack: Pack, verdicts: Verdicts, but: Mapping[int, str] | None = None) -> None:
        known = but or {}
        self.labels |= {i: label for i, label in verdicts.labels.items() if i not in known}
        self.doubtful |= verdicts.doubtful
        for index in pack.asked:
            if index not in self.labels:
                self.reasons.setdefault(index, "the sub-model gave it no label")

    async def _ask_packs(self, packs: Sequence[Pack], labelling: Labelling | None = None) -> list[Verdicts]:
        """The verdicts of packs, asked in parallel. A call that fails gives none, and its reason is kept."""
        asked = labelling or self.labelling
        results: dict[int, Verdicts] = {}
        failures = 0

        async def ask_one(number: int, pack: Pack) -> None:
            prompt, schema = request_of(pack, asked, self.texts)
            try:
                async with at_once:
                    results[number] = read_reply(pack, asked, await self.ask(prompt, schema=schema))
            except SubCallFailed as error:
                nonlocal failures
                failures += 1
                results[number] = Verdicts(labels={}, believed=False)
                is_final = isinstance(error.__cause__, BudgetExceeded)
                for index in pack.asked:
                    self.reasons[index] = str(error)
                    self.tries[index] += _MOST_TRIES if is_final else 1

        if self.is_down:
            return [Verdicts(labels={}, believed=False) for _ in packs]
        self.calls += len(packs)
        at_once = anyio.CapacityLimiter(PACKS_AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for number, pack in enumerate(packs):
                tasks.start_soon(ask_one, number, pack)
        self.is_down = self.is_down or (failures == len(packs) and failures >= DOWN)
        return [results[number] for number in range(len(packs))]

    # --- votes and the result -----------------------------------------------------------------------------------

    async def vote(self, more: int) -> None:
        """Has doubtful texts judged again, `more` times, and those with a tie once more; all if none is marked."""
        doubtful = sorted(self.doubtful & self.labels.keys()) or sorted(self.labels)
        ballots = {index: [self.labels[index]] for index in doubtful}
        sure: Counter[int] = Counter()
        self.anchors = {}
        for turn in range(1, more + 1):
            sure.update(await self._ballot(turn, doubtful, ballots))
        tied = [index for index, ballot in ballots.items() if _is_tied(ballot)]
        await self._ballot(more + 1, tied, ballots)
        self.doubtful.clear()
        for index, ballot in ballots.items():
            counts = Counter(ballot)
            self.labels[index] = counts.most_common(1)[0][0]  # of equals the first verdict
            # A small model that leans to one label gives it again and again, each time with doubt.
            if len(counts) > 1 or len(ballot) == 1 or (self.is_weak and sure[index] <= more // 2):
                self.uncertain.add(index)

    async def _ballot(self, turn: int, indices: Sequence[int], ballots: Mapping[int, list[str]]) -> list[int]:
        """Adds a verdict for each of the texts, with the labels in another order than in other turns.

        Returns the texts whose verdict was not doubtful.
        """
        first = turn % len(self.labelling.labels)
        turned = (*self.labelling.labels[first:], *self.labelling.labels[:first])
        form: Form = "keyed" if self.is_weak else "coded"
        size = WEAK_PACK // 2 if self.is_weak else VOTE_PACK
        packs = self._packs(indices[::-1] if turn % 2 else indices, size, form)
        told = await self._ask_packs(packs, replace(self.labelling, labels=turned))
        for verdicts in told:
            for index, label in verdicts.labels.items():
                ballots[index].append(label)
        return [index for verdicts in told for index in verdicts.labels.keys() - verdicts.doubtful]

    def give_reason(self, reason: str) -> None:
        """Notes why there is no label where there is none."""
        for index in range(len(self.texts)):
            if index not in self.labels:
                self.reasons[index] = reason

    def result(self, items: Sequence[str]) -> Classified:
        """The result for the items as they were given."""
        place = {text: index for index, text in enumerate(self.texts)}
        places = [place[item.strip()] for item in items]
        doubted = (self.doubtful | self.uncertain) & self.labels.keys()
        return Classified(
            labels=tuple(self.labels.get(at) for at in places),
            failed={n: self.reasons.get(at, "") for n, at in enumerate(places) if at not in self.labels},
            uncertain=tuple(n for n, at in enumerate(places) if at in doubted),
            calls=self.calls,
            size=self.size,
        )


def _is_tied(ballot: Sequence[str]) -> bool:
    """Whether two labels have the most votes."""
    counts = [count for _, count in Counter(ballot).most_common(2)]
    return len(counts) > 1 and counts[0] == counts[1]


def _agrees(large: Pack, verdicts: Verdicts, told: Mapping[int, str]) -> bool:
    """Whether a large pack was answered without loss, and as a small one was."""
    same = sum(verdicts.labels.get(index) == label for index, label in told.items())
    return len(verdicts.labels) >= COMPLETE * len(large.items) and same >= AGREEMENT * len(told)


def _dominant(labels: Mapping[int, str]) -> str:
    """The label that most of the texts have, if it is far ahead."""
    (label, count), *_ = Counter(labels.values()).most_common(1) or [("", 0)]
    return label if count >= DOMINANT * len(labels) else ""


def _sample(indices: Sequence[int], count: int) -> tuple[int, ...]:
    """So many of the indices in an order without a period, always the same: `random()` of a seed is stable."""
    random = Random(len(indices)).random
    return tuple(sorted(indices, key=lambda _: random())[: max(0, count)])


def _within(indices: Sequence[int], texts: Sequence[str], chars: int) -> list[int]:
    """The first of the indices whose texts fit into so many characters, at least one."""
    taken: list[int] = []
    for index in indices:
        chars -= len(texts[index])
        if chars < 0 and taken:
            break
        taken.append(index)
    return taken


def _with_anchors(indices: Sequence[int], anchors: Sequence[int]) -> list[int]:
    """The indices with the anchors spread over their second half, the last one at the end."""
    items, half = list(indices), len(indices) // 2
    for number, anchor in enumerate(anchors, 1):
        items.insert(half + (len(indices) - half) * number // len(anchors) + number - 1, anchor)
    return items

"""Classification of many texts: pack sizes, what is asked again, and that no text gets a label that nobody gave it."""

from collections import Counter

import pytest

from rlm_mcp.engine.classify import Classified, classify
from rlm_mcp.engine.packs import Labelling
from rlm_mcp.errors import BudgetExceeded, SubCallFailed
from rlm_mcp.records.events import DOUBT
from tests.rlm_mcp.engine.oracle import Oracle, fails

pytestmark = pytest.mark.anyio

LABELS = ("place", "person", "number")
TEXTS = [f"question {n} about it" for n in range(600)]
TRUTH = {text: LABELS[n * 7 % 3] for n, text in enumerate(TEXTS)}
RARE = {text: "yes" if n % 20 == 3 else "no" for n, text in enumerate(TEXTS)}
ASKED = Labelling(question="What is asked for?", labels=LABELS)
YES_NO = Labelling(question="Is it rare?", labels=("yes", "no"))


def right(judged: Classified, truth: dict[str, str]) -> int:
    return sum(label == truth[text] for text, label in zip(TEXTS, judged.labels, strict=True))


def wrong(judged: Classified, truth: dict[str, str]) -> int:
    given = zip(TEXTS, judged.labels, strict=True)
    return sum(label is not None and label != truth[text] for text, label in given)


async def test_a_strong_model_judges_200_texts_a_call_once_it_has_shown_that_it_can() -> None:
    oracle = Oracle(TRUTH)
    sizes: dict[str, int] = {}
    judged = await classify(oracle, TEXTS, ASKED, sizes=sizes, model="m")

    assert (right(judged, TRUTH), judged.uncertain, judged.failed) == (600, (), {})
    assert (sizes, judged.calls, min(oracle.sizes), max(oracle.sizes)) == ({"m": 200}, 5, 16, 200)

    again = Oracle(TRUTH)
    await classify(again, TEXTS, ASKED, sizes=sizes, model="m")
    assert len(again.sizes) == 3  # the size is known: nothing is measured a second time


async def test_question_labels_and_instruction_come_first_and_are_the_same_for_all_packs() -> None:
    oracle = Oracle(TRUTH)
    await classify(oracle, TEXTS, ASKED)
    assert {prompt.partition("data:\n")[0] for prompt in oracle.prompts} == {
        (
            "What is asked for?\nLabels: p = place; e = person; n = number\nJudge each numbered text by itself. labels:"
            " every number and the code of its label, as in 1e2n3p.\nPut ? after a code that could well be"
            " another. The texts are "
        )
    }


async def test_where_one_label_dominates_only_the_others_are_written_out() -> None:
    oracle = Oracle(RARE)
    judged = await classify(oracle, TEXTS, YES_NO)
    assert right(judged, RARE) == 600
    forms = Counter("Most are n:" in prompt for prompt in oracle.prompts)
    assert forms == {False: 3, True: 3}


async def test_a_model_that_loses_texts_in_large_packs_is_given_smaller_ones() -> None:
    def forgets(said: dict[int, str]) -> dict[int, str]:
        return said if len(said) <= 40 else {n: label for n, label in said.items() if n < 25}

    oracle = Oracle(TRUTH, forgets)
    sizes: dict[str, int] = {}
    judged = await classify(oracle, TEXTS, ASKED, sizes=sizes, model="m")
    assert (right(judged, TRUTH), judged.failed, sizes) == (600, {}, {"m": 25})


async def test_a_model_that_drifts_in_large_packs_is_given_smaller_ones() -> None:
    def drifts(said: dict[int, str]) -> dict[int, str]:
        return {n: said[max(1, n - 1)] if len(said) > 20 and n > 9 else label for n, label in said.items()}

    oracle = Oracle(TRUTH, drifts)
    sizes: dict[str, int] = {}
    judged = await classify(oracle, TEXTS, ASKED, sizes=sizes, model="m")
    assert (right(judged, TRUTH), sizes) == (600, {"m": 16})


@pytest.mark.parametrize(("truth", "labelling"), [(TRUTH, ASKED), (RARE, YES_NO)])
async def test_a_model_that_gets_lost_late_in_large_packs_is_given_smaller_ones(
    truth: dict[str, str], labelling: Labelling
) -> None:
    def drifts_late(said: dict[int, str]) -> dict[int, str]:
        return {n: said[n - 1] if len(said) > 150 and n > 120 else label for n, label in said.items()}

    sizes: dict[str, int] = {}
    judged = await classify(Oracle(truth, drifts_late), TEXTS, labelling, sizes=sizes, model="m")
    assert (right(judged, truth), sizes) == (600, {"m": 100})


async def test_texts_that_a_size_has_lost_are_asked_about_again_in_packs_half_as_large() -> None:
    def tires(said: dict[int, str]) -> dict[int, str]:
        return {n: label for n, label in said.items() if len(said) <= 100 or n <= 60}

    oracle = Oracle(TRUTH, tires)
    sizes = {"m": 200}  # as measured while it still did
    judged = await classify(oracle, TEXTS, ASKED, sizes=sizes, model="m")
    assert (right(judged, TRUTH), sizes) == (600, {"m": 100})
    assert oracle.sizes == [200] * 3 + [84] * 5


async def test_a_pack_whose_anchors_come_out_wrong_is_not_believed_and_asked_again() -> None:
    packs = 0

    def lazy(said: dict[int, str]) -> dict[int, str]:
        nonlocal packs
        packs += len(said) > 45
        return dict.fromkeys(said, "no") if packs in {2, 4} and len(said) > 45 else said

    judged = await classify(Oracle(RARE, lazy), TEXTS, YES_NO)
    assert (right(judged, RARE), wrong(judged, RARE)) == (600, 0)


async def test_a_judge_that_wavers_is_not_asked_everything_again() -> None:
    class Wavering(Oracle):
        async def __call__(self, prompt: str, *, schema: object = None) -> object:
            often = len(self.sizes)
            self.truth = {t: LABELS[n % 3] if (n + often) % 9 == 0 else TRUTH[t] for n, t in enumerate(TEXTS)}
            return await super().__call__(prompt, schema=schema)

    oracle = Wavering(TRUTH)
    judged = await classify(oracle, TEXTS, ASKED)
    assert judged.failed == {}
    assert judged.calls <= 2 * len(TEXTS) / 16


async def test_numbers_that_are_missing_doubled_or_beyond_the_last_text_make_no_label() -> None:
    class Sloppy(Oracle):
        async def __call__(self, prompt: str, *, schema: object = None) -> object:
            reply = await super().__call__(prompt, schema=schema)
            assert isinstance(reply, dict)
            said = reply.get("labels")
            return {**reply, "labels": said + "999p 1x 4p4n"} if said else reply

    judged = await classify(Sloppy(TRUTH), TEXTS, ASKED)
    assert wrong(judged, TRUTH) == 0


async def test_texts_of_a_call_that_fails_twice_have_no_label_and_the_reason() -> None:
    oracle = Oracle(TRUTH, fails)
    judged = await classify(oracle, TEXTS[:64], ASKED)
    assert judged.labels == (None,) * 64
    assert judged.failed == dict.fromkeys(range(64), "the endpoint is down")
    assert len(oracle.sizes) == 2 + 8


async def test_nothing_more_is_asked_once_several_calls_fail_and_none_does_not() -> None:
    oracle = Oracle(TRUTH, fails)
    judged = await classify(oracle, TEXTS, ASKED, model="m")
    assert (len(oracle.sizes), len(judged.failed)) == (2 + 8, 600)


async def test_nothing_is_asked_again_once_the_budget_is_used_up() -> None:
    class Poor(Oracle):
        async def __call__(self, prompt: str, *, schema: object = None) -> object:
            if len(self.sizes) == 1:
                raise SubCallFailed("no money left") from BudgetExceeded("no money left", which="usd")
            return await super().__call__(prompt, schema=schema)

    oracle = Poor(TRUTH)
    judged = await classify(oracle, TEXTS[:64], ASKED)
    assert (oracle.sizes, sum(label is None for label in judged.labels), len(judged.failed)) == ([32], 32, 32)
    assert wrong_of(judged, TEXTS[:64]) == 0


def wrong_of(judged: Classified, texts: list[str]) -> int:
    return sum(label not in {None, TRUTH[text]} for text, label in zip(texts, judged.labels, strict=True))


async def test_a_model_that_does_not_speak_in_codes_is_asked_as_a_weak_one() -> None:
    class Wordy(Oracle):
        async def __call__(self, prompt: str, *, schema: object = None) -> object:
            reply = await super().__call__(prompt, schema=schema)
            return {"labels": "I think they are all fine."} if "data:\n" in prompt else reply

    oracle = Wordy(TRUTH)
    sizes: dict[str, int] = {}
    judged = await classify(oracle, TEXTS, ASKED, sizes=sizes, model="m")
    assert (right(judged, TRUTH), sizes) == (600, {"m": 8})


async def test_long_labels_are_said_by_a_code_to_every_model() -> None:
    long = ("yes, this one is about a place that can be found on a map", "no, this one is not about any place at all")
    truth = {text: long[n % 2] for n, text in enumerate(TEXTS)}
    oracle = Oracle(truth)
    judged = await classify(oracle, TEXTS[:60], Labelling(question="A place?", labels=long))
    assert [truth[text] for text in TEXTS[:60]] == list(judged.labels)
    assert "Labels: y = yes, this one" in oracle.prompts[0]

    async def weak(prompt: str, *, schema: object = None) -> object:
        assert schema == {
            "type": "object", "properties": {"1": {"enum": ["yes", "no"]}}, "required": ["1"],
            "additionalProperties": False,
        }  # fmt: skip
        return {"1": "no"}

    assert (await classify(weak, ["x"], Labelling(question="A place?", labels=long), by_measure=False)).labels == (
        long[1],
    )


async def test_texts_alike_but_for_blanks_around_them_are_judged_once_and_a_text_of_several_lines_stays_one() -> None:
    texts = ["same", "3 other\n1 same", " same\n"]
    oracle = Oracle({"same": "yes", "3 other": "no"})
    judged = await classify(oracle, texts, YES_NO)
    assert (judged.labels, oracle.sizes) == (("yes", "no", "yes"), [2])


async def test_doubtful_texts_alone_are_judged_a_second_time_and_reported_where_the_votes_differ() -> None:
    class Wavering(Oracle):
        async def __call__(self, prompt: str, *, schema: object = None) -> object:
            self.truth = {**TRUTH, TEXTS[5]: "place"} if self.sizes.count(2) else TRUTH
            return await super().__call__(prompt, schema=schema)

    plain = Wavering(TRUTH)
    plain.doubtful = {TEXTS[5], TEXTS[9]}
    assert (await classify(plain, TEXTS, ASKED)).uncertain == (5, 9)

    oracle = Wavering(TRUTH)
    oracle.doubtful = {TEXTS[5], TEXTS[9]}
    judged = await classify(oracle, TEXTS, ASKED, votes=2)
    assert (oracle.sizes[-1], oracle.judged[TEXTS[9]], judged.uncertain) == (2, 2, ())
    assert "Labels: p = person; n = number; l = place" in oracle.prompts[-1]


@pytest.mark.parametrize(("doubts", "uncertain"), [(range(1), ()), (range(4), (0,))])
async def test_a_small_model_that_agrees_with_itself_in_doubt_stays_uncertain(
    doubts: range, uncertain: tuple[int, ...]
) -> None:
    said = iter(range(9))

    async def weak(prompt: str, *, schema: object = None) -> object:
        return {"1": "yes" + DOUBT * (next(said) in doubts)}

    judged = await classify(weak, ["x"], Labelling(question="Bad?", labels=("yes", "no")), by_measure=False, votes=3)
    assert (judged.labels, judged.uncertain) == (("yes",), uncertain)


async def test_a_tie_of_two_votes_is_broken_by_a_third_and_stays_uncertain() -> None:
    class Changing(Oracle):
        async def __call__(self, prompt: str, *, schema: object = None) -> object:
            self.truth = {TEXTS[0]: "place" if self.sizes else "number", TEXTS[1]: "person"}
            return await super().__call__(prompt, schema=schema)

    oracle = Changing({})
    oracle.doubtful = {TEXTS[0]}
    judged = await classify(oracle, TEXTS[:2], ASKED, votes=2)
    assert (judged.labels, judged.uncertain, oracle.sizes) == (("place", "person"), (0,), [2, 1, 1])

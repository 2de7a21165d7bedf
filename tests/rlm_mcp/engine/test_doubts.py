"""Marks of doubt: words that a model gave with little probability, by the provider's log-probabilities."""

import math
from pathlib import Path

import pytest

from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.doubts import mark_doubts, marked_like, without_marks
from rlm_mcp.engine.packs import Form, Labelling, Pack, read_reply
from rlm_mcp.engine.reply_cache import ReplyCache
from rlm_mcp.engine.subcalls import SubCalls
from rlm_mcp.models.base import Completion, Profile, Usage
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.records.events import DOUBT, SubReply, event_from_json

SURE, UNSURE = math.log(0.99), math.log(0.6)
ASKED = Labelling(question="Is it?", labels=("yes", "no"))


def test_a_word_is_marked_if_one_of_its_tokens_was_not_probable_and_numbers_are_not() -> None:
    tokens = (('{"labels": "', SURE), ("1", UNSURE), ("y", SURE), ("2", SURE), ("n", UNSURE), ('"}', SURE))
    marked = mark_doubts('{"labels": "1y2n"}', tokens)

    assert marked == f'{{"labels": "1y2n{DOUBT}"}}'
    assert without_marks(marked) == '{"labels": "1y2n"}'
    assert mark_doubts("location", (("loc", UNSURE), ("ation", SURE))) == f"location{DOUBT}"
    assert mark_doubts("yes", (("no", UNSURE),)) == "yes"
    assert mark_doubts("yes", ()) == "yes"


def test_a_value_gets_the_marks_of_the_same_value_only() -> None:
    assert marked_like({"1": "yes", "2": 3}, {"1": f"yes{DOUBT}", "2": 3}) == {"1": f"yes{DOUBT}", "2": 3}
    assert marked_like({"1": "yes"}, {"1": f"no{DOUBT}"}) == {"1": "yes"}
    assert marked_like("yes", ["yes"]) == "yes"


REPLIES: dict[Form, object] = {
    "coded": {"labels": f"1y2n{DOUBT}"},
    "keyed": {"1": "yes", "2": f"no{DOUBT}"},
    "rare": {"labels": f"1y2n{DOUBT}", "seen": 2},
}


@pytest.mark.parametrize("form", REPLIES)
def test_a_marked_label_is_doubtful(form: Form) -> None:
    verdicts = read_reply(Pack(items=(7, 9), form=form, usual="no"), ASKED, REPLIES[form])
    assert (verdicts.labels, verdicts.doubtful) == ({7: "yes", 9: "no"}, frozenset({9}))


def test_a_marked_word_of_a_single_answer_is_doubtful_and_a_later_one_is_not() -> None:
    pack = Pack(items=(5,), form="single")
    assert read_reply(pack, ASKED, f"Yes{DOUBT}, it is").doubtful == {5}
    assert read_reply(pack, ASKED, f"Yes, it{DOUBT} is").doubtful == frozenset()


@pytest.mark.anyio
async def test_a_marked_reply_satisfies_its_schema_and_comes_out_of_the_cache_marked(tmp_path: Path) -> None:
    tokens = (('{"1": "', SURE), ("yes", UNSURE), ('"}', SURE))
    said = Completion(text='{"1": "yes"}', usage=Usage(prompt_tokens=1, completion_tokens=1), logprobs=tokens)
    schema = {"type": "object", "properties": {"1": {"enum": ["yes", "no"]}}, "required": ["1"]}
    cache = ReplyCache(tmp_path)
    for replies in ([said], []):
        model = ScriptedModel(replies, name="m", profile=Profile())
        value = await SubCalls({"m": model}, cache=cache).ask(Ledger(), "Is it? 1. text", schema=schema, mark=True)
        assert value == {"1": f"yes{DOUBT}"}
    cache.close()


def test_a_reply_on_record_is_told_without_the_marks_or_with_other_ones() -> None:
    value = {"label": f"no{DOUBT}", "reasons": {"first": f"few{DOUBT} words", "count": 3}}
    event = event_from_json({"event": "sub_reply", "key": "k", "value": value, "spent": {}})

    assert isinstance(event, SubReply)
    assert event.said() == {"label": "no", "reasons": {"first": "few words", "count": 3}}
    assert event.said("?") == {"label": "no?", "reasons": {"first": "few? words", "count": 3}}
    assert event.value == value

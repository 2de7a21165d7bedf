"""Notes of child runs: which answers are accepted as notes, and what their quotes are worth to the parent."""

import json
from typing import Any

import pytest

from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.loop import solve
from rlm_mcp.engine.notes import checked_notes, complaint_about_notes
from rlm_mcp.engine.types import RunSpec
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.records.events import Cell, RunEnded
from rlm_mcp.records.run import Run
from rlm_mcp.records.tape import MemoryRecord, Tape
from rlm_mcp.records.types import Outcome
from rlm_mcp.repl.scripted import Play, ScriptedOpener
from rlm_mcp.repl.types import CellResult, Final, GuestCalls, RawCitation

from .loop_world import LINES, World

TEXT = "The pump ran dry on Monday.\nIt was   refilled by Ada."


def notes(*quotes: str) -> dict[str, Any]:
    return {"notes": [{"note": f"about {quote}", "quote": quote} for quote in quotes]}


def test_notes_are_accepted_if_the_context_holds_every_quote() -> None:
    assert complaint_about_notes(notes("ran dry", "was refilled by Ada"), TEXT) is None
    assert complaint_about_notes(notes("ran dry"), {"a.txt": TEXT}) is None
    assert complaint_about_notes(notes(), TEXT) is None


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (notes("ran wet"), "the context does not hold the quote 'ran wet': copy the words exactly"),
        (notes(" "), "the context does not hold the quote ' ': copy the words exactly"),
        ({"notes": [{"note": "dry"}]}, "at ['notes'][0] 'quote' is a required property"),
        ("dry", "'dry' is not of type 'object'"),
        (notes(*["ran dry"] * 101), "these are 101 notes: give the 100 that matter most"),
    ],
)
def test_an_answer_that_is_no_notes_is_sent_back_with_the_reason(answer: object, problem: str) -> None:
    assert complaint_about_notes(answer, TEXT) == problem


def test_each_note_says_whether_its_quote_was_found() -> None:
    assert checked_notes(notes("ran dry", "ran wet"), TEXT) == [
        {"note": "about ran dry", "quote": "ran dry", "verified": True},
        {"note": "about ran wet", "quote": "ran wet", "verified": False},
    ]
    assert checked_notes("dry", TEXT) == [{"note": "dry", "quote": "", "verified": False}]
    assert checked_notes(None, TEXT) == []
    assert len(checked_notes(notes(*["ran dry"] * 101), TEXT)) == 100


def asking_for_notes(text: str, seen: list[object]) -> Play:
    """A REPL that asks a child for notes and cites their quotes, as the prelude does; in the child it answers."""

    async def play(code: str, calls: GuestCalls) -> CellResult:
        if code.startswith("FINAL(found"):
            return CellResult(code="", final=Final(value=notes(text.split("\n")[3])))
        answer = await calls.rlm_query("Which errors are there?", text, notes=True)
        assert isinstance(answer, list)
        seen.extend(answer)
        cited = tuple(
            RawCitation(context="", path="", start_line=0, end_line=0, quote=note["quote"]) for note in answer
        )
        return CellResult(code="", final=Final(value=len(answer)), citations=cited)

    return play


ASK_FOR_NOTES = "```repl\nFINAL(len(rlm_query('Which errors are there?', part, notes=True)))\n```"
ANSWER_WITH_NOTES = "```repl\nFINAL(found)\n```"


@pytest.mark.anyio
async def test_quotes_of_a_childs_notes_are_evidence_of_the_parents_answer(world: World) -> None:
    part, seen = "\n".join(LINES[700:1_800]), list[object]()
    outcome: Outcome = await world.solve(
        [ASK_FOR_NOTES, "```repl\nFINAL(found)\n```"], asking_for_notes(part, seen), spec=world.spec()
    )

    line = LINES[703]
    assert seen == [{"note": f"about {line}", "quote": line, "verified": True}]
    (citation,) = outcome.citations
    assert (citation.quote, citation.start_line, citation.verified, citation.corrected) == (line, 704, True, False)
    (routed,) = [event for event in world.events("routed") if event["path"]]
    assert routed["query"].startswith("Which errors are there?\nAnswer with notes:")
    assert json.loads(json.dumps(world.events("sub_reply")[0]["value"])) == seen


@pytest.mark.anyio
async def test_at_the_last_depth_notes_come_from_a_plain_call_bound_to_their_schema(world: World) -> None:
    part, seen = "\n".join(LINES[:30]), list[object]()
    said = json.dumps(notes(LINES[3]))
    outcome = await world.solve(
        [ASK_FOR_NOTES, said],
        asking_for_notes(part, seen),
        spec=RunSpec(query="How many errors are there?", contexts=(world.log,), max_depth=0),
    )

    assert seen == [{"note": f"about {LINES[3]}", "quote": LINES[3], "verified": True}]
    assert [citation.start_line for citation in outcome.citations] == [4]
    assert "notes" in (world.root.calls[1].schema or {})["properties"]  # type: ignore[operator] # a JSON Schema


@pytest.mark.anyio
@pytest.mark.parametrize("strict", [True, False])
async def test_notes_on_record_are_given_again_without_asking(world: World, strict: bool) -> None:
    part, seen = "\n".join(LINES[700:1_800]), list[object]()
    first = await world.solve([ASK_FOR_NOTES, ANSWER_WITH_NOTES], asking_for_notes(part, seen))
    assert isinstance(world.record, Run)
    events = [event for event in world.record.events() if strict or not isinstance(event, RunEnded | Cell)]
    tape, nobody, again = Tape(events, strict=strict), ScriptedModel([]), list[object]()
    repl = ScriptedOpener(asking_for_notes(part, again), asking_for_notes(part, []))
    outcome = await solve(world.spec(), world.deps(nobody, repl, MemoryRecord(), tape=tape), Ledger())

    assert (again, outcome.answer, outcome.citations) == (seen, first.answer, first.citations)
    assert (nobody.calls, tape.difference) == ([], None)

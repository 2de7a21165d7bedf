"""The endpoint whose root model is played by hand: its files, its oracle and its count of tokens."""

import json
from pathlib import Path

from benchmarks.by_hand import Table, oracle, read_labels
from rlm_mcp.engine.packs import Form, Labelling, Pack, read_reply, request_of

TRUTH = {"Where is Bern?": "place", "Who is it?": "person", "Where is Rome?": "place"}
ASKED = Labelling(question="What is asked for?", labels=("place", "person"))


def test_a_request_is_a_file_with_what_is_new_and_the_reply_is_a_file_too(tmp_path: Path) -> None:
    table = Table(tmp_path, lambda prompt: None)
    (tmp_path / "root-0001.reply.md").write_text("look")
    (tmp_path / "root-0002.reply.md").write_text("done")
    first = [{"role": "system", "content": "rules"}, {"role": "user", "content": "Which?"}]
    said = [{"role": "assistant", "content": "look"}, {"role": "user", "content": "output"}]

    assert table.reply_to("root", first) == ("look", {"prompt_tokens": 4, "completion_tokens": 1})
    assert table.reply_to("root", [*first, *said])[0] == "done"
    assert (tmp_path / "root-0001.md").read_text() == "## system\n\nrules\n\n## user\n\nWhich?\n"
    assert (tmp_path / "root-0002.md").read_text() == "## assistant\n\nlook\n\n## user\n\noutput\n"
    assert json.loads((tmp_path / "usage.json").read_text())["root"]["calls"] == 2


def test_a_child_run_has_a_dialogue_of_its_own(tmp_path: Path) -> None:
    table = Table(tmp_path, lambda prompt: None)
    for number in range(1, 5):
        (tmp_path / f"root-000{number}.reply.md").write_text("look")
    opening, child = ([{"role": "user", "content": asked}] * 2 for asked in ("Which?", "Who?"))
    said = [{"role": "assistant", "content": "look"}, {"role": "user", "content": "output"}]
    for messages in (opening, child, [*child, *said], [*opening, *said]):
        table.reply_to("root", messages)

    shown = [(tmp_path / f"root-000{number}.md").read_text() for number in range(1, 5)]
    assert shown == [*(f"## user\n\n{asked}\n\n## user\n\n{asked}\n" for asked in ("Which?", "Who?")), *[shown[2]] * 2]
    assert shown[2] == "## assistant\n\nlook\n\n## user\n\noutput\n"


def test_the_oracle_labels_the_texts_of_every_kind_of_pack_from_the_prompt_alone() -> None:
    forms: tuple[Form, ...] = ("coded", "rare", "keyed")
    for form in forms:
        pack = Pack(items=(0, 1, 2), form=form, usual="place" if form == "rare" else "")
        prompt, _ = request_of(pack, ASKED, list(TRUTH))
        said = oracle(prompt, TRUTH)
        assert said is not None
        assert read_reply(pack, ASKED, json.loads(said)).labels == dict(enumerate(TRUTH.values()))
    yes = Labelling(question="A place?", labels=("yes", "no"))
    prompt, _ = request_of(Pack(items=(0,), form="single"), yes, ["Where is Bern?"])
    assert oracle(prompt, {"Where is Bern?": "yes"}) == "yes"


def test_the_oracle_answers_nothing_else(tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"text": "Where  is Bern?", "label": "place"}\n')
    assert read_labels(labels) == {"Where is Bern?": "place"}
    for prompt in ("What is 1 + 1?", "Labels: p = place\nThe texts are data:\n1 unknown"):
        assert oracle(prompt, TRUTH) is None

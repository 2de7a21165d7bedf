"""Replies are parsed in every dialect that models write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.engine.reply_parser import MOST_FENCES, final_text, normalise, parse, parse_reply, repair, unfenced

F = "```"

ONE_PRINT = {
    "repl fence": f"Let me look.\n{F}repl\nprint(1)\n{F}\nDone.",
    "python fence": f"{F}python\nprint(1)\n{F}",
    "capital letters": f"{F}Python\nprint(1)\n{F}",
    "py fence": f"{F}py\nprint(1)\n{F}",
    "no label": f"{F}\nprint(1)\n{F}",
    "language on the next line": f"{F}\nrepl\nprint(1)\n{F}",
    "no closing fence": f"{F}python\nprint(1)\n",
    "closing fence on the code's line": f"{F}python\nprint(1){F}",
    "tildes": "~~~python\nprint(1)\n~~~",
    "attributes after the label": f"{F}python {{.numbered}}\nprint(1)\n{F}",
    "windows line ends": f"{F}python\r\nprint(1)\r\n{F}".replace("\r\n", "\n"),
    "on one line": f"{F}repl print(1){F}",
    "bare": "print(1)",
    "bare with the language above": "python\nprint(1)",
    "indented in a list": f"1. Look:\n   {F}python\n   print(1)\n   {F}",
    "prompts": f"{F}pycon\n>>> print(1)\n1\n{F}",
    "imagined output after it": f"{F}repl\nprint(1)\n{F}\nOutput:\n{F}\n1\n{F}",
    "thinking before it": f"<think>maybe {F}python\nexplode()\n{F}</think>\n{F}python\nprint(1)\n{F}",
    "the end of thinking only": f"so I print it</think>\n{F}python\nprint(1)\n{F}",
    "harmony channels": f"<|channel|>analysis<|message|>hm<|channel|>final<|message|>{F}python\nprint(1)\n{F}",
    "tool call": '<tool_call>\n{"name": "python", "arguments": {"code": "print(1)"}}\n</tool_call>',
    "tool call with a string of arguments": '{"name": "python", "arguments": "{\\"code\\": \\"print(1)\\"}"}',
    "tool call in a fence": f'{F}json\n{{"tool": "repl", "tool_input": {{"code": "print(1)"}}}}\n{F}',
    "tool call of tags": "<function=python>\n<parameter=code>\nprint(1)\n</parameter>\n</function>",
    "code tags": "<execute>\nprint(1)\n</execute>",
}


@pytest.mark.parametrize("reply", ONE_PRINT.values(), ids=ONE_PRINT)
def test_one_block_is_found_in(reply: str) -> None:
    assert parse_reply(reply).blocks == ("print(1)",)


INDENTED = {
    "a leading blank": " x = 1\nprint(x)",
    "every line": "  x = 1\n  print(x)",
    "all but an inner line of a text": '  x = 1\n  print("""a\nb""")',
    "the first line of a loop": "  for x in y:\n    print(x)\nprint(1)",
}


@pytest.mark.parametrize("code", INDENTED.values(), ids=INDENTED)
def test_a_block_that_begins_with_blanks_still_parses(code: str) -> None:
    (block,) = parse_reply(f"{F}repl\n{code}\n{F}").blocks
    assert parse(block) is not None


def test_the_fence_around_a_whole_reply_is_no_part_of_the_answer() -> None:
    assert unfenced(f"{F}\n42\n{F}\n") == "42"
    assert unfenced(f"\n{F}text\ntwo\n  lines\n{F}") == "two\n  lines"
    for text in (f"See:\n{F}\n42\n{F}", f"{F}\na\n{F}\n{F}\nb\n{F}", "42", ""):
        assert unfenced(text) == text


NOTHING = {
    "empty": "",
    "prose": "The answer is probably 42.",
    "a plan that mentions FINAL": "First I will count the lines, then I call FINAL(42).",
    "a word": "trunk-275",
    "a lone comment": f"{F}python\n# count the lines\n{F}",
    "a lone literal": f"{F}python\n'the answer'\n{F}",
    "a lone list": f"{F}\n[1, 2, 3]\n{F}",
    "imagined output": f"{F}text\nERROR 3\nWARN 4\n{F}",
}


@pytest.mark.parametrize("reply", NOTHING.values(), ids=NOTHING)
def test_nothing_is_run_of(reply: str) -> None:
    assert parse_reply(reply).blocks == ()


def test_several_blocks_are_kept_in_order() -> None:
    reply = parse_reply(f"First\n{F}python\nx = 1\n{F}\nthen\n{F}py\nprint(x)\n{F}")

    assert reply.blocks == ("x = 1", "print(x)")
    assert reply.prose == "First\nthen"


@pytest.mark.parametrize("block", [f"{F}repl\nx = 1\n{F}", "<code>\nx = 1\n</code>", f"{F}repl x = 1{F} "])
def test_no_more_blocks_are_run_of_a_reply_than(block: str) -> None:
    reply = parse_reply(f"{block}\nand so on\n" * (MOST_FENCES + 5) + "that is all")
    assert reply.blocks == ("x = 1",) * MOST_FENCES
    assert reply.text.endswith("that is all")


def test_a_labelled_opening_ends_a_block_that_was_never_closed() -> None:
    assert parse_reply(f"{F}python\nx = 1\n{F}python\nprint(x)\n{F}").blocks == ("x = 1", "print(x)")


def test_a_fence_inside_a_string_does_not_end_the_block() -> None:
    code = f'text = """\n{F}python\nprint(2)\n{F}\n"""\nFINAL(text)'

    assert parse_reply(f"{F}repl\n{code}\n{F}").blocks == (code,)


def test_a_labelled_block_is_run_even_if_this_python_cannot_parse_it() -> None:
    assert parse_reply(f"{F}python\nprint(1\n{F}\nfoo bar").blocks == ("print(1)",)
    assert parse_reply(f"{F}python\nfor in x\n{F}").blocks == ("for in x",)


def test_another_language_is_named() -> None:
    assert parse_reply(f"{F}bash\ngrep ERROR app.log\n{F}").other_language == "bash"


def test_a_reply_that_ends_in_thinking_is_only_thinking() -> None:
    reply = parse_reply(f"<think>I should {F}python\nFINAL(1)\n{F}")

    assert reply.only_thinking
    assert reply.blocks == ()


def test_a_reply_that_is_nothing_but_a_final_is_code() -> None:
    assert parse_reply("FINAL_VAR(total)").blocks == ("FINAL_VAR(total)",)
    assert parse_reply("FINAL(The answer is 42 (really))").blocks == ("FINAL('The answer is 42 (really)')",)


REPAIRS = {
    "unclosed triple quotes": ('FINAL("""one\ntwo', 'FINAL("""one\ntwo""")'),
    "a string over several lines": ('FINAL("one\ntwo")', 'FINAL("""one\ntwo""")'),
    "unclosed string and bracket": ('x = 1\nFINAL("one and', 'x = 1\nFINAL("""one and""")'),
    "unclosed brackets": ("print(max([1, 2]", "print(max([1, 2]))"),
    "a quotation mark before the closing ones": (
        'x = """he said "no""""\nprint(x)',
        'x = """he said "no\\""""\nprint(x)',
    ),
}


@pytest.mark.parametrize(("code", "repaired"), REPAIRS.values(), ids=REPAIRS)
def test_repair_of(code: str, repaired: str) -> None:
    assert repair(code) == repaired
    assert parse_reply(f"{F}python\n{code}").repaired


def test_what_cannot_be_repaired_stays_as_it_is() -> None:
    assert repair("for in x:") == "for in x:"


def test_top_level_await_parses() -> None:
    assert parse("answers = await asyncio.gather(*calls)") is not None


def test_code_that_differs_in_layout_and_comments_is_the_same() -> None:
    assert normalise("x=1 # one\nprint( x )") == normalise("x = 1\n\nprint(x)")
    assert normalise("x = 1") != normalise("x = 2")
    assert normalise("for in  x # a") == normalise("for in x")


def test_the_text_of_a_final_is_what_stands_between_its_brackets() -> None:
    assert final_text("x = 1\nFINAL(trunk-275)") == "trunk-275"
    assert final_text("FINAL(x)\nprint(1)") is None


@given(st.text(alphabet="`~ \n()'\"=#ax{}<>/think", max_size=80))
def test_any_text_is_a_reply(text: str) -> None:
    parse_reply(text)


@given(st.lists(st.sampled_from([f"{F}python\n", f"{F}\n", "print(1)\n", "<think>", "</think>", "FINAL(", '"""', ")"])))
def test_any_pieces_make_a_reply(pieces: list[str]) -> None:
    reply = parse_reply("".join(pieces))

    assert all(isinstance(block, str) for block in reply.blocks)

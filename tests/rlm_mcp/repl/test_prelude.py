"""The names that code in the REPL finds, and what the run learns of their use."""

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.contexts.types import Context
from rlm_mcp.repl.types import Final, RawCitation
from tests.rlm_mcp.repl.opener import PATH, TEXT, Opener, value_of

pytestmark = pytest.mark.anyio


async def test_context_is_a_str_and_variables_persist(opened: Opener) -> None:
    repl = await opened.text()
    assert await value_of(repl, "isinstance(context, str), len(context), context.count('ERROR')") == (
        f"(True, {len(TEXT)}, 334)"
    )
    await repl.run("x = context[:6]")
    assert await value_of(repl, "x") == "'line 0'"
    assert [(v.name, v.size) for v in await repl.variables()] == [("x", 6)]


async def test_assigning_a_literal_to_context_is_dropped_and_said(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run('context = """invented\ntext"""\nlen(context)\n1/0')
    assert cell.notes == ("`context` already holds the input; your assignment of a literal to it was dropped.",)
    assert cell.error is not None
    assert cell.error.line == 4
    assert await value_of(repl, "len(context)") == str(len(TEXT))


async def test_what_is_bound_to_the_name_of_a_provided_function_lasts_one_cell(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("def pick(p): return 'stub'\nsearch = 3\npick('x'), search")
    assert cell.value == "('stub', 3)"
    assert cell.notes == (
        "`pick` is provided; what you bound to this name was dropped after this block.",
        "`search` is provided; what you bound to this name was dropped after this block.",
    )
    assert cell.variables == ()
    assert await value_of(repl, "callable(search)") == "True"


@pytest.mark.parametrize(
    "definition", ["def llm_query(p):\n    return 'stub'", "async def llm_query(p): return 'stub'"]
)
async def test_a_block_that_makes_up_what_a_model_says_asks_the_model(opened: Opener, definition: str) -> None:
    repl = await opened.text()
    cell = await repl.run(f"{definition}\nFINAL(llm_query('x'))")
    assert cell.final == Final(value="answer to x")
    assert cell.notes == ("`llm_query` is provided; your definition of it was dropped.",)
    own = await repl.run("class Judge:\n    def llm_query(self, p): return 'own'\nJudge().llm_query('x')")
    assert (own.value, own.notes) == ("'own'", ())


async def test_an_own_definition_of_final_is_dropped_before_the_block_runs(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("def FINAL(x):\n    print(x)\nFINAL(3)")
    assert (cell.final, cell.stdout) == (Final(value=3), "")
    assert cell.notes == ("`FINAL` is provided; your definition of it was dropped.",)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("context = 'a'; context = 'b'; len(context)", f"{len(TEXT)}"),
        ("context = '''a\nb'''; context = 'c'; len(context)", f"{len(TEXT)}"),
        ("context = '''a\nb\nc''';  n = 3  # kept\nn, len(context)", f"(3, {len(TEXT)})"),
        ("import functools\n@functools.cache\n@functools.cache\ndef FINAL(x): return x\n7", "7"),
        ("def FINAL(x):\n    context = 'a'\n    return context\n8", "8"),
    ],
)
async def test_code_around_dropped_statements_runs_as_it_stands(opened: Opener, code: str, value: str) -> None:
    assert await value_of(await opened.text(), code) == value


async def test_a_value_assigned_to_final_is_the_answer(opened: Opener) -> None:
    repl = await opened.text()
    assert (await repl.run("FINAL = 40 + 2")).final == Final(value=42)
    assert (await repl.run("FINAL(1)")).final == Final(value=1)


async def test_an_integer_that_python_does_not_write_is_an_answer_of_digits(opened: Opener) -> None:
    repl = await opened.text()
    assert (await repl.run("FINAL(10**4_213)")).final == Final(value=10**4_213)
    assert (await repl.run("FINAL([-10**5_000])")).final == Final(value=["-1" + "0" * 5_000])
    assert "limit" in str((await repl.run("str(10**5_000)")).error)


async def test_a_long_value_is_shown_page_by_page(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("show('a' * 11_500 + 'b')\nshow('a' * 11_500 + 'b', 11_500)\nshow([1, 2])")
    assert cell.stdout == (
        "a" * 11_500 + "\n[characters 0 to 11,500 of 11,501; show(…, 11500) goes on]\n"
        "b\n[characters 11,500 to 11,501 of 11,501]\n1\n2\n"
    )


async def test_what_printing_in_a_comprehension_leaves_behind_is_not_shown(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("[print(x) for x in 'ab']")
    assert (cell.stdout, cell.value) == ("a\nb\n", None)
    assert await value_of(repl, "[None, 1]") == "[None, 1]"


async def test_search_keeps_as_many_characters_around_the_match_as_asked_for(opened: Opener) -> None:
    repl = await opened.text("x" * 400 + "NEEDLE" + "y" * 400 + "\nNEEDLE\n")
    assert await value_of(repl, "[m.text for m in search('needle', ignore_case=True, chars=12)]") == repr(
        ["xxxxNEEDLEyy", "NEEDLE"]
    )


async def test_what_small_models_forget_to_import_is_there_and_is_no_variable(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run(
        "Counter('aab').most_common(1), csv.__name__, defaultdict(int)[0], json.dumps(1), re.escape('.')"
    )
    assert cell.value == repr(([("a", 2)], "csv", 0, "1", "\\."))
    assert cell.variables == ()


async def test_the_input_is_found_where_weak_models_look_for_it(opened: Opener) -> None:
    repl = await opened.text()
    assert await value_of(repl, "open('context').readline(), input(), open('input.txt', 'rb').read(4)") == (
        "('line 0 ERROR\\n', 'line 0 ERROR', b'line')"
    )
    assert await value_of(repl, "import sys; sum(1 for line in sys.stdin)") == "1000"
    assert await value_of(repl, f"open('/context/app.log/{PATH}').read() == context") == "True"
    cell = await repl.run("open('sales.csv')")
    assert cell.error is not None
    assert cell.error.message == "no file 'sales.csv': the input is in the variable `context`"


@pytest.mark.parametrize(
    ("code", "final"),
    [
        ("FINAL({'a': {2, 1}, 'b': context[:4], 3: None})", Final(value={"a": [1, 2], "b": "line", "3": None})),
        ("x = 41 + 1\nFINAL_VAR('x')", Final(value=42, via="FINAL_VAR")),
        ("SUBMIT(answer='a')", Final(value="a", via="SUBMIT")),
        ("SUBMIT(name='a', total=2)", Final(value={"name": "a", "total": 2}, via="SUBMIT")),
        ("answer['content'] = 'a'; answer['ready'] = True", Final(value="a", via="answer")),
    ],
)
async def test_every_way_to_end_is_understood(opened: Opener, code: str, final: Final) -> None:
    repl = await opened.text()
    assert (await repl.run(code)).final == final
    assert (await repl.run("1")).final is None


async def test_final_var_of_an_unknown_name_tells_the_names(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("total = 1\nFINAL_VAR('totals')")
    assert cell.final is None
    assert cell.error is not None
    assert cell.error.message == "there is no variable 'totals'; there are: total"


async def test_citations_are_kept_as_called(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("cite('app.log', 3, 4, 'line 2'); cite(7, quote='line 6'); cite(search('line 9 ')[0])")
    assert cell.citations == (
        RawCitation(context="app.log", path=PATH, start_line=3, end_line=4, quote="line 2"),
        RawCitation(context="app.log", path=PATH, start_line=7, end_line=7, quote="line 6"),
        RawCitation(context="app.log", path=PATH, start_line=10, end_line=10, quote="line 9 ERROR"),
    )


async def test_a_child_run_gets_a_value_as_its_context(opened: Opener) -> None:
    repl = await opened.over([], value={"a": "one\ntwo", "b": "two"})
    assert await value_of(repl, "context['a'], [(m.path, m.line) for m in search('two')]") == (
        "('one\\ntwo', [('a', 2), ('b', 1)])"
    )


async def test_several_contexts_are_found_by_name(opened: Opener) -> None:
    def register() -> list[Context]:
        return [opened.store.register_text(f"text {n}\n", name=n) for n in ("one", "two")]

    repl = await opened.over(await anyio.to_thread.run_sync(register))
    assert await value_of(repl, "contexts['two'], len(context), [(m.context, m.text) for m in search('text')]") == (
        "('text two\\n', 2, [('one', 'text one'), ('two', 'text two')])"
    )


async def test_a_search_in_one_of_several_contexts_names_it_or_its_file(opened: Opener, tmp_path: Path) -> None:
    def register() -> list[Context]:
        texts = [opened.store.register_text(f"text {n}\n", name=n) for n in ("one", "two")]
        folder = tmp_path / "src"
        folder.mkdir()
        (folder / "three.txt").write_text("text three\n", encoding="utf-8")
        return [*texts, opened.store.register_source(str(folder), name="folder")]

    repl = await opened.over(await anyio.to_thread.run_sync(register))
    code = "[[m.context for m in search('text', where)] for where in ('two', 'three.txt', 'folder', None)]"
    assert await value_of(repl, code) == "[['two'], ['folder'], ['folder'], ['one', 'two', 'folder']]"
    unknown = await repl.run("search('text', 'four')")
    assert unknown.error is not None
    assert "has no file 'four'" in unknown.error.message


async def test_budget_history_and_variables_are_there(opened: Opener) -> None:
    repl = await opened.text()
    await repl.run("print('hello')\nn = 5")
    assert await value_of(repl, "budget(), history, SHOW_VARS()") == "({'sub_calls': 7}, ['hello\\n'], n: int)"


async def test_verified_quotes_of_notes_are_cited_without_a_place(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run(
        "found = rlm_query('What?', 'line 2 INFO', notes=True)\n"
        "found += rlm_query_batched([('What?', 'line 4 INFO')], notes=True)[0]\n"
        "[(note.note, note.quote, note.verified) for note in found[:2]], rlm_query('What?', 'x')"
    )
    assert cell.error is None
    assert cell.value == ("([('What? in line 2 INFO', 'line 2 INFO', True), ('none', '', False)], \"What? over 'x'\")")
    assert cell.citations == tuple(
        RawCitation(context="", path="", start_line=0, end_line=0, quote=f"line {n} INFO") for n in (2, 4)
    )

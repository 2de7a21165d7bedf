"""The REPL over the real sandbox: what code finds there, and what the run learns of it."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import SubCallFailed
from rlm_mcp.repl.host_calls import CALLS_AT_ONCE
from rlm_mcp.repl.sandbox import Sandbox, open_sandbox
from rlm_mcp.repl.session import SandboxFailed
from rlm_mcp.repl.types import CellResult, Final, RawCitation, Read, Repl

pytestmark = pytest.mark.anyio

PATH = "text.txt"
LINES = [f"line {i} {'ERROR' if i % 3 == 0 else 'INFO'}" for i in range(1_000)]
TEXT = "\n".join(LINES) + "\n"


class Sub:
    """Sub-calls that meet: none returns before `together` of them are in flight."""

    def __init__(self, together: int = 1) -> None:
        self._together = together
        self._met = anyio.Event()
        self.prompts: list[str] = []
        self.cancelled = 0

    async def llm_query(
        self, prompt: str, *, model: str | None = None, schema: Any = None, material: str | None = None
    ) -> object:
        self.prompts.append(prompt)
        if len(self.prompts) >= self._together:
            self._met.set()
        try:
            await self._met.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        if prompt.startswith("fail"):
            raise SubCallFailed("the model said no")
        if isinstance(schema, dict):
            shown = prompt.split("Texts:\n")[1].split("\n\nThe label", maxsplit=1)[0].splitlines()
            return {str(number): "bad" if "ERROR" in line else "good" for number, line in enumerate(shown, 1)}
        return f"answer to {prompt}"

    async def rlm_query(self, query: str, context: object) -> object:
        return f"{query} over {context!r:.20}"

    def budget(self) -> dict[str, object]:
        return {"sub_calls": 7}


@pytest.fixture
async def sandbox(sandbox_cache: Path) -> AsyncIterator[Sandbox]:
    async with open_sandbox(sandbox_cache) as sandbox:
        yield sandbox


class Opener:
    """Opens REPLs that are closed at the end of the test."""

    def __init__(self, sandbox: Sandbox, store: Store, stack: AsyncExitStack) -> None:
        self.store = store
        self._sandbox = sandbox
        self._stack = stack

    async def text(self, text: str = TEXT, sub: Sub | None = None) -> Repl:
        context = await anyio.to_thread.run_sync(lambda: self.store.register_text(text, name="app.log"))
        return await self.over([context], sub)

    async def over(self, contexts: list[Context], sub: Sub | None = None, value: object = None) -> Repl:
        opening = self._sandbox.open_repl(self.store, contexts, sub or Sub(), value=value)
        return await self._stack.enter_async_context(opening)


@pytest.fixture
async def opened(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Opener]:
    with Store(tmp_path / "data") as store:
        async with AsyncExitStack() as stack:
            yield Opener(sandbox, store, stack)


async def value_of(repl: Repl, code: str) -> str | None:
    cell = await repl.run(code)
    assert cell.error is None, cell.error
    return cell.value


async def test_context_is_a_str_and_variables_persist(opened: Opener) -> None:
    repl = await opened.text()
    assert await value_of(repl, "isinstance(context, str), len(context), context.count('ERROR')") == (
        f"(True, {len(TEXT)}, 334)"
    )
    await repl.run("x = context[:6]")
    assert await value_of(repl, "x") == "'line 0'"
    assert [(v.name, v.size) for v in await repl.variables()] == [("x", 6)]


async def test_reads_are_noticed_by_their_range(opened: Opener) -> None:
    repl = await opened.text()
    part = await repl.run("a, b = 10, 20; part = context[a:b]")
    assert part.reads == (Read(context="app.log", path=PATH, start=10, end=20),)
    whole = (Read(context="app.log", path=PATH, start=0, end=len(TEXT)),)
    assert (await repl.run("import re; hits = re.findall('ERROR', context)")).reads == whole
    assert (await repl.run("len(context)")).reads == ()


async def test_assigning_a_literal_to_context_is_dropped_and_said(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run('context = """invented\ntext"""\nlen(context)\n1/0')
    assert cell.notes == ("`context` already holds the input; your assignment of a literal to it was dropped.",)
    assert cell.error is not None
    assert cell.error.line == 4
    assert await value_of(repl, "len(context)") == str(len(TEXT))


async def test_a_stub_of_a_provided_function_lasts_one_cell(opened: Opener) -> None:
    repl = await opened.text()
    assert await value_of(repl, "def llm_query(p): return 'stub'\nllm_query('x')") == "'stub'"
    cell = await repl.run("llm_query('x')")
    assert cell.value == "'answer to x'"
    assert cell.notes == ("`llm_query` is provided; what you bound to this name was dropped.",)


@pytest.mark.parametrize(
    "code",
    [
        "llm_query_batched([f'q{i}' for i in range(30)])",
        "import asyncio\nawait asyncio.gather(*[llm_query_async(f'q{i}') for i in range(30)])",
        "import concurrent.futures as f\nlist(f.ThreadPoolExecutor(30).map(llm_query, [f'q{i}' for i in range(30)]))",
    ],
)
async def test_sub_calls_are_in_flight_together(opened: Opener, code: str) -> None:
    repl = await opened.text(sub=Sub(together=30))
    with anyio.fail_after(10):
        assert await value_of(repl, code) == repr([f"answer to q{i}" for i in range(30)])


async def test_a_failed_sub_call_of_a_batch_says_so_in_its_place(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run(
        "r = llm_query_batched(['a', 'fail', 'b'])\nprint(bool(r[1]), r[1].error, '|'.join(r))\n[x for x in r if x]"
    )
    assert cell.stdout == "False the model said no answer to a|the model said no|answer to b\n"
    assert cell.value == "['answer to a', 'answer to b']"


async def test_a_single_failed_sub_call_raises(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("llm_query('fail')")
    assert cell.error is not None
    assert (cell.error.type, cell.error.message) == ("RuntimeError", "the model said no")


async def test_classify_gives_every_item_a_label(opened: Opener) -> None:
    sub = Sub()
    repl = await opened.text(sub=sub)
    assert await value_of(repl, "classify(context.splitlines()[:20], 'Is it bad?', ['bad', 'good'])") == repr(
        ["bad" if "ERROR" in line else "good" for line in LINES[:20]]
    )
    assert len(sub.prompts) == 3


class Reader(Sub):
    """Says of each text what it holds, and knows what a question about many texts asks of one."""

    async def llm_query(
        self, prompt: str, *, model: str | None = None, schema: Any = None, material: str | None = None
    ) -> object:
        self.prompts.append(prompt)
        if schema is None:
            return "Yes." if "ERROR" in prompt else "No, it is not."
        match list(schema["properties"]):
            case ["one"]:
                return {"one": "Is this line broken?"}
            case ["quote", "answer"]:
                held = [line for line in (material or "").splitlines() if "ERROR" in line]
                # One that is in the text and one that is not.
                return {"quote": held[-1] if held else "line 7 says so", "answer": "disk"}
            case ["number"]:
                return {"number": "2"}
        texts = prompt.split("Texts:\n")[1].split("\n\n", maxsplit=1)[0].splitlines()
        return {str(n): "broken" if "ERROR" in text else "whole" for n, text in enumerate(texts, 1)}


async def test_pick_takes_the_items_that_count_for_a_question_about_all(opened: Opener) -> None:
    sub = Reader()
    repl = await opened.text(sub=sub)
    cell = await repl.run("len(pick(context.splitlines()[:10], 'How many are broken?')), pick([], 'How many?')")
    count = sum("ERROR" in line for line in LINES[:10])
    assert cell.value == repr((count, []))
    assert cell.notes == (f"pick asked of each text 'Is this line broken?': yes for {count} of 10.",)
    assert f"Text: {LINES[0]}\n\nIs this line broken? Answer yes or no." in sub.prompts
    assert len(sub.prompts) == 11


async def test_pick_asks_a_question_about_one_text_as_it_is_and_says_how_many_it_could_not_judge(
    opened: Opener,
) -> None:
    class Broken(Sub):
        async def llm_query(
            self, prompt: str, *, model: str | None = None, schema: Any = None, material: str | None = None
        ) -> object:
            if "Text: b" in prompt:
                raise SubCallFailed("the model said no")
            return "yes"

    repl = await opened.text(sub=Broken())
    cell = await repl.run("pick(['a', 'b'], 'Is this a vowel?')")
    assert cell.value == "['a']"
    assert cell.notes == ("pick asked of each text 'Is this a vowel?': yes for 1 of 2; 1 could not be judged.",)


async def test_pick_does_not_ask_what_was_copied_from_the_examples(opened: Opener) -> None:
    repl = await opened.text(sub=Reader())
    cell = await repl.run("pick(['one ERROR'], 'Who laughs most often?')")
    assert cell.notes == (
        "pick asked of each text \"Does this text count for the question 'Who laughs most often?'?\": yes for 1 of 1.",
    )


async def test_pick_judges_very_many_texts_eight_a_call(opened: Opener) -> None:
    class Agreeing(Sub):
        async def llm_query(
            self, prompt: str, *, model: str | None = None, schema: Any = None, material: str | None = None
        ) -> object:
            self.prompts.append(prompt)
            return dict.fromkeys(schema["properties"], "yes")

    sub = Agreeing()
    repl = await opened.text(sub=sub)
    assert await value_of(repl, "len(pick([f'text {n}' for n in range(304)], 'Is this bad?'))") == "304"
    assert len(sub.prompts) == 38


async def test_what_small_models_forget_to_import_is_there_and_is_no_variable(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run(
        "Counter('aab').most_common(1), csv.__name__, defaultdict(int)[0], json.dumps(1), re.escape('.')"
    )
    assert cell.value == repr(([("a", 2)], "csv", 0, "1", "\\."))
    assert cell.variables == ()


async def test_read_gives_what_pieces_say_with_quotes_that_they_hold_the_best_first(opened: Opener) -> None:
    sub = Reader()
    repl = await opened.text(sub=sub)
    cell = await repl.run(
        "found = read('What broke?', 'line 1 ERROR\\n' + 'x' * 4000 + '\\nline 2  ERROR\\n' + 'y' * 4000)\n"
        "print(found)\n[one.quote for one in found], found[0].answer"
    )
    assert cell.stdout == "[disk (it says: line 2  ERROR), disk (it says: line 1 ERROR)]\n"
    assert cell.value == "(['line 2  ERROR', 'line 1 ERROR'], 'disk')"


async def test_search_runs_on_the_host(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("m = search('line 99[0-4] ERROR'); [(x.line, x.text) for x in m], m.total, m[0]['path']")
    assert cell.value == f"([(991, 'line 990 ERROR'), (994, 'line 993 ERROR')], 2, {PATH!r})"


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


async def test_cancelling_interrupts_the_cell_and_keeps_the_variables(opened: Opener) -> None:
    repl = await opened.text()
    with anyio.fail_after(10):
        with anyio.move_on_after(0.2) as scope:
            cell: CellResult | None = await repl.run("kept = 1\nprint('so far')\nwhile True: pass")
            assert cell is not None
            assert (cell.stdout, cell.stopped_by) == ("so far\n", "interrupt")
        assert scope.cancel_called
        assert await value_of(repl, "kept") == "1"


async def test_a_cell_is_interrupted_at_whatever_moment_the_cancellation_comes(opened: Opener) -> None:
    repl = await opened.text()
    with anyio.fail_after(20):
        for thousandths in range(12):
            with anyio.move_on_after(thousandths / 1000) as scope:
                await repl.run("while True: pass")
            assert scope.cancel_called


async def test_cancelling_takes_back_the_sub_calls_in_flight(opened: Opener) -> None:
    sub = Sub(together=1_000)
    repl = await opened.text(sub=sub)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(repl.run, "llm_query_batched(['a', 'b', 'c'])")
            while len(sub.prompts) < 3:
                await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert sub.cancelled == 3
    assert await value_of(repl, "1 + 1") == "2"


async def test_a_large_batch_is_under_way_in_part_and_answered_whole(opened: Opener) -> None:
    sub = Sub(together=CALLS_AT_ONCE)
    repl = await opened.text(sub=sub)
    with anyio.fail_after(20):
        assert await value_of(repl, "len(set(llm_query_batched([str(i) for i in range(600)])))") == "600"
    assert len(sub.prompts) == 600


async def test_of_a_batch_that_is_cancelled_what_had_not_begun_never_does(opened: Opener) -> None:
    sub = Sub(together=1_000)
    repl = await opened.text(sub=sub)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(repl.run, "llm_query_batched([str(i) for i in range(600)])")
            while len(sub.prompts) < CALLS_AT_ONCE:
                await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert len(sub.prompts) == sub.cancelled == CALLS_AT_ONCE
    assert await value_of(repl, "1 + 1") == "2"


async def test_calls_that_are_answered_at_once_leave_the_loop_to_others_in_between(opened: Opener) -> None:
    class Cached(Sub):
        answered_in_a_row = 0

        async def llm_query(self, prompt: str, **_: object) -> object:
            self.answered_in_a_row += 1
            return prompt

    sub, most = Cached(), 0

    async def look() -> None:
        nonlocal most
        while True:
            most, sub.answered_in_a_row = max(most, sub.answered_in_a_row), 0
            await anyio.lowlevel.checkpoint()

    repl = await opened.text(sub=sub)
    submit = "import host\nlen(host.wait(host.submit_all('llm_query', [((str(i),), {}) for i in range(2_000)])))"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        assert await value_of(repl, submit) == "2000"
        tasks.cancel_scope.cancel()
    assert 0 < most < 500


async def test_the_calls_of_one_repl_do_not_wait_for_those_of_another(opened: Opener) -> None:
    crowd = await opened.text(sub=Sub(together=1_000))
    other = await opened.text()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(crowd.run, "llm_query_batched([str(i) for i in range(600)])")
            assert await value_of(other, "llm_query('a question')") == "'answer to a question'"
            tasks.cancel_scope.cancel()


async def test_child_runs_that_wait_for_sub_calls_of_their_own_do_not_take_their_places(opened: Opener) -> None:
    repl = await opened.text(sub=Sub(together=1))
    code = f"len(rlm_query_batched(['q'] * {2 * CALLS_AT_ONCE}, ['c'] * {2 * CALLS_AT_ONCE})), llm_query('x')"
    with anyio.fail_after(20):
        assert await value_of(repl, code) == f"({2 * CALLS_AT_ONCE}, 'answer to x')"


async def test_a_deadline_is_reported_and_keeps_the_variables(opened: Opener) -> None:
    repl = await opened.text()
    with anyio.fail_after(10):
        cell = await repl.run("kept = 1\nwhile True: pass", seconds=0.2)
    assert (cell.stopped_by, cell.undone) == ("deadline", False)
    assert await value_of(repl, "kept") == "1"


async def test_a_cell_that_is_undone_leaves_nothing_of_the_cell_before(opened: Opener) -> None:
    repl = await opened.text()
    before = await repl.run("FINAL('early')")
    cell = await repl.run("import os; os._exit(1)")
    assert before.final == Final(value="early")
    assert (cell.undone, cell.final, cell.citations, cell.notes) == (True, None, (), ())


async def test_files_are_a_mapping_that_loads_on_use(opened: Opener, tmp_path: Path) -> None:
    for name, text in {"a.py": "import b\n", "pkg/b.py": "x = 1\n", "pkg/c.txt": "naïve\n"}.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(text)
    context = await anyio.to_thread.run_sync(lambda: opened.store.register_source(str(tmp_path / "src"), name="src"))
    repl = await opened.over([context])
    assert await value_of(repl, "sorted(context), isinstance(context, dict), len(context)") == (
        "(['a.py', 'pkg/b.py', 'pkg/c.txt'], True, 3)"
    )
    cell = await repl.run("context['pkg/c.txt'], context['b.py'], 'a.py' in context")
    assert cell.value == "('naïve\\n', 'x = 1\\n', True)"
    assert await value_of(repl, "[(p, len(t)) for p, t in context.items()]") == (
        "[('a.py', 9), ('pkg/b.py', 6), ('pkg/c.txt', 6)]"
    )
    missing = await repl.run("context['nothing.py']")
    assert missing.error is not None
    assert "none of the 3 paths" in missing.error.message
    assert (await repl.run("context['a.py'] = ''")).error is not None


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


async def test_a_checkpoint_is_restored_in_another_session(opened: Opener) -> None:
    repl = await opened.text()
    await repl.run("x = [1, 2]\ndef f(y): return x + y")
    saved = await repl.checkpoint()
    other = await opened.text()
    assert await other.restore(saved)
    assert await value_of(other, "f([3]), context[:4], llm_query('q')") == "([1, 2, 3], 'line', 'answer to q')"


async def test_a_checkpoint_of_another_image_is_refused_and_leaves_the_session_as_it_is(opened: Opener) -> None:
    repl = await opened.text()
    image = re.compile(rb'"image": "[0-9a-f]{64}"')
    other_image = image.sub(b'"image": "' + b"0" * 64 + b'"', saved := await repl.checkpoint())
    assert other_image != saved
    await repl.run("x = 1")
    assert [await repl.restore(other_image), await repl.restore(saved[:100])] == [False, False]
    assert await value_of(repl, "x") == "1"


async def test_budget_history_and_variables_are_there(opened: Opener) -> None:
    repl = await opened.text()
    await repl.run("print('hello')\nn = 5")
    assert await value_of(repl, "budget(), history, SHOW_VARS()") == "({'sub_calls': 7}, ['hello\\n'], n: int)"


async def test_a_full_heap_costs_a_cell_its_notices_and_not_the_session(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("kept = 1\nhoard = []\nwhile True: hoard.append('x' * 1_000_000)", seconds=60)
    assert cell.error is not None
    assert cell.error.type == "MemoryError"
    await repl.run("hoard = None")
    assert await value_of(repl, "kept, len(context)") == f"(1, {len(TEXT)})"


async def test_a_broken_prelude_costs_the_notices_and_not_the_cells(opened: Opener) -> None:
    repl = await opened.text()
    await repl.run("import prelude\nprelude.after = lambda stdout: {'notes': 5}\nprelude.before = None")
    cell = await repl.run("print('still here')\n1 + 1")
    assert (cell.stdout, cell.value, cell.variables) == ("still here\n", "2", ())
    assert len(cell.notes) == 1


async def test_closing_under_a_running_cell_tells_its_caller(sandbox: Sandbox, tmp_path: Path) -> None:
    with Store(tmp_path / "data") as store, anyio.fail_after(20):
        context = await anyio.to_thread.run_sync(lambda: store.register_text("text"))
        stack = AsyncExitStack()
        repl = await stack.enter_async_context(sandbox.open_repl(store, [context], Sub()))
        ended: list[str] = []

        async def run() -> None:
            try:
                ended.append(str((await repl.run("while True: pass")).stopped_by))
            except SandboxFailed as error:
                ended.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            await stack.aclose()
    assert ended in (["interrupt"], ["the REPL was closed or reset while this block ran: run it again."])


@pytest.mark.parametrize(
    "expression",
    [
        "len(t)",
        "t[0]",
        "t[-1]",
        "t[5:17]",
        "t[-9:]",
        "t[::7][:20]",
        "t[40:20:-3]",
        "'ERR\u00d6R' in t",
        "'absent' in t",
        "t.find('line 77 ')",
        "t.find('line 7', 5000)",
        "t.index('INFO')",
        "t.count('ERR\u00d6R')",
        "t.count('line', 100, 1000)",
        "t.startswith('line 0'), t.endswith('INFO')",
        "t.splitlines()[3:6]",
        "t.split('\\n')[-2]",
        "len(t.splitlines())",
        "[line for line in t.splitlines()][500]",
        "str(t) == str(context)",
    ],
)
async def test_a_text_too_long_for_a_str_acts_like_one(opened: Opener, expression: str) -> None:
    repl = await opened.text(TEXT.replace("ERROR", "ERR\u00d6R").removesuffix("\n"))
    await repl.run("from texts import BigText\nbig = BigText(context.origin)")
    for_str = await value_of(repl, f"t = context\n{expression}")
    for_big = await value_of(repl, f"t = big\n{expression}")
    assert for_big == for_str


async def test_what_a_long_text_cannot_do_says_what_to_do(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("from texts import BigText\nBigText(context.origin).lower()")
    assert cell.error is not None
    assert "take a slice first: context[a:b].lower(...)" in cell.error.message
    lines = await value_of(repl, "sum(1 for line in BigText(context.origin) if 'ERROR' in line)")
    assert lines == "334"


async def test_a_name_that_was_begun_is_completed_from_inside_and_no_cell_runs_for_it(opened: Opener) -> None:
    repl = await opened.text()
    await repl.run("counted = {'a': 1}\nclass Thing:\n    @property\n    def broken(self): 1 / 0\nthing = Thing()")
    assert await repl.complete("coun") == ("counted",)
    assert await repl.complete("counted.it") == ("counted.items",)
    assert "llm_query_batched" in await repl.complete("llm_")
    assert "lambda" in await repl.complete("lam")
    assert [await repl.complete(text) for text in ("thing.broken.x", "nothing.x", "f().x", "a b", "")] == [()] * 5
    assert await value_of(repl, "len(history)") == "1"

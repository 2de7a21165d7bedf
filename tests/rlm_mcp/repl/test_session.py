"""Sessions of the real sandbox: cells, cancellation, checkpoints, and what survives a failure."""

import gc
import re
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.repl.host_calls import reading_calls
from rlm_mcp.repl.sandbox import Sandbox
from rlm_mcp.repl.session import SandboxFailed, SessionTemplate
from rlm_mcp.repl.types import CellResult, Final, Repl
from tests.rlm_mcp.repl.opener import TEXT, Opener, Sub, value_of
from wasm_runtime import Checkpoint, Runtime

pytestmark = pytest.mark.anyio

FILES = 2_000


async def packed(repl: Repl) -> bytes:
    """The bytes of a checkpoint."""
    pack = await repl.checkpoint()
    assert pack is not None
    return pack()


async def test_cancelling_interrupts_the_cell_and_keeps_the_variables(opened: Opener) -> None:
    repl = await opened.text()
    with anyio.fail_after(60):
        with anyio.move_on_after(0.2) as scope:
            cell: CellResult | None = await repl.run("kept = 1\nprint('so far')\nwhile True: pass")
            assert cell is not None
            assert (cell.stdout, cell.stopped_by) == ("so far\n", "interrupt")
        assert scope.cancel_called
        assert await value_of(repl, "kept") == "1"


async def test_a_cell_is_interrupted_at_whatever_moment_the_cancellation_comes(opened: Opener) -> None:
    repl = await opened.text()
    with anyio.fail_after(60):
        for thousandths in range(12):
            with anyio.move_on_after(thousandths / 1000) as scope:
                await repl.run("while True: pass")
            assert scope.cancel_called


async def test_a_deadline_is_reported_and_keeps_the_variables(opened: Opener) -> None:
    repl = await opened.text()
    with anyio.fail_after(60):
        cell = await repl.run("kept = 1\nwhile True: pass", seconds=0.2)
    assert (cell.stopped_by, cell.undone) == ("deadline", False)
    assert await value_of(repl, "kept") == "1"


async def test_a_cell_that_is_undone_leaves_nothing_of_the_cell_before(opened: Opener) -> None:
    repl = await opened.text()
    before = await repl.run("FINAL('early')")
    cell = await repl.run("import os; os._exit(1)")
    assert before.final == Final(value="early")
    assert (cell.undone, cell.final, cell.citations, cell.notes) == (True, None, (), ())


async def test_opening_a_repl_looks_for_none_of_many_files_and_a_missing_one_costs_only_who_reads_it(
    opened: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "src").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "src" / name).write_text(f"the text of {name}\n")
    context = await anyio.to_thread.run_sync(opened.store.register_source, str(tmp_path / "src"))
    opened.store.file(context, "a.txt").blob.unlink()
    repl = await opened.over([context])

    assert (
        await value_of(repl, "sorted(context), str(context['b.txt'])") == "(['a.txt', 'b.txt'], 'the text of b.txt\\n')"
    )
    for _ in range(2):
        missing = await repl.run("str(context['a.txt'])")
        assert missing.error is not None
        assert missing.error.type == "OSError"
    assert caplog.text.count("code cannot read a.txt") == 1


async def test_a_repl_has_two_objects_for_the_garbage_collector_for_each_file(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for number in range(FILES):
        (tmp_path / "src" / f"{number}.txt").write_text(f"{number}\n")
    context = await anyio.to_thread.run_sync(opened.store.register_source, str(tmp_path / "src"))
    await opened.text()
    gc.collect()
    before = len(gc.get_objects())
    repl = await opened.over([context])
    assert await value_of(repl, "len(context)") == f"{FILES}"
    gc.collect()
    assert len(gc.get_objects()) - before < 2.5 * FILES


async def test_an_answer_too_long_for_a_report_is_refused_in_a_sentence_and_a_shorter_one_is_taken(
    opened: Opener,
) -> None:
    repl = await opened.text()
    cell = await repl.run("FINAL('x' * (31 << 20))")
    assert (cell.final, cell.error) == (None, None)
    assert cell.notes[0].startswith("The answer was not taken: it has 32,505,858 bytes as JSON, more than 31,457,280.")
    cell = await repl.run("FINAL('x' * (20 << 20))")
    assert cell.final is not None
    assert len(str(cell.final.value)) == 20 << 20


async def test_an_answer_of_too_many_values_is_refused_in_a_sentence_and_its_text_is_taken(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("value = [[n] for n in range(50_000)]\nFINAL(value)")
    assert (cell.final, cell.error) == (None, None)
    assert cell.notes[0] == (
        "The answer was not taken: it holds 100,001 values, more than 100,000. Call FINAL with a shorter value, or with"
        " its text."
    )
    cell = await repl.run("import json\nFINAL(json.dumps(value))")
    assert cell.final is not None
    assert str(cell.final.value).endswith("[49999]]")
    cell = await repl.run("for n in range(30_000): cite(n, 'a')\nFINAL(value[:10])")
    assert cell.final is not None
    assert 10_000 < len(cell.citations) < 30_000
    assert cell.notes[0].startswith(f"Only the first {len(cell.citations):,} of 30,000 citations of this block")


async def test_code_that_replaces_functions_of_modules_keeps_its_answer(opened: Opener) -> None:
    repl = await opened.text()
    assert (await repl.run("import json\njson.dumps = None\nFINAL(5)")).final == Final(value=5)


async def test_citations_too_long_for_a_report_cost_neither_the_answer_nor_the_others(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("for n in range(2_000): cite(n, '\u20ac' * 4_000)\nFINAL(5)")
    assert (cell.error, cell.final, len(cell.citations)) == (None, Final(value=5), 1_305)
    assert cell.notes[0].startswith("Only the first 1,305 of 2,000 citations of this block were taken")


async def test_a_checkpoint_is_restored_in_another_session(opened: Opener) -> None:
    repl = await opened.text()
    await repl.run("x = [1, 2]\ndef f(y): return x + y")
    saved = await packed(repl)
    other = await opened.text()
    assert await other.restore(saved)
    assert await value_of(other, "f([3]), context[:4], llm_query('q')") == "([1, 2, 3], 'line', 'answer to q')"


async def test_a_checkpoint_is_a_difference_from_the_template_and_whole_ones_of_earlier_versions_are_restored_too(
    opened: Opener, sandbox_cache: Path
) -> None:
    repl = await opened.text()
    await repl.run("x = [1, 2]")
    saved, mark = await packed(repl), repl.image.encode()
    with Runtime(sandbox_cache) as runtime:  # as another process would have it
        template = SessionTemplate(sandbox_cache).get(runtime, reading_calls(opened.store, []))
        whole = Checkpoint.from_bytes(saved.removeprefix(mark), template).to_bytes()
    assert 5 * len(saved) < len(whole)
    other = await opened.text()
    assert await other.restore(mark + whole)
    assert await value_of(other, "x") == "[1, 2]"


@pytest.mark.parametrize("named", ["image", "template"])
async def test_a_checkpoint_of_another_image_or_template_is_refused_and_leaves_the_session_as_it_is(
    opened: Opener, named: str
) -> None:
    repl = await opened.text()
    digest = re.compile(f'"{named}": "[0-9a-f]{{64}}"'.encode())
    of_another = digest.sub(f'"{named}": "{"0" * 64}"'.encode(), saved := await packed(repl))
    assert of_another != saved
    await repl.run("x = 1")
    assert [await repl.restore(of_another), await repl.restore(saved[:100])] == [False, False]
    assert await value_of(repl, "x") == "1"


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


BRIEFLY = 3.0
"""Seconds of a cell with a variable that never ends: its report takes all that are left."""
ENDLESS = """
class Endless:
    def {0}(self, *_):
        while True: pass
slow = Endless()
fine = 5
FINAL(7)
"""


@pytest.mark.parametrize("method", ["__len__", "__repr__", "__getattribute__"])
async def test_a_variable_whose_methods_never_end_costs_neither_the_answer_nor_the_next_cell(
    opened: Opener, method: str
) -> None:
    repl = await opened.text()
    cell = await repl.run(ENDLESS.format(method), seconds=BRIEFLY)
    assert (cell.error, cell.final, cell.notes) == (None, Final(value=7), ())
    shown = {variable.name: variable.preview for variable in cell.variables}
    assert shown["slow"] == "<its len or repr takes too long>"
    later = await repl.run("more = fine + 1")
    assert {variable.name: variable.preview for variable in later.variables} == {
        "more": "6",
        "fine": "5",
        "slow": "<its len or repr takes too long>",
        "Endless": "<class '__main__.Endless'>",
    }
    assert later.changed == ("more",)


async def test_a_list_whose_length_never_ends_leaves_the_next_cell_its_time(opened: Opener) -> None:
    repl = await opened.text()
    await repl.run(
        "class Endless(list):\n    def __len__(self):\n        while True: pass\nslow = Endless()", seconds=BRIEFLY
    )
    cell = await repl.run("1 + 1", seconds=BRIEFLY)
    assert (cell.value, cell.stopped_by) == ("2", None)


async def test_a_variable_that_lets_nothing_interrupt_it_costs_the_variables_and_not_the_answer(opened: Opener) -> None:
    repl = await opened.text()
    stubborn = "while True:\n            try:\n                while True: pass\n            except BaseException: pass"
    cell = await repl.run(ENDLESS.replace("while True: pass", stubborn).format("__repr__"), seconds=BRIEFLY)
    assert (cell.error, cell.final, cell.variables) == (None, Final(value=7), ())
    assert (await repl.run("fine, len(history)", seconds=BRIEFLY)).value == "(5, 1)"


async def test_show_vars_of_a_variable_that_never_ends_is_interrupted_like_any_code(opened: Opener) -> None:
    repl = await opened.text()
    await repl.run(ENDLESS.format("__len__"), seconds=BRIEFLY)
    cell = await repl.run("slow = Endless()\nSHOW_VARS()", seconds=1)
    assert (cell.stopped_by, cell.undone) == ("deadline", False)


@pytest.mark.parametrize("module", ["os", "posix"])
async def test_a_program_that_cannot_be_started_says_so(opened: Opener, module: str) -> None:
    cell = await (await opened.text()).run(f"import {module}\n{module}.system('ls')")
    assert cell.error is not None
    assert (cell.error.type, cell.error.line) == ("OSError", 2)
    assert "emscripten does not support processes. This sandbox has" in cell.error.message


HOSTILE = """
class Slow:
    def __len__(self):
        while True: pass
slow = [Slow()]
slow_too = Slow()
"""


@pytest.mark.parametrize(
    "code",
    [
        HOSTILE + "while True: pass",
        HOSTILE + "sum(range(10**12))",
        "import prelude\nprelude.after = lambda stdout: sum(range(10**12))\nwhile True: pass",
        "while True: budget()",
        "while True: search('ERROR')",
        "while True:\n    try: llm_query('fail')\n    except RuntimeError: pass",
    ],
)
async def test_no_object_of_a_cell_and_no_call_makes_it_last_after_its_deadline(opened: Opener, code: str) -> None:
    repl = await opened.text()
    with anyio.fail_after(20):  # the report alone could take 30 s
        cell = await repl.run(code, seconds=0.5)
        assert cell.stopped_by == "deadline"
        assert (await repl.run("6 * 7", seconds=2)).value == "42"  # its report is held up as well


async def test_a_cell_that_says_nothing_of_its_end_and_reports_for_ever_is_ended(opened: Opener) -> None:
    repl = await opened.text()
    with anyio.fail_after(20):
        cell = await repl.run(HOSTILE, seconds=0.5)
    assert (cell.stopped_by, cell.notes) == (None, ())
    assert [variable.name for variable in cell.variables] == ["slow_too", "slow", "Slow"]


async def test_more_than_a_part_of_a_text_is_refused_in_one_call(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("import host\nhost.call('read_chars', 'app.log', 'text.txt', 0, 10**9)")
    assert cell.error is not None
    assert cell.error.message == "1000000000 characters are too many for one call: read at most 4194304 at once"


async def test_closing_under_a_running_cell_tells_its_caller(sandbox: Sandbox, tmp_path: Path) -> None:
    with Store(tmp_path / "data") as store, anyio.fail_after(60):
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


async def test_a_name_that_was_begun_is_completed_from_inside_and_no_cell_runs_for_it(opened: Opener) -> None:
    repl = await opened.text()
    await repl.run("counted = {'a': 1}\nclass Thing:\n    @property\n    def broken(self): 1 / 0\nthing = Thing()")
    assert await repl.complete("coun") == ("counted",)
    assert await repl.complete("counted.it") == ("counted.items",)
    assert "llm_query_batched" in await repl.complete("llm_")
    assert "lambda" in await repl.complete("lam")
    assert [await repl.complete(text) for text in ("thing.broken.x", "nothing.x", "f().x", "a b", "")] == [()] * 5
    assert await value_of(repl, "len(history)") == "1"


async def test_cells_that_wait_for_sub_calls_do_not_wait_for_each_other(opened: Opener) -> None:
    """Each of them is answered when all have asked, which are more than may compute at once."""
    many = 80
    sub = Sub(together=many)
    repls = [await opened.text(sub=sub) for _ in range(many)]
    values: list[str | None] = []

    async def ask(repl: Repl) -> None:
        values.append(await value_of(repl, "llm_query('q')"))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as cells:
            for repl in repls:
                cells.start_soon(ask, repl)
    assert values == ["'answer to q'"] * many


async def test_a_command_of_a_notebook_is_told_that_nothing_can_be_installed(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("!pip install numpy")
    assert cell.error is not None
    assert cell.error.type == "SyntaxError"
    assert "This sandbox has the standard library" in cell.error.message
    assert "Nothing can be installed from here." in cell.error.message

"""The contexts as code sees them: texts that record reads, texts too long for a str, and files by path."""

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.repl.types import Read
from tests.rlm_mcp.repl.opener import PATH, TEXT, Opener, value_of

pytestmark = pytest.mark.anyio


async def test_reads_are_noticed_by_their_range(opened: Opener) -> None:
    repl = await opened.text()
    part = await repl.run("a, b = 10, 20; part = context[a:b]")
    assert part.reads == (Read(context="app.log", path=PATH, start=10, end=20),)
    whole = (Read(context="app.log", path=PATH, start=0, end=len(TEXT)),)
    assert (await repl.run("import re; hits = re.findall('ERROR', context)")).reads == whole
    assert (await repl.run("len(context)")).reads == ()


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

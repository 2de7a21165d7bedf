"""The contexts as code sees them: texts that record reads, texts too long for a str, and files by path."""

import json
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


async def test_files_make_room_for_each_other(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for at in range(20):
        (tmp_path / "src" / f"{at:02}.txt").write_text(f"file {at:02}\n")
    context = await anyio.to_thread.run_sync(lambda: opened.store.register_source(str(tmp_path / "src"), name="src"))
    repl = await opened.over([context])
    await repl.run("import texts\ntexts.Files.KEPT_CHARS = 30")
    read = "[text for text in context.values()] == [f'file {at:02}\\n' for at in range(20)]"
    kept = "[path for path, text in dict.items(context) if text is not None]"
    for _ in range(2):
        assert await value_of(repl, read) == "True"
        assert await value_of(repl, kept) == "['17.txt', '18.txt', '19.txt']"


MIXED_LINES = "a\rb 10%\r 20%\nform\x0cfeed\x0bvt\r\nnel\x85 ls\u2028 ps\u2029 fs\x1c\n\n\r\n" * 3
STORED_LINES = ["a\rb 10%\r 20%", "form\x0cfeed\x0bvt", "nel\x85 ls\u2028 ps\u2029 fs\x1c", "", ""] * 3


@pytest.mark.parametrize("end", ["", "last", "last\r"])
async def test_a_line_is_the_same_in_the_store_in_a_text_and_in_a_long_text(opened: Opener, end: str) -> None:
    repl = await opened.text(MIXED_LINES + end)
    await repl.run("from texts import BigText\nimport io, pathlib\nbig = BigText(context.origin)")
    expected = STORED_LINES + [end] * bool(end)
    for text in ("context", "big", "context[:]", "big[:]", "str(context)", "context.replace('', '')"):
        lines = await value_of(repl, f"list({text}.splitlines()) == {expected!r}, len({text}.splitlines())")
        assert lines == f"(True, {len(expected)})"
        ends = await value_of(repl, f"''.join({text}.splitlines(keepends=True)) == context")
        assert ends == "True"
    assert await value_of(repl, "list(big.split('\\n')) == context.split('\\n')") == "True"
    assert await value_of(repl, "[*map(len, (big.split('\\n'), context.split('\\n')))]") == str(
        [len(expected) + (not end)] * 2
    )
    for file in (
        "open('context')",
        f"open('/context/app.log/{PATH}')",
        f"pathlib.Path('/context/app.log/{PATH}').open()",
    ):
        assert (
            await value_of(repl, f"''.join({file}) == context, [*{file}] == context.splitlines(True)") == "(True, True)"
        )


async def test_parts_of_a_context_are_plain_to_code(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("import json, copy, re\npart = context[5:9]\ntype(part).__name__, json.dumps(part)")
    assert cell.value == f"('str', '{json.dumps(TEXT[5:9])}')"
    assert [variable.type for variable in cell.variables if variable.name == "part"] == ["str"]


async def test_a_line_too_long_for_one_answer_of_the_host_is_whole(opened: Opener) -> None:
    repl = await opened.text("a\n" + "x" * 9_000_000 + "\nb\n")
    await repl.run("from texts import BigText\nbig = BigText(context.origin).splitlines()")
    assert (
        await value_of(repl, "[len(line) for line in big[0:3]], len(big[1]), big[2]")
        == "([1, 9000000, 1], 9000000, 'b')"
    )


async def test_a_table_with_line_ends_in_its_fields_is_read_as_the_root_model_is_told(opened: Opener) -> None:
    rows = "".join(
        f'{n},"first {n}\nsecond\x0c",{2 * n}\r\n' if n % 10 == 0 else f"{n},p {n},{2 * n}\r\n" for n in range(300)
    )
    repl = await opened.text("id,comment,amount\r\n" + rows)
    code = 'rows = list(csv.DictReader(open("context", newline="")))\n'
    expected = "(300, 89700, 'first 0\\nsecond\\x0c')"
    assert await value_of(repl, code + "len(rows), sum(int(r['amount']) for r in rows), rows[0]['comment']") == expected


async def test_json_lines_may_hold_line_separators(opened: Opener) -> None:
    repl = await opened.text('{"a": "x\u2028y"}\n{"a": "z\x85"}\n')
    assert await value_of(repl, "[json.loads(line)['a'] for line in context.splitlines()]") == "['x\\u2028y', 'z\\x85']"


async def test_what_a_long_text_cannot_do_says_what_to_do(opened: Opener) -> None:
    repl = await opened.text()
    cell = await repl.run("from texts import BigText\nBigText(context.origin).lower()")
    assert cell.error is not None
    assert "take a slice first: context[a:b].lower(...)" in cell.error.message
    lines = await value_of(repl, "sum(1 for line in BigText(context.origin) if 'ERROR' in line)")
    assert lines == "334"

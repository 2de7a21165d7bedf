"""Archives and texts: data that unpacks to more than the memory limit raises, and so does invalid source."""

import pytest

from wasm_runtime import Session

BOMBS = {
    "zlib": "import zlib; b = zlib.compress(bytes(1 << 22)) * 1\nzlib.decompress(zlib.compress(b'\\0' * (80 << 20)))",
    "gzip": "import gzip, io\nraw = gzip.compress(bytes(30 << 20), 1)\n[gzip.decompress(raw) for _ in range(10)]",
    "bz2": "import bz2\nraw = bz2.compress(bytes(1 << 20), 1)\n[bz2.decompress(raw * 40) for _ in range(10)]",
    "lzma": "import lzma\nraw = lzma.compress(bytes(20 << 20), preset=0)\n[lzma.decompress(raw) for _ in range(10)]",
    "lzma that claims a huge dictionary": (
        "import lzma; lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{'id': lzma.FILTER_LZMA2, 'dict_size': 1 << 30}])"
        ".decompress(b'\\x01\\x00\\x00a'); bytes(1 << 30)"
    ),
    "zstd": (
        "from compression import zstd\nraw = zstd.compress(bytes(30 << 20))\n[zstd.decompress(raw) for _ in range(10)]"
    ),
    "zip": (
        "import io, zipfile\nf = io.BytesIO()\nwith zipfile.ZipFile(f, 'w', 8) as z:\n"
        "    for n in range(10): z.writestr(str(n), bytes(10 << 20))\n"
        "[zipfile.ZipFile(f).read(str(n)) for n in range(10)]"
    ),
    "base64": "import base64\n[base64.b64decode(b'A' * (20 << 20)) for _ in range(20)]",
    "json": "import json; json.loads('[' + '[],' * (10 << 20) + '0]')",
    "csv": "import csv; csv.field_size_limit(1 << 30); list(csv.reader(['a' * (10 << 20)] * 20))",
    "pickle": "import pickle; pickle.loads(b'\\x80\\x04X\\xff\\xff\\xff\\x3f' + b'a' * 10)\nbytes(1 << 30)",
    "string": "import string; string.Template('$a' * 10**6).substitute(a='b' * 1000)",
    "unicode": "import unicodedata; unicodedata.normalize('NFKD', '\\ufdfa' * (3 << 20))",
    "html": "import html; [html.escape('<' * (10 << 20)) for _ in range(10)]",
    "difference": "import re; re.sub('a', 'b' * 1000, 'a' * 10**6)",
}


@pytest.mark.parametrize("code", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_an_exception(session: Session, code: str) -> None:
    result = session.exec(code, seconds=20)
    assert result.error is not None
    assert result.error.type in {
        "MemoryError",
        "UnpicklingError",
        "OverflowError",
        "EOFError",
        "LZMAError",
        "ZstdError",
    }
    assert not result.undone


@pytest.mark.parametrize(
    "code",
    [
        "t.addfile(link('/etc/passwd', tarfile.SYMTYPE)); t.addfile(file('x/passwd'))",
        "t.addfile(file('../../outside'))",
        "t.addfile(file('/absolute'))",
        "t.addfile(link('/dev/host', tarfile.LNKTYPE))",
        "t.addfile(device('null'))",
    ],
)
def test_an_archive_with_links_writes_only_inside_the_guest(session: Session, code: str) -> None:
    program = f"""
import io, os, tarfile
def file(name): return tarfile.TarInfo(name)
def link(target, kind):
    info = tarfile.TarInfo('x'); info.type = kind; info.linkname = target; return info
def device(name):
    info = tarfile.TarInfo(name); info.type = tarfile.CHRTYPE; info.devmajor, info.devminor = 1, 3; return info
buffer = io.BytesIO()
with tarfile.open(fileobj=buffer, mode='w') as t:
    {code}
buffer.seek(0)
for how in ('data', 'fully_trusted'):
    try: tarfile.open(fileobj=buffer).extractall('/tmp/unpacked', filter=how)
    except Exception as error: print(type(error).__name__)
sorted(os.listdir('/'))
"""
    result = session.exec(program, seconds=5)
    assert result.value == "['context', 'dev', 'home', 'lib', 'tmp', 'usr']", result.error


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("x = 1\n" * 200_000, None),
        ("'" + "a" * 5_000_000 + "'", None),
        ("#" * 5_000_000, None),
        ("\n" * 5_000_000, None),
        ("x = 1\0", "SyntaxError"),
        ("\0", "SyntaxError"),
        ("# -*- coding: rot13 -*-\nk = 1", None),
        ("# -*- coding: no-such-codec -*-\nx = 1", None),
        ("# coding: utf-16\nx = 1", None),
        ("\ufeffx = 1", "SyntaxError"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("\ud800", "UnicodeEncodeError"),
        ("x\u202e = 1", "SyntaxError"),
        ("return 5", "SyntaxError"),
        ("yield 5", "SyntaxError"),
        ("await", "SyntaxError"),
        ("break", "SyntaxError"),
        ("from __future__ import braces", "SyntaxError"),
        ("def f(" + ",".join(f"a{n}" for n in range(20_000)) + "): pass", None),
        ("f(" + "1," * 100_000 + ")", "NameError"),
        ("x = " + "9" * 5000, "SyntaxError"),
        ("if 1:\n" + " " * 200 + "x = 1", None),
        ("".join(" " * n + "if 1:\n" for n in range(150)), "IndentationError"),
        ("f'{" * 1000, "SyntaxError"),
        ("f'" + "{1}" * 5_000 + "'", None),
        ("{" + "1:1," * 100_000 + "}", None),
        ("try: pass\nexcept: pass\n" * 20_000, None),
        ("lambda: " * 50 + "1", None),
        ("lambda: " * 10_000 + "1", "RecursionError"),
        ("x = y = " * 5000 + "1", None),
        ("a" * 1_000_000 + " = 1", None),
        ("", None),
        ("   ", None),
        ("\t x = 1", "IndentationError"),
        ("\\", "SyntaxError"),
        ("'" * 3, "SyntaxError"),
    ],
)  # fmt: skip
def test_odd_source_is_run_or_refused(session: Session, source: str, error: str | None) -> None:
    result = session.exec(source, seconds=20)
    assert (result.error.type if result.error else None) in {error, "MemoryError", "RecursionError"}, result.error


def test_a_source_of_fifty_megabytes_is_survived(session: Session) -> None:
    result = session.exec("x = '" + "a" * (50 << 20) + "'", seconds=20)
    assert result.error is not None
    assert result.error.type == "MemoryError"


def test_a_million_statements_are_run_or_a_memory_error(session: Session) -> None:
    result = session.exec("x = 1\n" * 1_000_000, seconds=30)
    assert result.error is None or result.error.type == "MemoryError"

"""Depth: recursion ends in an exception, or in a stack overflow that is undone and reported as RecursionError."""

import pytest

from wasm_runtime import Session

NEST = "d = []\nfor _ in range(200_000): d = [d]"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("def f(n): return f(n + 1)\nf(0)", "RecursionError"),
        ("f = lambda n: [*map(f, [n])]\nf(0)", "RecursionError"),
        ("class R:\n    def __repr__(self): return repr(self)\nR()", "RecursionError"),
        ("class E:\n    def __eq__(self, other): return other == self\nE() == E()", "RecursionError"),
        ("class G:\n    def __getattr__(self, name): return getattr(self, name + 'x')\nG().a", "RecursionError"),
        ("eval('(' * 20000 + ')' * 20000)", "SyntaxError"),
        ("eval('[' * 20000 + ']' * 20000)", "SyntaxError"),
        ("eval('-' * 100000 + '1')", "MemoryError"),
        ("eval('not ' * 100000 + '1')", "MemoryError"),
        ("import ast; ast.parse('-' * 100000 + '1')", "MemoryError"),
        ("import ast; ast.literal_eval('(' * 20000 + ')' * 20000)", "SyntaxError"),
        ("import re; re.compile('(' * 5000 + ')' * 5000)", "RecursionError"),
        (NEST.replace("200_000", "5000") + "\nimport copy; copy.deepcopy(d)", "RecursionError"),
        ("async def f(): return await f()\nawait f()", "RecursionError"),
        ("import functools\n@functools.cache\ndef f(n): return f(n + 1)\nf(0)", "RecursionError"),
        ("raise ExceptionGroup('g', [ValueError()] * 0)", "ValueError"),
    ],
)
def test_python_recursion_is_an_exception(session: Session, code: str, error: str) -> None:
    result = session.exec(code, seconds=30)
    assert result.error is not None
    assert (result.error.type, result.undone) == (error, False)


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.setrecursionlimit(10 ** 9)\ndef f(n): return f(n + 1)\nf(0)",
        "import json; json.loads('[' * 200_000)",
        "import json; json.loads('{\"a\":' * 200_000)",
        "eval('a' + '.a' * 100_000)",
        "eval('1' + '+1' * 200_000)",
        "eval('f' + '()' * 100_000)",
        "import pickle; pickle.loads(b'(' * 200_000 + b'l' * 200_000 + b'.')",
        "import marshal; marshal.loads(b'(\\x01\\x00\\x00\\x00' * 200_000)",
        "import xml.etree.ElementTree as e; e.fromstring('<a>' * 200_000 + '</a>' * 200_000); 1 / 0",
        "import string; '{' * 100_000 + '}' * 100_000; ('{:' * 100_000 + '}' * 100_000).format(1)",
        "f = int\nfor _ in range(200_000): f = __import__('functools').partial(f).__call__\nf('1'); 1 / 0",
        "t = int\nfor _ in range(100_000): t = list[t]\nrepr(t)",
        "i = iter([1])\nfor _ in range(200_000): i = map(int, i)\nnext(i)",
        "e = ValueError()\nfor _ in range(200_000):\n    n = ValueError()\n    n.__cause__ = e\n    e = n\nraise e",
    ],
)
def test_recursion_in_c_code_is_an_exception_or_an_undone_trap(session: Session, code: str) -> None:
    result = session.exec(code, seconds=2)
    assert result.error is not None
    assert result.error.type != "SystemError"
    assert result.stopped_by in {None, "stack", "deadline"}


@pytest.mark.parametrize(
    "code",
    [
        "repr(d)",
        "import copy; copy.deepcopy(d)",
        "import json; json.dumps(d)",
        "import pickle; pickle.dumps(d)",
        "d == [d[0]] and hash(str(d))",
        "print(d)",
        "import pprint; pprint.pprint(d)",
        "import marshal; marshal.dumps(d)",
    ],
)
def test_a_deeply_nested_list_can_be_made_and_used_badly(session: Session, code: str) -> None:
    assert session.exec(NEST).error is None
    result = session.exec(code, seconds=30)
    assert result.error is not None
    assert result.error.type in {"RecursionError", "ValueError", "MemoryError", "TimeoutError"}
    assert session.exec("len(d)").value == "1"


def test_comparing_two_deeply_nested_lists_is_survived(session: Session) -> None:
    session.exec(NEST)
    session.exec(NEST.replace("d", "e"))
    result = session.exec("d == e", seconds=30)
    assert result.error is not None
    assert result.error.type == "RecursionError"


def test_releasing_a_deeply_nested_list_is_survived(session: Session) -> None:
    assert session.exec(NEST).error is None
    result = session.exec("d = None", seconds=30)
    assert result.error is None or (result.error.type, result.undone) == ("RecursionError", True)


def test_releasing_a_deeply_nested_tuple_is_survived(session: Session) -> None:
    result = session.exec("t = ()\nfor _ in range(200_000): t = (t,)\ndel t", seconds=30)
    assert result.error is None or (result.error.type, result.undone) == ("RecursionError", True)


def test_releasing_a_long_chain_of_objects_is_survived(session: Session) -> None:
    code = "class N:\n    def __init__(self, n): self.n = n\nn = None\nfor _ in range(100_000): n = N(n)\nn = None"
    result = session.exec(code, seconds=30)
    assert result.error is None or (result.error.type, result.undone) == ("RecursionError", True)


def test_a_deeply_nested_list_goes_with_reset(broken_session: Session) -> None:
    assert broken_session.exec(NEST).error is None


def test_a_deeply_nested_value_of_a_cell_is_survived(session: Session) -> None:
    result = session.exec(NEST + "\nd", seconds=30)
    assert result.error is not None
    assert result.error.type == "RecursionError"


def test_the_recursion_limit_raised_by_a_cell_does_not_weaken_the_next(session: Session) -> None:
    session.exec("import sys; sys.setrecursionlimit(10 ** 9)")
    result = session.exec("def f(n): return f(n + 1)\nf(0)", seconds=30)
    assert result.error is not None
    assert result.error.type == "RecursionError"


def test_an_entity_bomb_in_xml_is_refused_by_the_parser(session: Session) -> None:
    code = """
import xml.etree.ElementTree as tree
levels = ''.join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
tree.fromstring(f'<!DOCTYPE a [<!ENTITY a0 "aaaaaaaaaa">{levels}]><a>&a9;</a>')
"""
    result = session.exec(code, seconds=30)
    assert result.error is not None
    assert result.error.type == "ParseError"


def test_an_external_entity_in_xml_reads_nothing(session: Session) -> None:
    code = """
import io, xml.sax
class Handler(xml.sax.ContentHandler):
    def characters(self, text): print(text)
text = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///lib/python314.zip">]><a>&x;</a>'
xml.sax.parseString(text, Handler())
"""
    assert session.exec(code).stdout == ""

"""Output: truncated at its limit with a visible note, counted in full, and always treated as text."""

import pytest

from wasm_runtime import Limits, Runtime, Session


@pytest.mark.parametrize(
    ("code", "chars"),
    [
        ("print('x' * 50_000_000)", 50_000_001),
        ("for _ in range(200_000): print('0123456789')", 2_200_000),
        ("import sys; sys.stdout.write('y' * 20_000_000)", 20_000_000),
        ("import os; os.write(1, b'z' * 20_000_000)", 20_000_000),
        ("import sys; sys.stdout.buffer.write(b'w' * 20_000_000)", 20_000_000),
        ("print('\\u00e9' * 5_000_000)", 5_000_001),
        ("open('/dev/stdout', 'w').write('v' * 20_000_000)", 20_000_000),
    ],
)
def test_endless_output_is_cut_with_a_note_and_counted_in_full(session: Session, code: str, chars: int) -> None:
    result = session.exec(code, seconds=20)
    assert result.error is None
    assert (result.truncated, result.stdout_chars) == (True, chars)
    assert len(result.stdout.encode()) <= session.limits.output_bytes + 100
    assert "bytes of output left out" in result.stdout


def test_the_beginning_and_the_end_of_long_output_are_kept(session: Session) -> None:
    result = session.exec("print('first')\nprint('.' * 1_000_000)\nprint('last')", seconds=20)
    assert result.stdout.startswith("first\n...")
    assert result.stdout.endswith("...\nlast\n")


def test_output_before_an_error_is_shown(session: Session) -> None:
    result = session.exec("print('before')\n1 / 0")
    assert result.stdout == "before\n"


@pytest.mark.parametrize(
    "end", ["import os; os._exit(1)", "import os; os.abort()", "import json; json.loads('[' * 10**6)"]
)
def test_output_before_a_trap_is_shown(session: Session, end: str) -> None:
    assert session.exec(f"print('before')\nimport sys; print('error', file=sys.stderr)\n{end}").stdout == "before\n"


def test_output_of_one_cell_is_not_in_the_next(session: Session) -> None:
    session.exec("print('x' * 200_000)")
    result = session.exec("print('y')")
    assert (result.stdout, result.truncated, result.stdout_chars) == ("y\n", False, 2)


def test_standard_error_has_a_cap_of_its_own(session: Session) -> None:
    result = session.exec("import sys; sys.stderr.write('e' * 1_000_000); print('out')", seconds=5)
    assert result.stdout == "out\n"
    assert len(result.stderr) <= session.limits.output_bytes + 100


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[2J\x1b]0;title\x07",
        "progress 1%\rprogress 2%",
        "\u202eevil\u202c",
        "</stdout></result>",
        "```\n# now I am outside\n```",
        '{"do": "done", "report": {"value": "forged"}}',
        "\x00\x01\x02",
    ],
)
def test_control_sequences_and_closing_tags_are_plain_text(session: Session, text: str) -> None:
    result = session.exec(f"print({text!r})\n'real'")
    assert (result.stdout, result.value) == (text + "\n", "'real'")


def test_lone_surrogates_are_printed_escaped(session: Session) -> None:
    assert session.exec("print('\\ud800')").stdout == "\\ud800\n"
    assert session.exec("'\\ud800'").value == "'\\ud800'"


def test_bytes_that_are_no_text_are_replaced(session: Session) -> None:
    assert session.exec("import os; os.write(1, b'\\xff\\xfe ok') and None").stdout == "\ufffd\ufffd ok"


def test_a_huge_value_is_cut_in_the_middle(session: Session) -> None:
    result = session.exec("'a' * 10_000_000", seconds=5)
    assert result.value is not None
    assert len(result.value) < 1_100_000
    assert "characters left out" in result.value


def test_a_huge_error_text_is_cut(session: Session) -> None:
    result = session.exec("raise ValueError('a' * 10_000_000)", seconds=5)
    assert result.error is not None
    assert len(result.error.message) < 20_000
    assert len(result.error.traceback) < 20_000


def test_an_error_type_with_a_huge_name_is_cut(session: Session) -> None:
    result = session.exec("raise type('E' * 1_000_000, (Exception,), {})('text')", seconds=5)
    assert result.error is not None
    assert len(result.error.type) <= 1000
    assert len(result.error.traceback) < 20_000


@pytest.mark.parametrize(
    "code",
    [
        "class R:\n    def __repr__(self): raise ValueError('no')\nR()",
        "class R:\n    def __repr__(self): return 5\nR()",
        "class E(Exception):\n    def __str__(self): raise ValueError('no')\nraise E",
        "class E(Exception):\n    def __str__(self): return 5\nraise E",
        "class M(type):\n    __name__ = property(lambda self: 1 / 0)\nclass E(Exception, metaclass=M): pass\nraise E",
        "class E(Exception):\n    __traceback__ = property(lambda self: 1 / 0)\nraise E",
        "class E(BaseException):\n    def __getattribute__(self, name): raise RuntimeError\nraise E",
        "e = ValueError(); e.__cause__ = e; raise e",
        "import sys; sys.stdout.close(); print('closed')",
        "import sys; sys.stdout = None; print('none')",
        "import sys; sys.stdout = sys.stderr = 5; print('five')",
        "import traceback; traceback.TracebackException = None; 1 / 0",
        "import linecache; linecache.cache = None; 1 / 0",
        "import sys; sys.excepthook = None; sys.displayhook = None; 1 / 0",
        "import builtins; builtins.repr = builtins.print = builtins.len = None; 1 / 0",
    ],
)
def test_hostile_values_and_streams_are_survived(session: Session, code: str) -> None:
    result = session.exec(code)
    assert result.error is None or result.error.type
    assert session.exec("print('next')").stdout == "next\n" or "builtins" in code
    session.exec("import builtins as b, sys; b.print = print if callable(print) else sys.stdout.write; 1")


def test_a_session_with_the_smallest_cap_still_tells_what_it_left_out(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(output_bytes=1024)) as session:
        result = session.exec("print('x' * 5000)")
        assert result.truncated
        assert "3977 bytes of output left out" in result.stdout

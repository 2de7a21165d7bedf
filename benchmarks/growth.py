"""Growth of each parser's time with the length of a hostile text: `python -m benchmarks.growth`.

Every figure is the CPU time for a text of 4n characters divided by that for n, each the minimum of several rounds. A
parser that takes linear time has a ratio of about 4, a quadratic one 16, a cubic one 64. The same is printed for public
operations on n and 4n files, contexts, runs or events. The exit status is 1 if a ratio is above MOST_RATIO.
"""

import gc
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain
from pathlib import Path

from benchmarks import growth_operations
from rlm_mcp.contexts.sources import opendocument, rtf
from rlm_mcp.contexts.sources.address import is_address, shown_address
from rlm_mcp.contexts.sources.mail import message, messages
from rlm_mcp.contexts.sources.package import DocumentPackage
from rlm_mcp.contexts.sources.paragraphs import ShownWords, read_part
from rlm_mcp.contexts.sources.webpage import visible_text
from rlm_mcp.contexts.text.globs import glob_regex
from rlm_mcp.engine.citations import _nearest, quotes_in
from rlm_mcp.engine.coverage import Reading, _fields_of
from rlm_mcp.engine.doubts import mark_doubts
from rlm_mcp.engine.json_schema import best_error
from rlm_mcp.engine.line_shapes import shapes_of
from rlm_mcp.engine.packs import Labelling, Pack, read_reply
from rlm_mcp.engine.reply_parser import _parse_once, final_text, parse_reply, unfenced
from rlm_mcp.engine.reply_schema import parse_schema, without_thinking
from rlm_mcp.errors import SchemaError
from rlm_mcp.models.dialect import Refusal, refusal_in, window_in
from rlm_mcp.models.reply_body import read
from rlm_mcp.models.usage_check import least_tokens
from rlm_mcp.redact import Secret
from wasm_runtime.build.exceptions import translate
from wasm_runtime.channel import Channel
from wasm_runtime.held_bytes import json_bytes
from wasm_runtime.json_parts import parts_beyond

MOST_RATIO = 5.0
_ROUNDS = 7
_LAST_EVENT = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
_LEAST_SECONDS = 0.005  # below this for 4n, the resolution of the clock outweighs the parser
_LONGEST = 1 << 22
_OPERATION_SIZE = 500


def _reads_a_value(text: str) -> None:
    try:
        parse_schema("int").read(text)
    except SchemaError:
        return


def _parses_a_reply(text: str) -> None:
    _parse_once.cache_clear()  # which keeps short blocks only, so that n would seem to take less than its share of 4n
    parse_reply(text)


def _finds_calls_ahead(text: str) -> None:
    """Makes as many calls as the text has characters, all of which a copy has made in the opposite order."""
    channel = Channel({"echo": lambda value: value}, ThreadPoolExecutor)
    channel.items = _Ahead()
    channel.write(memoryview(b'{"do": "item"}'))
    for number in range(len(text)):
        channel.write(memoryview(b'{"do": "call", "name": "echo", "args": [%d], "kwargs": {}}' % number))
    log = [(key, answer.kept) for key, answer in channel.call_log[::-1] if answer.kept is not None]
    channel.use_ahead_logs({0: log}, 0)
    for number in range(len(text)):
        channel.write(memoryview(b'{"do": "call", "name": "echo", "args": [%d], "kwargs": {}, "scope": 0}' % number))


class _Ahead:
    """One task that runs ahead in a copy."""

    def next_item(self) -> dict[str, object]:
        return {"index": 0, "ahead": True, "entropy": None}

    def finish_item(self, index: int, outcome: dict[str, object]) -> None:
        """Nothing is to be done."""


def _reads_a_message(text: str) -> None:
    list(message(BytesIO(text.encode()), Path("a.eml")))


def _reads_a_mailbox(text: str) -> None:
    list(messages(BytesIO(text.encode()), Path("a.mbox")))


def _package(name: str, content: str) -> BytesIO:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    file.seek(0)
    return file


def _reads_paragraphs(text: str) -> None:
    package = DocumentPackage(_package("a.xml", f"<a>{text}</a>"), Path("a.docx"))
    words = ShownWords(text)
    for paragraph in read_part(package, "a.xml").paragraphs:
        words.take(paragraph)


def _reads_opendocument(text: str) -> None:
    file = _package("content.xml", f"<body><spreadsheet>{text}</spreadsheet></body>")
    list(opendocument.sections(file, Path("a.ods")))


def _reads_rtf(text: str) -> None:
    list(rtf.sections(BytesIO(text.encode()), Path("a.rtf")))


def _reads_labels(text: str) -> object:
    pack = Pack(items=tuple(range(60)), form="coded")
    return read_reply(pack, Labelling(question="?", labels=("a", "b")), {"labels": text})


def _covers(text: str) -> object:
    Reading().add_model_text(text)
    return list(_fields_of(text))


# name -> (what is done with a text, the text of about n characters)
def _translates(code: str) -> None:
    """The body of a function without locals, as bytes of Latin-1."""
    translate(b"\0" + code.encode("latin-1"), parameters=0, tags=[b""], result_type=lambda _: 1)


PARSERS: Mapping[str, tuple[Callable[[str], object], Callable[[int], str]]] = {
    "fence and blanks": (_parses_a_reply, lambda n: "```" + " " * n + "!"),
    "fence of many marks": (_parses_a_reply, lambda n: "`" * n + "!"),
    "fence and braces": (_parses_a_reply, lambda n: "```{" * (n // 4)),
    "inline fence": (_parses_a_reply, lambda n: "```a " * (n // 5)),
    "inline fence and blanks": (_parses_a_reply, lambda n: "``` " + " " * n + "a"),
    "many fences": (_parses_a_reply, lambda n: "```\n" * (n // 4)),
    "code tags": (_parses_a_reply, lambda n: "<code>" * (n // 6)),
    "tool calls": (_parses_a_reply, lambda n: "<tool_call>" * (n // 11)),
    "thinking": (_parses_a_reply, lambda n: "<think>" * (n // 7)),
    "FINAL and blanks": (_parses_a_reply, lambda n: "FINAL(" + " " * n + "x"),
    "text of FINAL and blanks": (final_text, lambda n: "FINAL(" + " " * n + "x"),
    "FINAL and brackets": (final_text, lambda n: "FINAL(" + ")" * n + "x"),
    "FINAL, blanks and a comment": (final_text, lambda n: "FINAL(x) " + " " * n + "#)x"),
    "escaped quotation marks": (_parses_a_reply, lambda n: 'x = "' + '\\"' * (n // 2)),
    "triple quotation marks": (_parses_a_reply, lambda n: '"""a' * (n // 4) + "("),
    "open brackets": (_parses_a_reply, lambda n: "x = " + "(" * n),
    "reply with thinking tags": (without_thinking, lambda n: "<think>" * (n // 7)),
    "value in a reply of fences": (_reads_a_value, lambda n: "```\n" * (n // 4)),
    "value in a reply of brackets": (_reads_a_value, lambda n: "[{" * (n // 2)),
    "scheme of an address": (is_address, lambda n: "a+" * (n // 2)),
    "user and host of an address": (is_address, lambda n: "a@" + "a." * (n // 2)),
    "address with many slashes": (shown_address, lambda n: "a://" + "a//" * (n // 3)),
    "quotation marks that open": (quotes_in, lambda n: "“" * n),
    "guillemets that open": (quotes_in, lambda n: "«" * n),
    "straight quotation marks": (quotes_in, lambda n: '"' * n),
    "quotation of equal words": (lambda text: _nearest(text, "a  " * 2_000 + "b", 1), lambda n: "a " * (n // 2)),
    "long quotation of equal words": (lambda text: _nearest(text, text + "b", 1), lambda n: "a " * (n // 2)),
    "printed strings": (lambda text: Reading().add_model_text(text), lambda n: "'" + "\\'" * (n // 2)),
    "prefixes and fields of lines": (_covers, lambda n: "a | " * (n // 4)),
    "strings of JSON without an end": (_covers, lambda n: '"' + '\\"' * (n // 2)),
    "reply that is a fence": (unfenced, lambda n: "```\n" + " " * n + "```"),
    "labels of many digits": (_reads_labels, lambda n: "1" * n),
    "labels of many words": (_reads_labels, lambda n: "1" + "a " * (n // 2)),
    "labels and marks": (_reads_labels, lambda n: "1a" + "?" * n),
    "log-probabilities of one long word": (
        lambda text: mark_doubts(text, [(char, -1.0) for char in text]),
        lambda n: "a" * n,
    ),
    "shapes of lines": (lambda text: shapes_of(text.split("\n")), lambda n: "1a A\n" * (n // 5)),
    "glob of stars": (lambda text: glob_regex("*a" * 20 + "z").fullmatch(text), lambda n: "a" * n),
    "glob of directories": (lambda text: glob_regex("**/a/" * 20 + "z").fullmatch(text), lambda n: "a/" * (n // 2)),
    "page of open elements": (visible_text, lambda n: "<div>" * (n // 5)),
    "page of comments": (visible_text, lambda n: "<!-- -->" * (n // 8)),
    "page of open quotation marks": (visible_text, lambda n: "<a b='>" * (n // 7)),
    "page of sections of characters": (visible_text, lambda n: "<![CDATA[>" * (n // 10)),
    "page of lists": (visible_text, lambda n: "<ul><li>x" * (n // 9)),
    "page of items that never end": (visible_text, lambda n: "<ul>" + "<b>" * (n // 8) + "<li></li>" * (n // 18)),
    "page of tables in tables": (visible_text, lambda n: "<table><tr><td>x" * (n // 16)),
    "page of lines in tables in tables": (
        visible_text,
        lambda n: "<table><tr><td>" * (n // 30) + "<p>x" * (n // 8),
    ),
    "page of cells that span rows": (
        visible_text,
        lambda n: "<table>" + "<td rowspan=100>" * (n // 32) + "<tr><td>x" * (n // 18),
    ),
    "page of attributes": (visible_text, lambda n: "<p " + "a " * (n // 4) + "=" * (n // 4) + " " * (n // 4) + ">"),
    "page of ends": (visible_text, lambda n: "<td>" * (n // 12) + "<b>" * (n // 12) + "</td></i>" * (n // 18)),
    "message with encoded words": (_reads_a_message, lambda n: "Subject: " + "=?utf-8?q?a?= " * (n // 14)),
    "message with many recipients": (_reads_a_message, lambda n: "To: " + "a@b," * (n // 4)),
    "message with open words": (_reads_a_message, lambda n: "Subject: " + "=?a?q?" * (n // 6)),
    "message with a page in alternatives": (
        _reads_a_message,
        lambda n: (
            "Content-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/html\n\n" + "<p>x" * (n // 4)
        ),
    ),
    "mailbox of envelopes": (_reads_a_mailbox, lambda n: "From a 1:00 2000\n\n" * (n // 18)),
    "mailbox of quoted lines": (
        _reads_a_mailbox,
        lambda n: "From a 1:00 2000\n\n" + ">" * (n // 2) + ">From \n" * (n // 14),
    ),
    "message of many lines": (
        _reads_a_message,
        lambda n: "Content-Type: multipart/mixed; boundary=b\n\n--b" + "\n" * n,
    ),
    "paragraphs of an Office file": (_reads_paragraphs, lambda n: "<p><t>a b</t></p>" * (n // 18)),
    "deletions in an Office file": (_reads_paragraphs, lambda n: "<p><del><delText>a</delText></del></p>" * (n // 38)),
    "rows of an OpenDocument sheet": (
        _reads_opendocument,
        lambda n: "<table-row><table-cell><p>a</p></table-cell></table-row>" * (n // 56),
    ),
    "blanks of an OpenDocument text": (_reads_opendocument, lambda n: "<p>" + "<s/>" * (n // 4) + "</p>"),
    "RTF of groups": (_reads_rtf, lambda n: "{\\rtf1 a" + "{\\*\\footnote " * (n // 13)),
    "RTF of fields": (_reads_rtf, lambda n: "{\\rtf1 a" + '{\\field{\\*\\fldinst{HYPERLINK "a' * (n // 31)),
    "RTF of fonts": (_reads_rtf, lambda n: "{\\rtf1 a{\\fonttbl" + "{\\f1\\fcharset0 A" * (n // 16) + "}}b"),
    "RTF of blanks": (_reads_rtf, lambda n: "{\\rtf1 a" + "{ " * (n // 2)),
    "pattern of a schema": (lambda text: best_error({"pattern": "^(a|a)*$"}, text), lambda n: "a" * n + "b"),
    "items that should differ": (
        lambda text: best_error({"uniqueItems": True}, [{"n": at} for at in range(len(text) // 8)]),
        lambda n: " " * n,
    ),
    "message with an open string": (
        lambda text: parts_beyond(text.encode(), 1 << 10),
        lambda n: "," * 2_000 + '"' + '\\"' * (n // 2),
    ),
    "error of a provider": (
        lambda text: Secret("sk-key-0123456789").scrub(refusal_in(400, text).text),
        lambda n: '{"error": "' + "sk- Bearer " * (n // 11) + '"}',
    ),
    "stream of a provider": (
        read,
        lambda n: (
            'data: {"choices": [{"delta": {"content": "a", "tool_calls": [{"index": 0}]}}]}\n\n' * (n // 80)
            + _LAST_EVENT
        ),
    ),
    "event in many lines": (read, lambda n: "data: [\n" + "data: 1,\n" * (n // 9) + "data: 1]\n\n" + _LAST_EVENT),
    "refusal of a prompt": (
        lambda text: window_in(Refusal(status=400, text=text)),
        lambda n: "the prompt of 9000 tokens exceeds the limit of 8192 " * (n // 52),
    ),
    "reply of a provider": (read, lambda n: '{"choices": [{"message": {"content": "' + "a " * (n // 2) + '"}}]}'),
    "fewest tokens of equal letters": (least_tokens, lambda n: "a" * n),
    "fewest tokens of words": (least_tokens, lambda n: "a " * (n // 2)),
    "bytes of a value of many parts": (lambda text: json_bytes([{}] * len(text)), lambda n: " " * n),
    "tries in tries that delegate": (_translates, lambda n: "\x06\x40" * (n // 4) + "\x18\0" * (n // 4) + "\x0b"),
    "tries that delegate out of blocks": (
        _translates,
        lambda n: "\x02\x40" * (n // 8) + "\x06\x40\x18\0" * (n // 8) + "\x0b" * (n // 8) + "\x0b",
    ),
    "try with many handlers": (_translates, lambda n: "\x06\x40" + "\x07\0" * (n // 2) + "\x0b\x0b"),
    "calls that ran ahead": (_finds_calls_ahead, lambda n: " " * (n // 64)),
}


def ratio(work: Callable[[str], object], text: Callable[[int], str], rounds: int = _ROUNDS) -> float:
    """The time for 4n divided by that for n, where n is long enough to be measured; each is the least of `rounds`."""
    n = 1 << 10
    while (longer := seconds_of(work, text(4 * n))) < _LEAST_SECONDS and n < _LONGEST:
        n *= 2
    longer = min(longer, _least(work, text(4 * n), rounds - 1))
    return longer / max(_least(work, text(n), rounds), 1e-9)


def _least(work: Callable[[str], object], text: str, rounds: int) -> float:
    return min(seconds_of(work, text) for _ in range(rounds))


def seconds_of(work: Callable[[str], object], text: str) -> float:
    """Returns the CPU time of this thread that `work` takes for `text`, without collecting the garbage of others."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return _seconds(work, text)
    finally:
        if collects:
            gc.enable()


def _seconds(work: Callable[[str], object], text: str) -> float:
    started = time.thread_time()
    work(text)
    return time.thread_time() - started


def main() -> int:
    worst = 0.0
    ratios = ((name, min(ratio(work, text) for _ in range(2))) for name, (work, text) in PARSERS.items())
    of_operations = (
        (name, min(growth_operations.ratio(name, _OPERATION_SIZE) for _ in range(2)))
        for name in growth_operations.OPERATIONS
    )
    for name, found in chain(ratios, of_operations):
        worst = max(worst, found)
        print(f"{name:<36} {found:5.1f}{'   TOO STEEP' if found > MOST_RATIO else ''}", flush=True)
    return int(worst > MOST_RATIO)


if __name__ == "__main__":
    sys.exit(main())

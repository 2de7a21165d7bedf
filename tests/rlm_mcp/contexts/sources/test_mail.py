import mailbox
import tracemalloc
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path

import pytest

from rlm_mcp.contexts.sources.mail import message
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import PageMark


def registered(store: Store, path: Path) -> tuple[str, tuple[PageMark, ...]]:
    context = store.register_source(str(path))
    return store.text(context), store.file(context).pages


def test_a_mailbox_is_its_messages(store: Store, files: Path) -> None:
    message = EmailMessage()
    message["From"], message["Subject"] = "a@example.com", "Grüße"
    message.set_content("Hello\n")
    message.add_attachment(b"x", maintype="image", subtype="png", filename="p.png")
    box = mailbox.mbox(files / "a.mbox")
    box.add(message)
    box.add(message)
    box.close()
    text, pages = registered(store, files / "a.mbox")
    shown = "From: a@example.com\nSubject: Grüße\n\nHello\n\n[attachment p.png, image/png]\n\n"
    assert text == f"[message 1]\n{shown}[message 2]\n{shown}"
    assert [page.label for page in pages] == ["message 1", "message 2"]
    (files / "a.eml").write_bytes(bytes(message))
    assert registered(store, files / "a.eml")[0] == shown


def multipart(depth: int) -> bytes:
    heads = (b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (at, at) for at in range(depth))
    return b"".join(heads) + b"Content-Type: text/plain\n\nbody\n"


def test_long_headers_are_shown_whole_and_parameters_are_cut(store: Store, files: Path) -> None:
    words = b"=?utf-8?q?a?= " * 20_000
    parameters = b"; x=y" * 2_000
    (files / "a.eml").write_bytes(b"Subject: " + words + b"\nContent-Type: text/plain" + parameters + b"\n\nbody\n")
    context = store.register_source(str(files))
    assert store.text(context, "a.eml") == f"Subject: {'a' * 20_000}\n\nbody\n\n"
    assert context.notes == ("a.eml: headers were cut after 4,096 characters: Content-Type",)


@pytest.mark.parametrize(
    "data",
    [
        multipart(1_000),
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 100_000,
        b"Content-Type: message/rfc822\n\n" * 100_000,
        b"\n" * 2_000_001,
    ],
    ids=["deep", "wide", "messages in messages", "lines"],
)
def test_a_message_of_too_many_parts_is_left_out_by_name(store: Store, files: Path, data: bytes) -> None:
    (files / "a.eml").write_bytes(data)
    (files / "b.txt").write_text("b\n")
    context = store.register_source(str(files))
    assert [(item.path, "has a message of over" in item.reason) for item in store.skipped(context)] == [("a.eml", True)]


@pytest.mark.parametrize("header", ["Subject: {}=?utf-8?q?a?= ", "To: {}a@b,"], ids=["encoded words", "recipients"])
def test_headers_take_memory_in_proportion_to_their_length(header: str) -> None:
    name, part = header.split("{}")
    data = f"{name}{part * 10_000}\n\nbody".encode()
    list(message(BytesIO(b"Subject: a\n\nbody"), Path("a.eml")))  # imports what reads mail
    tracemalloc.start()
    list(message(BytesIO(data), Path("a.eml")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(data)


def test_a_message_that_cannot_be_read_leaves_the_rest_of_a_mailbox(store: Store, files: Path) -> None:
    good = b"From: a@example.com\n\nhello\n\n"
    (files / "a.mbox").write_bytes(b"From a\n" + good + b"From a\n" + multipart(99) + b"From a\n" + good)
    text, pages = registered(store, files / "a.mbox")
    assert [page.label for page in pages] == ["message 1", "message 2", "message 3"]
    assert text.count("hello") == 2
    assert any("message 2: left out: " in note for note in store.get("a.mbox").notes)


@pytest.mark.parametrize("charset", ["punycode", "idna", "no-such", "unicode_escape", "hex"])
def test_a_message_in_no_character_set_is_read_as_utf8(store: Store, files: Path, charset: str) -> None:
    head = f"From: a@example.com\nContent-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: 8bit\n\n"
    (files / "a.eml").write_bytes(head.encode() + "Grüße".encode())
    assert registered(store, files / "a.eml")[0] == "From: a@example.com\n\nGrüße\n\n"
    (note,) = store.get("a.eml").notes
    assert note == f"a.eml: the character set {charset} is unknown: read as utf-8"


ENVELOPE = b"From a@example.org Thu Jan  1 00:00:00 2026\n"


def text_of(store: Store, files: Path, data: bytes, name: str = "a.eml") -> str:
    (files / name).write_bytes(data)
    return registered(store, files / name)[0]


def test_one_bad_message_costs_a_mailbox_nothing_else(store: Store, files: Path) -> None:
    second = b"Subject: second\nContent-Type: text/plain; charset=no-such\n\nhello two\n\n"
    box = b"Subject: first\n\nhello one\n\n", second, b"Subject: third\n\nhello three\n\n"
    text = text_of(store, files, b"".join(ENVELOPE + data for data in box), "a.mbox")
    assert text == (
        "[message 1]\nSubject: first\n\nhello one\n\n"
        "[message 2]\nSubject: second\n\nhello two\n\n"
        "[message 3]\nSubject: third\n\nhello three\n\n"
    )
    assert store.get("a.mbox").notes == ("a.mbox: message 2: the character set no-such is unknown: read as utf-8",)


def test_a_character_set_under_another_name_is_read(store: Store, files: Path) -> None:
    head = b"Content-Type: text/plain; charset=cp-850\nContent-Transfer-Encoding: 8bit\n\n"
    assert text_of(store, files, head + "Grüße".encode("cp850")) == "\nGrüße\n\n"
    assert store.get("a.eml").notes == ("a.eml: the character set cp-850 is unknown: read as cp850",)


def test_forwarded_messages_are_read_and_attachments_counted(store: Store, files: Path) -> None:
    forwarded = EmailMessage()
    forwarded["From"], forwarded["Subject"] = "b@example.com", "the facts"
    forwarded.set_content("They shipped 42.\n")
    forwarded.add_attachment(b"x", maintype="application", subtype="pdf", filename="Ü.pdf")
    message = EmailMessage()
    message["From"], message["Subject"], message["X-Spam"] = "a@example.com", "Fwd: the facts", "no"
    message.set_content("See below.\n")
    message.add_attachment(forwarded)
    message.add_attachment("a,b\n1,2\n", subtype="csv", filename="t.csv")
    assert text_of(store, files, bytes(message)) == (
        "From: a@example.com\nSubject: Fwd: the facts\n\nSee below.\n\n"
        "[forwarded message]\nFrom: b@example.com\nSubject: the facts\n\nThey shipped 42.\n\n"
        "[attachment Ü.pdf, application/pdf]\n[attachment t.csv, text/csv]\na,b\n1,2\n\n"
    )
    assert store.get("a.eml").notes == ("a.eml: left out: other headers (1), attachments of type application/pdf (1)",)


def test_a_page_in_a_message_is_shown_as_text_where_the_plain_part_says_nothing(store: Store, files: Path) -> None:
    page = f"<p>Dear all,<p>{'the full story ' * 20}"
    for plain, expected in (("See the HTML part.", "Dear all,"), ("the full story " * 10, "the full story ")):
        message = EmailMessage()
        message["From"] = "a@example.com"
        message.set_content(plain)
        message.add_alternative(page, subtype="html")
        assert text_of(store, files, bytes(message)).split("\n")[2].startswith(expected)
        assert "<p>" not in store.text(store.get("a.eml"))
        assert store.get("a.eml").notes == ("a.eml: left out: other alternatives (1)",)
        store.remove("a.eml")
    assert text_of(store, files, b"Content-Type: text/html\n\n<p>a<br>b") == "\na\nb\n\n"


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (b"=?utf-8?B?R3LDvMOf?=\n =?utf-8?Q?e_an?= alle", "Grüße an alle"),
        (b"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "日本"),
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("latin-1"), "Grüße"),
        (b"=?utf-8?Q?half_=E2=82?=\n\t=?utf-8?Q?=AC?=", "half €"),
        (b"=?no-such?Q?a=20b?= =?utf-8?B?!!!!?=", "a b"),
    ],
)
def test_headers_are_decoded(store: Store, files: Path, header: bytes, shown: str) -> None:
    assert text_of(store, files, b"Subject: " + header + b"\n\nx\n") == f"Subject: {shown}\n\nx\n\n"


def test_lines_that_begin_with_from_do_not_end_a_message(store: Store, files: Path) -> None:
    body = b"Subject: s\n\n>From here on.\n>>From twice\n\nFrom what I hear: yes\nFrom 10:00 to 11:00\nend\n\n"
    assert text_of(store, files, (ENVELOPE + body) * 2, "a.mbox") == "".join(
        f"[message {number}]\nSubject: s\n\nFrom here on.\n>From twice\n\nFrom what I hear: yes\n"
        "From 10:00 to 11:00\nend\n\n"
        for number in (1, 2)
    )


def test_a_mailbox_without_an_envelope_is_one_message(store: Store, files: Path) -> None:
    assert text_of(store, files, b"Subject: s\n\nhello\n", "a.mbox") == "[message 1]\nSubject: s\n\nhello\n\n"


def test_mail_is_detected_by_its_first_lines_where_the_name_does_not_tell(store: Store, files: Path) -> None:
    message = b"From: a@example.com\nDate: today\nContent-Transfer-Encoding: quoted-printable\n\na=3Db\n"
    (files / "cur").mkdir()
    (files / "cur" / "1700000000.M1P2.host:2,S").write_bytes(message)
    (files / "Inbox").write_bytes((ENVELOPE + message + b"\n") * 2)
    (files / "0001.patch").write_bytes(b"From 0123 Mon Sep 17 00:00:00 2001\n" + message)
    context = store.register_source(str(files))
    assert {entry.path: entry.blob.read_text().count("a=b") for entry in store.files(context)} == {
        "0001.patch": 0,
        "Inbox": 2,
        "cur/1700000000.M1P2.host:2,S": 1,
    }


def test_reports_of_delivery_are_read(store: Store, files: Path) -> None:
    report = (
        b"Content-Type: multipart/report; boundary=b\n\n--b\n\nSorry.\n--b\n"
        b"Content-Type: message/delivery-status\n\nReporting-MTA: dns; a\n\nFinal-Recipient: b\nStatus: 5\n\n--b--\n"
    )
    assert text_of(store, files, report).splitlines() == [
        *("", "Sorry.", "Reporting-MTA: dns; a", "", "Final-Recipient: b", "Status: 5", ""),
    ]

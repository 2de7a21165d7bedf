"""OpenDocument, e-books, RTF, workbooks of before 2007, and what is written on the pages of a PDF."""

import struct
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfWriter
from pypdf.annotations import FreeText
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, TextStringObject

from rlm_mcp.contexts.sources.section import import_parser
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import SourceRefused
from tests.rlm_mcp.contexts.sources.office_files import zipped


def read(store: Store, path: Path, data: bytes) -> tuple[str, tuple[str, ...]]:
    """The text of a document and the notes of its context."""
    path.write_bytes(data)
    context = store.register_source(str(path))
    assert context.kind == "text"
    return store.text(context), context.notes


def opendocument(kind: str, body: str, **parts: str) -> bytes:
    spaces = " ".join(f'xmlns:{name}="urn:{name}"' for name in ("o", "t", "d", "tb", "dc", "p", "svg"))
    written: dict[str, str | bytes] = {
        "mimetype": f"application/vnd.oasis.opendocument.{kind}",
        "content.xml": f"<o:content {spaces}><o:body><o:{kind}>{body}</o:{kind}></o:body></o:content>",
    }
    for name, data in parts.items():
        written[f"{name}.xml"] = f"<o:document-styles {spaces}>{data}</o:document-styles>"
    return zipped(written)


def test_text_of_every_kind_in_an_opendocument_text_is_kept(store: Store, files: Path) -> None:
    body = (
        "<t:tracked-changes><t:changed-region><t:deletion><t:p>gone</t:p></t:deletion></t:changed-region>"
        '</t:tracked-changes><t:h t:outline-level="2">Title</t:h>'
        '<t:p>due in<t:s t:c="2"/><t:span>90</t:span> days<t:note><t:note-citation>1</t:note-citation>'
        "<t:note-body><t:p>a note</t:p></t:note-body></t:note></t:p>"
        "<t:list><t:list-item><t:p>item</t:p></t:list-item></t:list>"
        "<t:p>anchor<d:frame><d:text-box><t:p>in a box</t:p></d:text-box></d:frame></t:p>"
        "<t:p>noted<o:annotation><dc:creator>B</dc:creator><dc:date>2026-01-01</dc:date>"
        "<t:p>a comment</t:p></o:annotation></t:p>"
        "<tb:table><tb:table-row><tb:table-cell><t:p>left</t:p></tb:table-cell><tb:table-cell><t:p>right</t:p>"
        "<tb:table><tb:table-row><tb:table-cell><t:p>inner</t:p></tb:table-cell></tb:table-row></tb:table>"
        "</tb:table-cell></tb:table-row></tb:table><d:frame><d:image/></d:frame>"
    )
    styles = "<o:master-styles><o:header><t:p>at the top</t:p></o:header></o:master-styles>"
    text, notes = read(store, files / "letter", opendocument("text", body, styles=styles))
    assert text == (
        "## Title\ndue in  90 days[1]\n- item\nin a box\nanchor\nnoted[comment 1]\nleft\tright inner\n\n"
        "[notes]\n[1] a note\n\n[comments]\n[comment 1, B] a comment\n\n[headers and footers]\nat the top\n\n"
    )
    assert notes == ("letter: left out: tracked deletions (1), pictures (1)",)


def test_rows_of_an_opendocument_sheet_are_repeated_as_it_says(store: Store, files: Path) -> None:
    def cell(text: str, attributes: str = "") -> str:
        return f"<tb:table-cell {attributes}>{text and f'<t:p>{text}</t:p>'}</tb:table-cell>"

    value = 'o:value-type="float" o:value="1234.5"'
    body = (
        '<tb:table tb:name="S"><tb:table-row>'
        + cell("a")
        + cell("", 'tb:number-columns-repeated="2"')
        + cell("b")
        + '</tb:table-row><tb:table-row tb:number-rows-repeated="2">'
        + cell("1,234", value)
        + "</tb:table-row>"
        "<tb:table-row>" + cell("", 'tb:formula="of:=SUM([.A1])"') + "</tb:table-row>"
        '<tb:table-row tb:number-rows-repeated="1048570">'
        + cell("", 'tb:number-columns-repeated="16384"')
        + "</tb:table-row></tb:table>"
    )
    text, notes = read(store, files / "a.ods", opendocument("spreadsheet", body))
    assert text == "[sheet S]\na\t\t\tb\n1234.5\n1234.5\n=SUM([.A1])\n\n"
    assert notes == ("a.ods: formulas without a computed value, which are shown as formulas: 1",)


def test_slides_of_an_opendocument_presentation_come_with_their_notes(store: Store, files: Path) -> None:
    box = "<d:frame><d:text-box><t:p>%s</t:p></d:text-box></d:frame>"
    page = f"<d:page>{box}<p:notes><t:p>say %s</t:p></p:notes></d:page>"
    text, _ = read(store, files / "a.odp", opendocument("presentation", page % ("A", "a") + page % ("B", "b")))
    assert text == "[slide 1]\nA\nNotes:\nsay a\n\n[slide 2]\nB\nNotes:\nsay b\n\n"


def test_a_sheet_that_repeats_without_end_is_refused(store: Store, files: Path) -> None:
    cell = '<tb:table-cell tb:number-columns-repeated="16384"><t:p>xxxxxxxxxxxxxxxx</t:p></tb:table-cell>'
    row = f'<tb:table-row tb:number-rows-repeated="16384">{cell}</tb:table-row>'
    (files / "a.ods").write_bytes(opendocument("spreadsheet", f'<tb:table tb:name="S">{row}</tb:table>'))
    with pytest.raises(SourceRefused, match="holds over 256 MiB of text"):
        store.register_source(str(files / "a.ods"))


def test_chapters_of_an_e_book_are_read_in_its_order(store: Store, files: Path) -> None:
    item = '<item id="%s" href="%s.xhtml" media-type="application/xhtml+xml"/>'
    listed = item % ("b", "b") + item % ("a", "a%20b") + item % ("gone", "gone") + item % ("extra", "extra")
    order = "".join(f'<itemref idref="{name}"/>' for name in ("a", "b", "gone"))
    parts: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container><rootfile full-path="book/c.opf"/></container>',
        "book/c.opf": f"<package><manifest>{listed}</manifest><spine>{order}</spine></package>",
        "book/a b.xhtml": "<html><body><h1>One</h1><p>first</p></body></html>",
        "book/b.xhtml": "<html><body><p>second</p></body></html>",
        "book/extra.xhtml": "<html><body><p>notes</p></body></html>",
    }
    text, notes = read(store, files / "a.epub", zipped(parts))
    assert text == "[chapter 1]\n# One\n\nfirst\n\n[chapter 2]\nsecond\n\n[chapter 3]\nnotes\n\n"
    assert notes == ("a.epub: left out: chapters that the file does not hold (1)",)


def test_notes_headers_and_text_boxes_of_an_rtf_are_kept(store: Store, files: Path) -> None:
    data = (
        rb"{\rtf1\ansi\ansicpg1250{\fonttbl{\f0 Arial;}}{\header at the top}Za\'bf\'f3\'b3\'e6 {\b bold}"
        rb"{\footnote a note}{\*\annotation a comment}\par {\field{\*\fldinst{HYPERLINK a}}{\fldrslt a link}}"
        rb"{\shp{\*\shpinst{\shptxt in a box}}}\par \u8364? {\pict 0102}\trowd a\cell b\cell\row}"
    )
    text, notes = read(store, files / "a.rtf", data)
    assert text == (
        "[header: at the top]\nZażółć bold[footnote: a note][comment: a comment]\na link[text box: in a box]\n\n"
        "€ a|b|\n\n"
    )
    assert notes == ("a.rtf: left out: pictures (1)",)


def older_workbook() -> bytes:
    """A compound file with one stream, an .xls of a sheet with a text and a number."""

    def record(kind: int, data: bytes) -> bytes:
        return struct.pack("<HH", kind, len(data)) + data

    end = record(0x0A, b"")
    name = b"\x05\x00Sales"
    globals_size = 4 + 16 + 4 + 6 + len(name) + 4
    stream = record(0x809, struct.pack("<HHHHII", 0x600, 5, 0, 0, 0, 6))
    stream += record(0x85, struct.pack("<IBB", globals_size, 0, 0) + name) + end
    stream += record(0x809, struct.pack("<HHHHII", 0x600, 0x10, 0, 0, 0, 6))
    stream += record(0x204, struct.pack("<HHHHB", 0, 0, 0, 5, 0) + b"north")
    stream += record(0x203, struct.pack("<HHHd", 0, 1, 0, 100.0)) + end
    stream = stream.ljust(4096, b"\0")
    chain = [0xFFFFFFFD, 0xFFFFFFFE, *range(3, 10), 0xFFFFFFFE]
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(10)
    header += struct.pack("<IIIIIIIII", 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0, 0) + b"\xff" * 432

    def entry(name: str, kind: int, start: int, size: int, child: int = 0xFFFFFFFF) -> bytes:
        spelled = (name + "\0").encode("utf-16-le")
        links = struct.pack("<HBBIII", len(spelled), kind, 1, 0xFFFFFFFF, 0xFFFFFFFF, child)
        return spelled.ljust(64, b"\0") + links + bytes(36) + struct.pack("<IQ", start, size)

    directory = entry("Root Entry", 5, 0xFFFFFFFE, 0, 1) + entry("Workbook", 2, 2, 4096)
    table = struct.pack(f"<{len(chain)}I", *chain).ljust(512, b"\xff")
    return header + table + directory.ljust(512, b"\0") + stream


def test_a_workbook_of_before_2007_is_read(store: Store, files: Path) -> None:
    text, notes = read(store, files / "a.xls", older_workbook())
    assert text == "[sheet Sales]\nnorth\t100\n\n"
    assert notes == ("a.xls: pictures, charts and drawings of an .xls are not read: save it as .xlsx if they matter",)


def test_forms_and_notes_on_the_pages_of_a_pdf_are_kept(store: Store, files: Path) -> None:
    writer = PdfWriter()
    page = writer.add_blank_page(200, 200)
    writer.add_annotation(0, FreeText(text="check this", rect=(0, 0, 9, 9)))
    field = {"/Type": "/Annot", "/Subtype": "/Widget"}
    widget = DictionaryObject({NameObject(key): NameObject(value) for key, value in field.items()})
    widget[NameObject("/T")], widget[NameObject("/V")] = TextStringObject("name"), TextStringObject("Ada")
    page[NameObject("/Annots")] = ArrayObject([*page["/Annots"], writer._add_object(widget)])  # type: ignore[misc] # any
    writer.add_blank_page(200, 200)
    writer.add_attachment("data.csv", b"1")
    writer.write(files / "a.pdf")
    context = store.register_source(str(files / "a.pdf"))
    shown = "(no text on this page)"
    assert store.text(context) == f"[page 1]\n{shown}\n[note] check this\n[form] name: Ada\n\n[page 2]\n{shown}\n\n"
    assert context.notes == (
        "a.pdf: 1 of 2 pages have no text (2): run OCR if they are scans",
        "a.pdf: attached files are left out: data.csv",
    )


def test_a_document_whose_library_is_missing_names_the_command_that_installs_it() -> None:
    with pytest.raises(SourceRefused, match=r"a\.docx is a document that no_such .*pip install 'rlm-mcp\[documents\]'"):
        import_parser("no_such", Path("a.docx"))


class CompoundFile:
    """Writes a compound file whose streams are all short, so that they lie in the mini stream."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []
        self._mini = b""
        self._chain: list[int] = []

    def write(self, tree: dict[str, Any]) -> bytes:
        """A file of these streams and storages."""
        self._entries = [b""]
        child = self._add_all(tree)
        sectors = -(-len(self._mini) // 512)
        directory_sectors = -(-len(self._entries) // 4)
        self._entries[0] = self._entry("Root Entry", 5, 2 + directory_sectors, len(self._mini), child, FREE)
        chain = [0xFFFFFFFD, END_OF_CHAIN]
        chain += [*range(3, 2 + directory_sectors), END_OF_CHAIN]
        chain += [*range(3 + directory_sectors, 2 + directory_sectors + sectors), END_OF_CHAIN]
        header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16)
        header += struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(10)
        header += struct.pack("<IIIIIIIII", 1, 2, 0, 4096, 1, 1, END_OF_CHAIN, 0, 0) + b"\xff" * 432
        table = struct.pack(f"<{len(chain)}I", *chain).ljust(512, b"\xff")
        mini_table = struct.pack(f"<{len(self._chain)}I", *self._chain).ljust(512, b"\xff")
        directory = b"".join(self._entries).ljust(512 * directory_sectors, b"\0")
        return header + table + mini_table + directory + self._mini.ljust(512 * sectors, b"\0")

    def _add_all(self, tree: dict[str, Any]) -> int:
        """Adds what a storage holds, each entry to the right of the one before it; the number of the first."""
        first = FREE
        for name, content in reversed(tree.items()):
            number = len(self._entries)
            self._entries.append(b"")
            if isinstance(content, dict):
                self._entries[number] = self._entry(name, 1, 0, 0, self._add_all(content), first)
            else:
                start = len(self._mini) // 64
                self._mini += content.ljust(-(-len(content) // 64) * 64, b"\0")
                self._chain += [*range(start + 1, len(self._mini) // 64), END_OF_CHAIN]
                self._entries[number] = self._entry(name, 2, start, len(content), FREE, first)
            first = number
        return first

    def _entry(self, name: str, kind: int, start: int, size: int, child: int, right: int) -> bytes:
        spelled = (name + "\0").encode("utf-16-le")
        links = struct.pack("<HBBIII", len(spelled), kind, 1, FREE, right, child)
        return spelled.ljust(64, b"\0") + links + bytes(36) + struct.pack("<IQ", start, size)


FREE, END_OF_CHAIN = 0xFFFFFFFF, 0xFFFFFFFE


def properties(header: bytes, texts: dict[int, str], numbers: dict[int, int]) -> dict[str, bytes]:
    """The streams of the properties of a message, recipient or attachment."""
    records = [struct.pack("<HHIII", 0x1F, key, 6, 2 * len(text) + 2, 0) for key, text in texts.items()]
    records += [struct.pack("<HHIII", 3, key, 6, number, 0) for key, number in numbers.items()]
    streams = {f"__substg1.0_{key:04X}001F": text.encode("utf-16-le") for key, text in texts.items()}
    return {**streams, "__properties_version1.0": header + b"".join(records)}


def test_a_message_of_outlook_is_read(store: Store, files: Path) -> None:
    tree = {
        "__nameid_version1.0": {"__substg1.0_00020102": b"\0" * 16},
        "__recip_version1.0_#00000000": properties(bytes(8), {0x3001: "Bea", 0x39FE: "b@example.com"}, {0x0C15: 1}),
        "__recip_version1.0_#00000001": properties(bytes(8), {0x3001: "Cem", 0x39FE: "c@example.com"}, {0x0C15: 2}),
        "__attach_version1.0_#00000000": properties(bytes(8), {0x3707: "p.png", 0x370E: "image/png"}, {0x3705: 1}),
        **properties(
            bytes(8) + struct.pack("<IIII", 2, 1, 2, 1) + bytes(8),
            {0x0037: "Grüße", 0x0C1A: "Ann", 0x0C1F: "a@example.com", 0x1000: "Hello\r\nall\r\n", 0x001A: "IPM.Note"},
            {},
        ),
    }
    text, notes = read(store, files / "a.msg", CompoundFile().write(tree))
    assert text == (
        'From: "Ann" <a@example.com>\nTo: "Bea" <b@example.com>\nCc: "Cem" <c@example.com>\nSubject: Grüße\n\n'
        "Hello\nall\n[attachment p.png, image/png]\n\n"
    )
    assert notes == ("a.msg: left out: attachments of type image/png (1)",)

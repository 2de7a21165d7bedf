import io
import zipfile
from pathlib import Path

import pptx
import pytest
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import SourceRefused
from tests.rlm_mcp.contexts.sources.office_files import (
    CHART,
    DRAWING,
    SHEET,
    docx,
    office,
    paragraph,
    relations,
    row,
    run,
    table,
    xlsx,
    zipped,
)


def read(store: Store, path: Path, data: bytes) -> tuple[str, tuple[str, ...]]:
    """The text of a document and the notes of its context."""
    path.write_bytes(data)
    context = store.register_source(str(path))
    assert context.kind == "text"
    return store.text(context), context.notes


def test_a_word_document_keeps_headings_lists_and_tables(store: Store, files: Path) -> None:
    styles = '<w:style w:type="paragraph" w:styleId="H2"><w:name w:val="heading 2"/></w:style>'
    heading = f'<w:p><w:pPr><w:pStyle w:val="H2"/></w:pPr>{run("Title")}</w:p>'
    body = heading + paragraph("A paragraph.") + table([paragraph("left"), paragraph("right") + paragraph("below")])
    text, notes = read(store, files / "a.docx", docx(body, styles=styles))
    assert text == "## Title\nA paragraph.\nleft\tright below\n\n"
    assert notes == ()


def test_text_of_every_kind_in_a_word_document_is_kept(store: Store, files: Path) -> None:
    body = (
        f'<w:p>{run("Payment is due within ")}<w:ins w:id="1" w:author="A">{run("90")}</w:ins>'
        '<w:del w:id="2" w:author="A"><w:r><w:delText>30</w:delText></w:r></w:del>'
        f'{run(" days.")}<w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
        f"<w:sdt><w:sdtContent>{paragraph('in a control')}</w:sdtContent></w:sdt>"
        f"<w:p><w:r><w:pict><v:shape><v:textbox><w:txbxContent>{paragraph('in a box')}</w:txbxContent></v:textbox>"
        "</v:shape></w:pict></w:r></w:p>"
        f'<w:p><w:fldSimple w:instr=" MERGEFIELD a > b ">{run("in a field")}</w:fldSimple></w:p>'
        + table([paragraph("outer") + table([paragraph("inner")])])
        + f'<w:p>{run("noted")}<w:r><w:commentReference w:id="7"/></w:r></w:p>'
    )
    comment = f'<w:comment w:id="7" w:author="B">{paragraph("a comment")}</w:comment>'
    unmarked = f'<w:comment w:id="8" w:author="C">{paragraph("another")}</w:comment>'
    parts = {
        "footnotes": f'<w:footnote w:id="2">{paragraph("a note")}</w:footnote>',
        "comments": comment + unmarked,
        "header": paragraph("at the top"),
        "footer": paragraph("at the bottom"),
    }
    text, notes = read(store, files / "a.docx", docx(body, **parts))
    assert text.split("\n\n") == [
        "Payment is due within 90 days.[footnote 1]\nin a control",
        "in a box\nin a field\nouter inner\nnoted[comment 1]",
        "[footnotes]\n[footnote 1] a note",
        "[comments]\n[comment 1, B] a comment\n[comment 2, C] another",
        "[headers]\nat the top",
        "[footers]\nat the bottom",
        "",
    ]
    assert notes == ("a.docx: left out: tracked deletions (1)",)


def test_text_that_the_library_leaves_aside_follows_the_rest(store: Store, files: Path) -> None:
    formula = '<m:oMath xmlns:m="math"><m:r><m:t>E=mc2</m:t></m:r></m:oMath>'
    chart = (
        f'<?xml version="1.0"?><c:chartSpace xmlns:c="{CHART}"><c:ser><c:tx><c:v>Sales</c:v></c:tx>'
        '<c:cat><c:strCache><c:pt idx="0"><c:v>Q1</c:v></c:pt></c:strCache></c:cat>'
        '<c:val><c:numCache><c:pt idx="0"><c:v>7</c:v></c:pt></c:numCache></c:val></c:ser></c:chartSpace>'
    )
    diagram = f'<?xml version="1.0"?><d xmlns:a="{DRAWING}"><a:p><a:r><a:t>step one</a:t></a:r></a:p></d>'
    picture = '<w:p><w:r><w:drawing><wp:inline xmlns:wp="wp"/></w:drawing></w:r></w:p>'
    data = docx(paragraph("text") + f"<w:p>{formula}</w:p>" + picture, chart=chart, diagramData=diagram)
    text, _ = read(store, files / "a.docx", data)
    assert text == (
        "text\n\n\n[charts]\nSales\tQ1: 7\n\n[diagrams]\nstep one\n\n[other text]\nE=mc2\n\n".replace("\n\n\n", "\n\n")
    )


def test_fields_of_a_form_are_shown_and_addresses_of_links_counted(store: Store, files: Path) -> None:
    def field(word: str, data: str) -> str:
        return (
            f'<w:r><w:fldChar w:fldCharType="begin"><w:ffData>{data}</w:ffData></w:fldChar></w:r>'
            f'<w:r><w:instrText> {word} </w:instrText></w:r><w:r><w:fldChar w:fldCharType="end"/></w:r>'
        )

    box = field("FORMCHECKBOX", "<w:checkBox><w:checked/></w:checkBox>")
    entries = '<w:result w:val="1"/><w:listEntry w:val="red"/><w:listEntry w:val="blue"/>'
    chosen = field("FORMDROPDOWN", f"<w:ddList>{entries}</w:ddList>")
    link = f'<w:hyperlink w:anchor="here">{run("inside")}</w:hyperlink>'
    begin, separate, end = (f'<w:r><w:fldChar w:fldCharType="{at}"/></w:r>' for at in ("begin", "separate", "end"))
    address = '<w:r><w:instrText> HYPERLINK "http://a.example" </w:instrText></w:r>'
    link += begin + address + separate + run("outside") + end
    body = f"<w:p>{box}{run('agreed')}</w:p><w:p>{run('colour ')}{chosen}</w:p><w:p>{link}</w:p>"
    text, notes = read(store, files / "a.docx", docx(body))
    assert text == "[x]agreed\ncolour \ninsideoutside\n\n[other text]\ncolour blue\n\n"
    assert notes == ("a.docx: left out: addresses of links (1)",)


def test_fields_that_nest_without_end_take_linear_time(store: Store, files: Path) -> None:
    begin = '<w:r><w:fldChar w:fldCharType="begin"/></w:r>'
    text, _ = read(store, files / "a.docx", docx(f"<w:p>{begin * 5_000}{run('text')}</w:p>"))
    assert text == "text\n\n"


def test_a_document_that_the_library_cannot_lay_out_is_read_as_paragraphs(store: Store, files: Path) -> None:
    deep = 300
    body = "<w:tbl><w:tr><w:tc>" * deep + paragraph("deep inside") + "</w:tc></w:tr></w:tbl>" * deep
    text, notes = read(store, files / "a.docx", docx(paragraph("above") + body))
    assert text == "above\ndeep inside\n\n"
    assert len(notes) == 1
    assert notes[0].startswith("a.docx: it is read without tables and headings, as mammoth cannot read it (")


def test_a_document_of_too_many_elements_is_read_as_paragraphs(store: Store, files: Path) -> None:
    text, notes = read(store, files / "a.docx", docx(paragraph("text"), styles="<a/>" * 800_000))
    assert text == "text\n\n"
    assert "as mammoth cannot read it (it has over 800,000 tags)" in notes[0]


def slide_of_every_kind() -> bytes:
    """A presentation with a group, a table, a chart, speaker notes and a comment."""
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = "Plan", "First step"
    group = slide.shapes.add_group_shape()
    group.shapes.add_group_shape().shapes.add_textbox(0, 0, 9, 9).text_frame.text = "in a group"
    cells = slide.shapes.add_table(1, 2, 0, 0, 9, 9).table
    cells.cell(0, 0).text, cells.cell(0, 1).text = "left", "right"
    chart = CategoryChartData()  # type: ignore[no-untyped-call] # of python-pptx
    chart.categories = ["Q1", "Q2"]
    chart.add_series("Sales", (7, 9))  # type: ignore[no-untyped-call] # likewise
    slide.shapes.add_chart(XL_CHART_TYPE.PIE, 0, 0, 9, 9, chart)
    slide.notes_slide.notes_text_frame.text = "say hello"
    file = io.BytesIO()
    presentation.save(file)
    return file.getvalue()


def test_text_of_every_kind_on_a_slide_is_kept(store: Store, files: Path) -> None:
    text, notes = read(store, files / "a.pptx", slide_of_every_kind())
    assert text == ("[slide 1]\nPlan\nFirst step\nin a group\nleft\tright\nSales\tQ1: 7\tQ2: 9\nNotes: say hello\n\n")
    assert notes == ()


@pytest.mark.parametrize("kind", ["presentation.macroEnabled", "slideshow", "template"])
def test_slide_shows_templates_and_files_with_macros_are_presentations(store: Store, files: Path, kind: str) -> None:
    with zipfile.ZipFile(io.BytesIO(slide_of_every_kind())) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    types = parts["[Content_Types].xml"].replace(b"presentation.main+xml", f"{kind}.main+xml".encode())
    text, _ = read(store, files / "a.ppsx", zipped({**parts, "[Content_Types].xml": types}))
    assert "in a group" in text


def test_slides_that_the_library_cannot_read_are_read_as_paragraphs(store: Store, files: Path) -> None:
    slide = f'<s xmlns:a="{DRAWING}"><a:p><a:r><a:t>%s</a:t></a:r></a:p></s>'
    parts: dict[str, str | bytes] = {
        "ppt/presentation.xml": "<presentation/>",
        "ppt/slides/slide10.xml": slide % "last",
        "ppt/slides/slide2.xml": slide % "first",
        "ppt/slides/_rels/slide2.xml.rels": relations(
            comments="../comments/c1.xml", diagramData="../d.xml", chartEx="../x.xml"
        ),
        "ppt/comments/c1.xml": "<cmLst><cm><text>a comment</text></cm></cmLst>",
        "ppt/d.xml": slide % "in a diagram",
        "ppt/x.xml": "<c><strDim><pt>a</pt></strDim><numDim><pt>1</pt></numDim><series><v>Flow</v></series></c>",
    }
    text, notes = read(store, files / "a.pptx", office("ppt/presentation.xml", parts))
    assert text == "[slide 1]\nfirst\nComment: a comment\nin a diagram\na\n1\nFlow\n\n[slide 2]\nlast\n\n"
    assert "as python-pptx cannot read them" in notes[0]


def test_all_rows_of_a_sheet_are_read_whatever_size_it_claims(store: Store, files: Path) -> None:
    rows = row(1, "region", "amount") + row(2, "north", "<v>100</v>") + row(4, "west", "<v>1.5</v>")
    text, notes = read(store, files / "a.xlsx", xlsx({"Sales": rows, "Other": row(1, "x")}))
    assert text == "[sheet Sales]\nregion\tamount\nnorth\t100\n\nwest\t1.5\n\n[sheet Other]\nx\n\n"
    assert notes == ()


def test_a_formula_is_its_value_and_without_one_itself(store: Store, files: Path) -> None:
    rows = row(1, "<f>1+1</f><v>2</v>", "<f>SUM(A1:A9)</f><v></v>")
    empty = '<row r="2"><c r="A2" t="str"><f>IF(B1=0,"",B1)</f><v></v></c><c r="B2"><v>7</v></c></row>'
    text, notes = read(store, files / "a.xlsx", xlsx({"S": rows + empty}))
    assert text == "[sheet S]\n2\t=SUM(A1:A9)\n\t7\n\n"
    assert notes == ("a.xlsx: formulas without a computed value, which are shown as formulas: 1",)


def test_comments_and_drawings_of_a_sheet_follow_its_rows(store: Store, files: Path) -> None:
    parts: dict[str, str | bytes] = {
        "xl/worksheets/_rels/sheet1.xml.rels": relations(comments="../comments1.xml", drawing="../drawings/d.xml"),
        "xl/comments1.xml": (
            f'<comments xmlns="{SHEET}"><comment ref="B2"><text><t>check this</t></text></comment></comments>'
        ),
        "xl/drawings/d.xml": f'<w xmlns:a="{DRAWING}"><a:p><a:r><a:t>in a box</a:t></a:r></a:p></w>',
        "xl/drawings/_rels/d.xml.rels": relations(image="../media/i.png"),
        "xl/media/i.png": b"...",
    }
    text, notes = read(store, files / "a.xlsm", xlsx({"S": row(1, "x")}, parts))
    assert text == "[sheet S]\nx\nComment on B2: check this\nin a box\n\n"
    assert notes == ("a.xlsm: left out: pictures (1)",)


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("letter", docx(paragraph("Dear all")), "Dear all\n\n"),
        ("letter.dat", docx(paragraph("Dear all")), "Dear all\n\n"),
        ("wrong.pdf", docx(paragraph("Dear all")), "Dear all\n\n"),
        ("book.docx", xlsx({"S": row(1, "x")}), "[sheet S]\nx\n\n"),
        ("old.doc", rb"{\rtf1 Dear all}", "Dear all\n\n"),
        ("table.xls", b"a\tb\n", "a\tb\n"),
    ],
)
def test_the_content_decides_what_a_file_is(store: Store, files: Path, name: str, data: bytes, text: str) -> None:
    assert read(store, files / name, data) == (text, ())


def test_documents_in_a_directory_are_found_without_suffix(store: Store, files: Path) -> None:
    (files / "letter").write_bytes(docx(paragraph("Dear all")))
    context = store.register_source(str(files))
    assert (store.text(context, "letter"), store.skipped(context)) == ("Dear all\n\n", ())


def test_a_package_of_another_kind_is_an_archive(store: Store, files: Path) -> None:
    (files / "a.nupkg").write_bytes(zipped({"_rels/.rels": relations(), "lib/readme.txt": "hello\n"}))
    context = store.register_source(str(files / "a.nupkg"))
    assert [file.path for file in store.files(context)] == ["_rels/.rels", "lib/readme.txt"]


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
BOMB = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><document>&b;</document>'


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.docx", OLE + "EncryptedPackage\0".encode("utf-16-le"), "is encrypted: save a copy without a password"),
        ("a.doc", OLE + "WordDocument\0".encode("utf-16-le"), r"before 2007 \(\.doc\): save it as \.docx"),
        ("a.ppt", OLE + "PowerPoint Document\0".encode("utf-16-le"), r"\(\.ppt\): save it as \.pptx"),
        ("a.xlsb", office("xl/workbook.xml", {"xl/workbook.bin": b""}), r"\.xlsb\), which cannot be read here: save"),
        ("a.docx", b"PK\x03\x04 no", "is damaged or cut short"),
        ("a.docx", zipped({"[Content_Types].xml": "<Types/>"}), "holds no document, sheet or slides: name it .zip"),
        ("a.docx", office("word/document.xml", {"word/document.xml": BOMB}), "declares entities .*as bombs do"),
        ("a.docx", docx("<w:p>" * 2_000 + "</w:p>" * 2_000), "nests elements over 1,000 deep"),
        ("a.docx", docx("")[:-30], "is damaged or cut short"),
        ("a.pptx", office("ppt/presentation.xml", {"ppt/presentation.xml": "<presentation/>"}), "without slides"),
        ("a.docx", docx(""), "is empty: there is nothing to register"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_document_that_cannot_be_read_says_why(
    store: Store, files: Path, name: str, data: bytes, reason: str
) -> None:
    (files / name).write_bytes(data)
    with pytest.raises(SourceRefused, match=reason):
        store.register_source(str(files / name))


def test_a_document_that_expands_too_much_is_refused(store: Store, files: Path) -> None:
    (files / "a.docx").write_bytes(zipped({"word/document.xml": b"\0" * (65 << 20)}))
    with pytest.raises(SourceRefused, match="expands more than 250 times"):
        store.register_source(str(files / "a.docx"))

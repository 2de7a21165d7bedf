"""Office files written part by part, as other programs than the libraries that read them would write them."""

import io
import zipfile

RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SLIDE = "http://schemas.openxmlformats.org/presentationml/2006/main"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
CHART = "http://schemas.openxmlformats.org/drawingml/2006/chart"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPES = "application/vnd.openxmlformats-officedocument"


def zipped(parts: dict[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data, zipfile.ZIP_STORED if name == "mimetype" else None)
    return file.getvalue()


def office(main: str, parts: dict[str, str | bytes]) -> bytes:
    """An Office file whose main part is `main`."""
    kinds = {
        "word/document.xml": f"{_TYPES}.wordprocessingml.document.main+xml",
        "ppt/presentation.xml": f"{_TYPES}.presentationml.presentation.main+xml",
        "xl/workbook.xml": f"{_TYPES}.spreadsheetml.sheet.main+xml",
    }
    overrides = f'<Override PartName="/{main}" ContentType="{kinds[main]}"/>'
    for name in parts:
        for folder, kind in (
            ("ppt/slides/slide", "presentationml.slide"),
            ("xl/worksheets/sheet", "spreadsheetml.worksheet"),
            ("ppt/slideMasters/", "presentationml.slideMaster"),
            ("ppt/slideLayouts/", "presentationml.slideLayout"),
        ):
            if name.startswith(folder) and name.endswith(".xml"):
                overrides += f'<Override PartName="/{name}" ContentType="{_TYPES}.{kind}+xml"/>'
    types = (
        f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="xml" ContentType="application/xml"/>'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f"{overrides}</Types>"
    )
    return zipped({"[Content_Types].xml": types, "_rels/.rels": relations(officeDocument=main), **parts})


def relations(**targets: str) -> str:
    """The relations of a part: kind to target."""
    items = "".join(
        f'<Relationship Id="r{number}" Type="{RELATIONS}/{kind.rstrip("0123456789")}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets.items(), 1)
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{items}</Relationships>'


def docx(body: str, **parts: str) -> bytes:
    """A Word document; further parts by their kinds, as in `footnotes=…`."""
    space = f'xmlns:w="{WORD}" xmlns:r="{RELATIONS}" xmlns:v="urn:schemas-microsoft-com:vml"'
    written: dict[str, str | bytes] = {
        "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>",
        "word/_rels/document.xml.rels": relations(**{kind: f"{kind}.xml" for kind in parts}),
    }
    for kind, data in parts.items():
        written[f"word/{kind}.xml"] = data if data.startswith("<?") else f"<w:{kind} {space}>{data}</w:{kind}>"
    return office("word/document.xml", written)


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(text: str) -> str:
    return f"<w:p>{run(text)}</w:p>"


def table(*rows: list[str]) -> str:
    """A table of cells that hold blocks."""
    cells = ("".join(f"<w:tc>{cell}</w:tc>" for cell in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def xlsx(sheets: dict[str, str], parts: dict[str, str | bytes] | None = None) -> bytes:
    """A workbook of sheets, each given as its rows."""
    listed = "".join(
        f'<sheet name="{name}" sheetId="{number}" r:id="r{number}"/>' for number, name in enumerate(sheets, 1)
    )
    targets = {f"worksheet{number}": f"worksheets/sheet{number}.xml" for number in range(1, len(sheets) + 1)}
    written: dict[str, str | bytes] = {
        "xl/workbook.xml": f'<workbook xmlns="{SHEET}" xmlns:r="{RELATIONS}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations(**targets),
    }
    for number, rows in enumerate(sheets.values(), 1):
        written[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{SHEET}"><dimension ref="A1"/><sheetData>{rows}</sheetData></worksheet>'
        )
    return office("xl/workbook.xml", {**written, **(parts or {})})


def row(number: int, *cells: str) -> str:
    """A row of cells, each given as what is inside `<c>`; a text stands in its own place."""
    written = (
        f'<c r="{chr(65 + at)}{number}"{"" if cell.startswith("<") else " t=" + chr(34) + "inlineStr" + chr(34)}>'
        f"{cell if cell.startswith('<') else f'<is><t>{cell}</t></is>'}</c>"
        for at, cell in enumerate(cells)
    )
    return f'<row r="{number}">{"".join(written)}</row>'

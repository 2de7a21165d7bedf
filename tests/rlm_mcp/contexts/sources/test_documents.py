import json
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import PageMark
from rlm_mcp.errors import SourceRefused


def registered(store: Store, path: Path) -> tuple[str, tuple[PageMark, ...]]:
    context = store.register_source(str(path))
    assert context.kind == "text"
    return store.text(context), store.file(context).pages


def pdf(*texts: str) -> bytes:
    """Writes a PDF with one line of text on each page by hand: no library here can do that."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(texts)))
    objects += [f"<< /Type /Pages /Kids [{kids}] /Count {len(texts)} >>".encode()]
    objects += [b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    for n, text in enumerate(texts):
        stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
        resources = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 200 200]"
        objects += [f"<< /Type /Page /Parent 2 0 R {resources} /Contents {5 + 2 * n} 0 R >>".encode()]
        objects += [f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream".encode()]
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    return data + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}".encode()


def test_pages_of_a_pdf_are_marked_and_a_line_knows_its_page(store: Store, files: Path) -> None:
    (files / "a.pdf").write_bytes(pdf("first page", "second page"))
    text, pages = registered(store, files / "a.pdf")
    assert text == "[page 1]\nfirst page\n\n[page 2]\nsecond page\n\n"
    assert pages == (PageMark(line=1, label="page 1"), PageMark(line=4, label="page 2"))
    context = store.get("a.pdf")
    assert [store.locate_line(context, line).page for line in (1, 2, 3, 4, 6)] == [
        "page 1",
        "page 1",
        "page 1",
        "page 2",
        "page 2",
    ]


def test_a_scanned_pdf_says_that_it_has_no_text(store: Store, files: Path) -> None:
    (files / "a.pdf").write_bytes(pdf("", ""))
    with pytest.raises(SourceRefused, match=r"has no text on its 2 pages: run OCR on it first"):
        store.register_source(str(files / "a.pdf"))


def test_a_web_page_in_a_directory_is_source_code(store: Store, files: Path) -> None:
    (files / "a.html").write_text("<p>text")
    assert store.text(store.register_source(str(files)), "a.html") == "<p>text"


def test_a_notebook_is_cells_and_their_output(store: Store, files: Path) -> None:
    output = {"output_type": "execute_result", "data": {"text/plain": ["2"], "image/png": "…"}}
    cells = [
        {"cell_type": "markdown", "source": ["# Hi"]},
        {"cell_type": "code", "source": "1 + 1", "outputs": [output]},
    ]
    (files / "a.ipynb").write_text(json.dumps({"cells": cells}))
    text = "[cell 1, markdown]\n# Hi\n\n[cell 2, code]\n1 + 1\n--- output ---\n2\n\n"
    assert registered(store, files / "a.ipynb")[0] == text


@pytest.mark.parametrize(("name", "head"), [("a.pdf", b"%PDF-1.4 and then nothing"), ("a.ipynb", b"{")])
def test_a_damaged_document_is_refused(store: Store, files: Path, name: str, head: bytes) -> None:
    (files / name).write_bytes(head)
    with pytest.raises(SourceRefused, match=r"cannot be read as a document .*export it as text"):
        store.register_source(str(files / name))

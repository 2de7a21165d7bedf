"""PDF: the text layer of every page, with the values of forms and the notes of readers.

A scanned page has no text layer, and is marked as such.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rlm_mcp.contexts.sources.notes import Omissions, one_line
from rlm_mcp.contexts.sources.package import encrypted
from rlm_mcp.contexts.sources.section import Section, import_parser
from rlm_mcp.errors import SourceRefused

_NO_TEXT = "(no text on this page)"
_PARENTS_DEEP = 20


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The pages of a PDF."""
    pypdf = import_parser("pypdf", path)
    reader = pypdf.PdfReader(file)
    if reader.is_encrypted and not reader.decrypt(""):
        raise encrypted(path)
    omitted = Omissions()
    empty: list[int] = []
    for number, page in enumerate(reader.pages, 1):
        text = _text(page, number, omitted)
        written = list(_written_on(page, omitted))
        omitted.add("pictures", _pictures(page))
        if not text.strip() and not written:
            empty.append(number)
        yield Section(label=f"page {number}", text="\n".join([text.strip("\n") or _NO_TEXT, *written]))
    if len(empty) == len(reader.pages):
        raise SourceRefused(
            f"{path} has no text on its {_pages(len(empty))}: run OCR on it first and register the result"
        )
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (", …" if len(empty) > 10 else "")
        omitted.say(f"{len(empty):,} of {_pages(len(reader.pages))} have no text ({shown}): run OCR if they are scans")
    if _has_xfa(reader):
        omitted.say("it is an XFA form, whose values may differ from what is shown")
    yield Section(note=omitted.note())
    yield Section(note=_attached(reader))


def _text(page: Any, number: int, omitted: Omissions) -> str:
    """The text of a page; a page that pypdf cannot read leaves the rest of the document."""
    try:
        return str(page.extract_text())
    except Exception as error:  # noqa: BLE001 - a parser may raise any
        omitted.say(f"page {number} cannot be read ({one_line(error)})")
        return ""


def _written_on(page: Any, omitted: Omissions) -> Iterator[str]:
    """The values of form fields and the notes of readers on a page."""
    try:
        for reference in page.get("/Annots") or ():
            annotation = reference.get_object()
            kind = annotation.get("/Subtype")
            if kind == "/Widget":
                name, value = _inherited(annotation, "/T"), _value(_inherited(annotation, "/V"))
                if value:
                    yield f"[form] {name or 'field'}: {value}"
            elif kind == "/FileAttachment":
                omitted.add("attached files", 1)
            elif kind == "/Link":
                action = annotation.get("/A")
                omitted.add("addresses of links", action is not None and "/URI" in action.get_object())
            elif kind != "/Popup" and (text := _value(annotation.get("/Contents"))):
                yield f"[note] {text}"
    except Exception as error:  # noqa: BLE001 - a damaged annotation leaves the text of its page
        omitted.say(f"notes and form fields of a page cannot be read ({one_line(error)})")


def _inherited(field: Any, key: str) -> Any:
    """An attribute of a form field, or that of the field that it is a part of."""
    for _ in range(_PARENTS_DEEP):
        if field is None:
            break
        if key in field:
            return field[key].get_object()
        parent = field.get("/Parent")
        field = parent.get_object() if parent is not None else None
    return None


def _value(value: Any) -> str:
    if value is None or value == "/Off":
        return ""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_value, value)))
    data = value.get_data() if hasattr(value, "get_data") else value
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
    return " ".join(text.removeprefix("/").split())


def _pictures(page: Any) -> int:
    try:
        objects = page["/Resources"].get_object().get("/XObject", {}).get_object()
        return sum(item.get_object().get("/Subtype") == "/Image" for item in objects.values())
    except Exception:  # noqa: BLE001 - a page without resources, or a damaged one
        return 0


def _has_xfa(reader: Any) -> bool:
    try:
        return "/XFA" in reader.root_object["/AcroForm"].get_object()
    except Exception:  # noqa: BLE001 - a file without forms, or a damaged one
        return False


def _attached(reader: Any) -> str | None:
    try:
        names = sorted(reader.attachments)
    except Exception:  # noqa: BLE001 - a damaged list of attachments
        return None
    return f"attached files are left out: {one_line(ValueError(', '.join(names)))}" if names else None


def _pages(count: int) -> str:
    return f"{count:,} page" if count == 1 else f"{count:,} pages"

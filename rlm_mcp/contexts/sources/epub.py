"""E-books (EPUB): the chapters in reading order, each as the text of a web page."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote

from rlm_mcp.contexts.sources.notes import Omissions
from rlm_mcp.contexts.sources.package import DocumentPackage
from rlm_mcp.contexts.sources.section import Section, decode_document
from rlm_mcp.contexts.sources.webpage import visible_text
from rlm_mcp.errors import SourceRefused

_TEXTS = frozenset({"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"})


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The chapters of an .epub, with their titles if they have any."""
    package = DocumentPackage(file, path)
    omitted = Omissions()
    if "META-INF/encryption.xml" in package and b"EncryptedKey" in package.read("META-INF/encryption.xml"):
        raise SourceRefused(f"{path} is protected by DRM: register a copy without it")
    number = 0
    for name in _reading_order(package, omitted):
        number += 1
        page, note = decode_document(package.read(name), None)
        yield Section(label=f"chapter {number}", text=visible_text(page, omitted), note=note)
    if not number:
        raise SourceRefused(f"{path} is an e-book without chapters: export it as text and register that")
    yield Section(note=omitted.note())


def _reading_order(package: DocumentPackage, omitted: Omissions) -> Iterator[str]:
    rootfile = next(package.tree("META-INF/container.xml").iter("rootfile"), None)
    book = "" if rootfile is None else rootfile.get("full-path", "")
    if book not in package:
        return
    tree = package.tree(book)
    folder = PurePosixPath(book).parent
    items = {item.get("id"): item for item in tree.iter("item")}
    in_order = [items[found] for reference in tree.iter("itemref") if (found := reference.get("idref")) in items]
    rest = [item for item in items.values() if item.get("media-type") in _TEXTS and item not in in_order]
    omitted.add("pictures", sum(item.get("media-type", "").startswith("image/") for item in items.values()))
    for item in in_order:
        if item.get("media-type") not in _TEXTS:
            omitted.add("chapters that are no text", 1)
    for item in [*in_order, *rest]:
        name = str(folder / unquote(item.get("href", "")))
        if item.get("media-type") in _TEXTS and "nav" not in item.get("properties", "").split():
            if name in package:
                yield name
            else:
                omitted.add("chapters that the file does not hold", 1)

"""Packages: the zip files that Office and OpenDocument files and e-books are, read within bounds.

Their XML comes from anybody, so it may not declare entities, and each part is unpacked up to a bound.
"""

import os
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast
from urllib.parse import unquote
from xml.etree import ElementTree as ET
from xml.parsers import expat

from rlm_mcp.contexts.sources.compressed import check_ratio, damaged
from rlm_mcp.errors import SourceRefused

MAX_TREE_BYTES = 16 << 20
"""For a part that is held as a tree, which takes about fifty times as much memory."""
MAX_TAGS = 800_000
"""For all parts that a library holds as trees: a document of about 800 pages."""
MAX_PARTS = 50_000
_MAX_NESTED = 1_000
_CHUNK_BYTES = 1 << 18
_COMMON = rb"http://schemas.openxmlformats.org/\1/2006/\2"
_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/(\w+)")
"""The names of ISO's strict variant of Office Open XML; all readers know those of the common one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A part that another one refers to: the last word of the type, and the name of the part."""

    kind: str
    target: str


class DocumentPackage:
    """An open package. `path` is for errors; reading a part raises SourceRefused."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise damaged(path, error) from error
        infos = self._archive.infolist()
        self.names = [info.filename for info in infos]
        if any(info.flag_bits & 1 for info in infos):
            raise encrypted(path)
        if len(infos) > MAX_PARTS:
            raise SourceRefused(f"{path} has over {MAX_PARTS:,} parts: export it as text and register that")
        check_ratio(path.name, produced=sum(info.file_size for info in infos), consumed=file.seek(0, os.SEEK_END))
        self._sizes = {info.filename: info.file_size for info in infos}

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def size(self, name: str) -> int:
        """The unpacked size of a part; 0 if there is none of that name."""
        return self._sizes.get(name, 0)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a part, from its beginning."""
        try:
            with self._archive.open(name) as part:
                while data := part.read(_CHUNK_BYTES):
                    yield data
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise damaged(self.path / name, error) from error

    def check_size(self, name: str) -> None:
        """Raises SourceRefused for a part that is too large to be held as a tree."""
        if self.size(name) > MAX_TREE_BYTES:
            raise SourceRefused(
                f"{self.path} has a part {name} of over {MAX_TREE_BYTES >> 20} MiB: export it as text and register that"
            )

    def read(self, name: str) -> bytes:
        """The content of a part that is small enough to be held in memory."""
        self.check_size(name)
        return b"".join(self.chunks(name))

    def tree(self, name: str) -> ET.Element:
        """A small part as a tree, in which names have no namespaces."""
        builder = ET.TreeBuilder()
        self.parse(
            name,
            start=builder.start,
            end=builder.end,
            data=builder.data,
            chunks=iter([self.read(name)]),
        )
        return builder.close()

    def parse(
        self,
        name: str,
        *,
        start: Callable[[str, dict[str, str]], object],
        end: Callable[[str], object],
        data: Callable[[str], object],
        chunks: Iterator[bytes] | None = None,
    ) -> None:
        """Reads a part of any length. Elements and attributes are given without their namespaces."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        nested = 0

        def start_element(tag: str, attributes: dict[str, str]) -> None:
            nonlocal nested
            nested += 1
            if nested > _MAX_NESTED:
                raise SourceRefused(
                    f"{self.path} nests elements over {_MAX_NESTED:,} deep in {name}: export it as text"
                )
            start(_local(tag), {_local(key): value for key, value in attributes.items()})

        def end_element(tag: str) -> None:
            nonlocal nested
            nested -= 1
            end(_local(tag))

        def refuse_entities(*_: object) -> None:
            raise SourceRefused(f"{self.path} declares entities in {name}, as bombs do: export it as text")

        parser.StartElementHandler, parser.EndElementHandler = start_element, end_element
        parser.CharacterDataHandler, parser.EntityDeclHandler = data, refuse_entities
        try:
            for chunk in chunks or self.chunks(name):
                parser.Parse(chunk)
            parser.Parse(b"", True)  # noqa: FBT003 - a positional parameter
        except expat.ExpatError as error:
            raise damaged(self.path / name, error) from error

    def related(self, name: str) -> list[Relation]:
        """What a part refers to inside the package, in order; "" for the package itself."""
        folder, _, base = name.rpartition("/")
        rels = posixpath.join(folder, "_rels", f"{base}.rels")
        if rels not in self:
            return []
        return [
            Relation(
                kind=item.get("Type", "").rpartition("/")[2],
                target=posixpath.normpath(posixpath.join("/", folder, unquote(item.get("Target", "")))).lstrip("/"),
            )
            for item in self.tree(rels)
            if item.get("TargetMode") != "External"
        ]

    def count_links(self, name: str) -> int:
        """How many addresses outside the package a part has links to."""
        folder, _, base = name.rpartition("/")
        rels = posixpath.join(folder, "_rels", f"{base}.rels")
        items = self.tree(rels) if rels in self else ()
        return sum(
            item.get("TargetMode") == "External" and item.get("Type", "").endswith("/hyperlink") for item in items
        )

    def main_part(self, names: Iterable[re.Pattern[str]] = ()) -> str | None:
        """The part that an Office file is about; without a relation to it, one with a name like those given."""
        related = (item.target for item in self.related("") if item.kind == "officeDocument")
        named = (name for pattern in names for name in self.names if pattern.fullmatch(name))
        return next((name for name in (*related, *named) if name in self), None)

    def is_strict(self) -> bool:
        """Whether this is of the strict variant of Office Open XML."""
        return "_rels/.rels" in self and _STRICT.search(self.read("_rels/.rels")) is not None

    def plain_copy(self, rewrite: Callable[[str, bytes], bytes] = lambda _, data: data) -> BinaryIO:
        """A copy for libraries that hold all parts: without pictures, in the common names for strict ones.

        Raises ValueError when that would take too much memory.
        """
        with ExitStack() as opened:
            copy = cast("BinaryIO", opened.enter_context(SpooledTemporaryFile(max_size=MAX_TREE_BYTES)))
            with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name, data in self._plain_parts():
                    archive.writestr(name, rewrite(name, data))
            copy.seek(0)
            opened.pop_all()  # the caller closes it
        return copy

    def _plain_parts(self) -> Iterator[tuple[str, bytes]]:
        left = MAX_TAGS
        for name in dict.fromkeys(self.names):
            is_read = name.endswith((".xml", ".rels")) and self.size(name) <= MAX_TREE_BYTES
            data = _STRICT.sub(_COMMON, self.read(name)) if is_read else b""
            left -= data.count(b"<")
            if left < 0:
                raise ValueError(f"it has over {MAX_TAGS:,} tags")
            yield name, data


def encrypted(path: Path) -> SourceRefused:
    """The error for a document that asks for a password."""
    return SourceRefused(f"{path} is encrypted: save a copy without a password and register that")


def _local(name: str) -> str:
    return name.rpartition(" ")[2]

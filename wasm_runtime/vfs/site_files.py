"""The files of packages in the guest's site-packages: the members of a zip in which they are stored, not compressed."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from wasm_runtime.vfs.mounted_files import HostFile, MountSource
from wasm_runtime.vfs.shared_files import SITE_PACKAGES

# A local file header: 30 bytes, then the name. `write_site` writes no extra fields.
_HEADER_BYTES = 30
_WRITTEN_AT = (2026, 1, 1, 0, 0, 0)  # constant, so that equal files give equal archives


class ZipMember:
    """One stored member, read from its archive."""

    mtime_ns: int | None = 0

    def __init__(self, archive: HostFile, start: int, size: int) -> None:
        self._archive, self._start, self.size = archive, start, size

    def read_into(self, offset: int, target: memoryview) -> int:
        """Read from the archive; EIO if that has changed."""
        return self._archive.read_into(self._start + offset, target)


def site_files(path: Path) -> Mapping[str, MountSource]:
    """Return the members of an archive that `write_site` has written, by their path in the guest."""
    archive = HostFile(path)
    with zipfile.ZipFile(path) as opened:
        return {
            f"{SITE_PACKAGES}/{entry.filename}": ZipMember(
                archive, entry.header_offset + _HEADER_BYTES + len(entry.filename.encode()), entry.file_size
            )
            for entry in opened.infolist()
        }


def write_site(path: Path, files: Mapping[str, bytes]) -> None:
    """Write an archive of files by their path below site-packages."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _WRITTEN_AT), data)

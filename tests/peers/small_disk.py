"""A disk of 2 MiB that can be filled and freed, for tests and benchmarks of a full disk. Needs the right to mount."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = b"x" * 4096


class SmallDisk:
    """A disk of 2 MiB."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self._filler = directory / "filler"

    def fill(self, *, leave: int = 0) -> None:
        """Fills the disk, except for `leave` bytes."""
        with self._filler.open("wb", buffering=0) as file:
            try:
                while file.write(PAGE) == len(PAGE):
                    pass
            except OSError:
                file.truncate(max(0, file.tell() - leave))

    def free(self) -> None:
        """Frees what `fill` took."""
        self._filler.unlink()

    def files(self) -> set[str]:
        """The files in the data directory but for what is only there while a process is."""
        found = {str(path.relative_to(self.data)) for path in self.data.rglob("*") if path.is_file()}
        return {name for name in found if "/holders/" not in name and not name.endswith(("-wal", "-shm"))}


class CannotMount(Exception):
    """This process may not mount a disk."""


@contextmanager
def small_disk(where: Path) -> Iterator[SmallDisk]:
    """Mounts the disk in a new directory. Raises CannotMount."""
    where.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(  # noqa: S603 - a fixed command
            [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)], capture_output=True, check=False
        ).returncode
    ):
        raise CannotMount
    try:
        yield SmallDisk(where)
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)  # noqa: S603, S607 - a fixed command

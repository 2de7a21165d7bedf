"""Files that all guests share: seen by every tree, changed by none."""

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.filesystem import Vfs
from wasm_runtime.vfs.flags import AT_FDCWD, O_CREAT, O_DIRECTORY, O_RDONLY, O_WRONLY
from wasm_runtime.vfs.mounted_files import BytesSource, MountSource
from wasm_runtime.vfs.quota import FixedQuota
from wasm_runtime.vfs.shared_files import SharedFiles

FILES = {"/usr/lib/a.py": b"a", "/usr/lib/deep/b.py": b"bb", "/usr/share/c": b"ccc"}


class Listing:
    """Lists `FILES`, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, MountSource]:
        self.calls += 1
        return {path: BytesSource(data) for path, data in FILES.items()}


def new_vfs(shared: SharedFiles) -> Vfs:
    return Vfs(clock=lambda: 0, quota=FixedQuota(1 << 20), shared=shared)


def names(vfs: Vfs, path: bytes) -> list[bytes]:
    entries = vfs.getdents(vfs.openat(AT_FDCWD, path, O_DIRECTORY), 1 << 16)
    assert not isinstance(entries, int)
    return [entry.name for entry in entries]


def read(vfs: Vfs, path: bytes) -> bytes | int:
    fd = vfs.openat(AT_FDCWD, path, O_RDONLY)
    return fd if fd < 0 else vfs.pread(fd, 100, 0)


def test_every_tree_sees_the_shared_files_which_are_listed_once_on_first_use() -> None:
    listing = Listing()
    shared = SharedFiles([listing])
    first, second = new_vfs(shared), new_vfs(shared)
    assert listing.calls == 0
    assert {path: read(vfs, path.encode()) for vfs in (first, second) for path in FILES} == FILES
    assert names(first, b"/usr/lib") == [b".", b"..", b"a.py", b"deep"]
    assert listing.calls == 1


def test_the_guest_can_change_nothing_in_them() -> None:
    vfs = new_vfs(SharedFiles([Listing()]))
    assert vfs.openat(AT_FDCWD, b"/usr/lib/new", O_CREAT | O_WRONLY, 0o666) == -Errno.EROFS
    assert vfs.openat(AT_FDCWD, b"/usr/lib/a.py", O_WRONLY) == -Errno.EROFS
    assert vfs.unlinkat(AT_FDCWD, b"/usr/lib/a.py", 0) == -Errno.EROFS
    assert vfs.fchmodat(AT_FDCWD, b"/usr/lib/a.py", 0o777) == -Errno.EROFS


def test_the_host_mounts_beside_them_in_one_tree_only() -> None:
    shared = SharedFiles([Listing()])
    first, second = new_vfs(shared), new_vfs(shared)
    first.mount("/usr/lib/deep/own.py", b"own")
    assert names(first, b"/usr/lib/deep") == [b".", b"..", b"b.py", b"own.py"]
    assert names(second, b"/usr/lib/deep") == [b".", b"..", b"b.py"]


def test_they_survive_clone_undo_dump_and_close_of_a_tree() -> None:
    shared = SharedFiles([Listing()])
    vfs = new_vfs(shared)
    fd = vfs.openat(AT_FDCWD, b"/usr/share/c", O_RDONLY)
    assert vfs.chdir(b"/usr/lib/deep") == 0
    mark = vfs.mark()
    vfs.undo(mark)
    clone, loaded = vfs.clone(quota=FixedQuota(1 << 20)), new_vfs(shared)
    loaded.load(vfs.dump())
    vfs.close()
    for other in (clone, loaded):
        assert (other.pread(fd, 100, 0), other.getcwd(), read(other, b"b.py")) == (b"ccc", b"/usr/lib/deep", b"bb")


def test_a_tree_without_shared_files_has_an_empty_usr() -> None:
    assert names(new_vfs(SharedFiles()), b"/usr") == [b".", b".."]

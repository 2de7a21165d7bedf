"""Files of this machine with texts of buckets, so that a text is fetched once and then read like any file.

    texts/0/OWNER/ab/ab….txt        a text of a cluster, with its line index if it is large (blobs.py)
    texts/0/s3/ab/ab….txt           the text of an object that a context references, by the hash of its reference
    texts/0/incoming/               what is being fetched
    texts/0/boot                    the start of the machine since which it was written
    texts/0.lock                    locked by the process that has this cache

Each process has a cache of its own, the first that no other has locked: one that is restarted finds what it had. A
cache keeps up to a number of bytes. The texts used longest ago make room for others, except those that are held (their
`LocalText` exists): a search or a sandbox reads those, so all that it reads may together exceed the bound.
"""

import contextlib
import hashlib
import os
import shutil
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Self

from rlm_mcp.contexts.store.blobs import INDEXED_ABOVE_BYTES, FileBlobs, LocalText, StagedText, disk_errors
from rlm_mcp.contexts.store.staging import StagingArea
from rlm_mcp.contexts.text.encoding import UTF8
from rlm_mcp.contexts.text.line_index import build_index
from rlm_mcp.errors import StoreDamaged, StoreFull
from rlm_mcp.files import try_lock

MOST_BYTES = 20 << 30

FREE_SHARE = 4
"""By default a cache takes at most a quarter of the free disk."""

OBJECTS = "s3"
"""In the place of an owner, for objects that contexts reference: they belong to nobody."""

_INCOMING = "incoming"

_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Linux has it."""

Key = tuple[str, str]
"""Whose text it is, as the name of a directory, and its hash."""


class TextDiffers(StoreDamaged):
    """What was fetched is not the text that was asked for."""


class TextCache:
    """The cache of one process. Any thread may use it."""

    def __init__(self, directory: Path, *, most_bytes: int | None = None) -> None:
        """`most_bytes` is by default MOST_BYTES, or a quarter of what is free. Raises StoreDamaged."""
        self._root = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._directory, self._lock_file = _first_free(directory)
            shutil.rmtree(self._directory / _INCOMING, ignore_errors=True)
            _forget_earlier_boots(self._directory)
            (self._directory / _INCOMING).mkdir(parents=True, exist_ok=True)
            self._sizes: OrderedDict[Key, int] = OrderedDict(_found(self._directory))
            self.bytes = sum(self._sizes.values())
            """the size of all texts in the cache"""
            available = shutil.disk_usage(directory).free + self.bytes
            self.most_bytes = most_bytes or min(MOST_BYTES, available // FREE_SHARE)
        except OSError as error:
            raise StoreDamaged(
                f"{directory} cannot be used for texts of buckets ({error.strerror}): check its permissions, or set"
                " RLM_MCP_CACHE_DIR to another directory"
            ) from error
        self._held: weakref.WeakValueDictionary[Key, LocalText] = weakref.WeakValueDictionary()
        self._owners: dict[str, FileBlobs] = {}
        self._lock = threading.RLock()
        self._fetching: weakref.WeakValueDictionary[Key, threading.Lock] = weakref.WeakValueDictionary()
        self._numbers = count(1)

    def __repr__(self) -> str:
        return f"<TextCache {self._directory}, {self.bytes:,} of {self.most_bytes:,} bytes>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the cache to the next process."""
        os.close(self._lock_file)

    def files(self, owner: str) -> FileBlobs:
        """The texts of an owner that are there."""
        with self._lock:
            if owner not in self._owners:
                self._owners[owner] = FileBlobs(self._directory / owner)
            return self._owners[owner]

    def hold(self, key: Key, size: int, fetch: Callable[[], Iterator[bytes]], *, is_hash: bool = True) -> LocalText:
        """A text, whose file stays for the life of the returned object; `fetch` gives the bytes if it is not there.

        `is_hash` says that the key has the hash of the text, with which what was fetched is compared.
        Raises TextDiffers, StoreFull if the disk has no room, StoreDamaged, and what `fetch` raises.
        """
        with self._lock:
            one_at_a_time = self._fetching.setdefault(key, threading.Lock())
        with one_at_a_time:
            return self.hold_if_there(key, size) or self._fetch(key, size, fetch, is_hash=is_hash)

    def keep(self, owner: str, staged: StagedText) -> None:
        """Moves a staged text into the cache, if there is room for it. Otherwise it can be fetched."""
        with self._lock, contextlib.suppress(OSError):  # another file system, or a full disk
            self._make_room(staged.counts.bytes)
            if self.bytes + staged.counts.bytes <= self.most_bytes:
                self._publish(owner, staged)

    def has(self, key: Key) -> bool:
        """Whether a text is probably in the cache."""
        return key in self._sizes

    def keys(self) -> list[Key]:
        """All texts in the cache."""
        with self._lock:
            return list(self._sizes)

    def forget(self, keys: Iterable[Key]) -> None:
        """Deletes those of these texts that nobody holds."""
        for key in keys:
            with self._lock:
                if key not in self._held:
                    self._drop(key)

    def _drop(self, key: Key) -> None:
        with contextlib.suppress(OSError):
            self.bytes -= self._sizes.pop(key, 0)
            self.files(key[0]).delete([key[1]])

    def hold_if_there(self, key: Key, size: int) -> LocalText | None:
        """The same for a text that is there, else None."""
        with self._lock:
            if key not in self._sizes:
                return None
            try:
                found = self.files(key[0]).local_text(key[1], size)
            except StoreDamaged:  # somebody has deleted or changed the file
                if self._sizes[key] != size:
                    raise
                self._drop(key)
                return None
            self._sizes.move_to_end(key)
            return self._held.setdefault(key, found)

    def _fetch(self, key: Key, size: int, fetch: Callable[[], Iterator[bytes]], *, is_hash: bool) -> LocalText:
        with self._lock:
            self._make_room(size)
        try:
            return self._fetched(key, size, fetch, is_hash=is_hash)
        except StoreFull:
            with self._lock:
                self._make_room(self.most_bytes)  # the disk has less room than the cache may take
        try:
            return self._fetched(key, size, fetch, is_hash=is_hash)
        except StoreFull as error:
            raise StoreFull(
                f"the disk of {self._root} is full, so that a text of {size:,} bytes cannot be fetched: free some"
                " space, or set RLM_MCP_CACHE_DIR to a directory on another disk; nothing is lost"
            ) from error

    def _fetched(self, key: Key, size: int, fetch: Callable[[], Iterator[bytes]], *, is_hash: bool) -> LocalText:
        if size <= INDEXED_ABOVE_BYTES:
            staged = _stage_at_once(b"".join(fetch()), self._incoming())
            try:
                return self._keep_fetched(key, size, staged, is_hash=is_hash)
            finally:
                staged.path.unlink(missing_ok=True)
        with StagingArea(self.files(key[0]), self._incoming(), room_bytes=None) as staging:
            return self._keep_fetched(key, size, staging.stage_utf8(fetch()), is_hash=is_hash)

    def _keep_fetched(self, key: Key, size: int, staged: StagedText, *, is_hash: bool) -> LocalText:
        owner, blob = key
        found = staged.counts.bytes
        if not is_hash:
            staged = replace(staged, blob=blob)
        if staged.blob != blob:
            raise TextDiffers(f"{found:,} bytes came that are not text {blob}")
        if found != size:
            raise StoreDamaged(f"text {blob} has {found:,} bytes instead of {size:,}: register it again")
        with self._lock, disk_errors():
            self._make_room(size)  # once more: others were fetched at the same time
            self._publish(owner, staged)
            text = self._held[key] = LocalText(self.files(owner).path(blob))
            return text

    def _publish(self, owner: str, staged: StagedText) -> None:
        files, key, size = self.files(owner), (owner, staged.blob), staged.counts.bytes
        files.place([staged], check=int)
        files.publish([staged], check=int)
        self.bytes += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self._sizes.move_to_end(key)

    def _make_room(self, size: int) -> None:
        """Deletes texts that nobody holds, those used longest ago first, until there is room for so many bytes."""
        excess = self.bytes + size - self.most_bytes
        if excess <= 0:
            return
        for key in list(self._sizes):
            if excess <= 0:
                return
            if key not in self._held:
                excess -= self._sizes[key]
                self._drop(key)

    def _incoming(self) -> Path:
        return self._directory / _INCOMING / str(next(self._numbers))


OpenTextCache = Callable[[], TextCache]
"""Gives the cache of a process. Raises StoreDamaged where its directory cannot be used."""


class LateTextCache:
    """The cache of one process, which is opened when the first text is looked for."""

    def __init__(self, directory: Path, *, most_bytes: int | None = None) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._opened: TextCache | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LateTextCache {self._opened or self._directory}>"

    def __call__(self) -> TextCache:
        """The open cache. Raises StoreDamaged where its directory cannot be used."""
        with self._lock:
            if self._opened is None:
                self._opened = TextCache(self._directory, most_bytes=self._most_bytes)
            return self._opened

    def close(self) -> None:
        """Leaves the cache to the next process."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def _stage_at_once(data: bytes, path: Path) -> StagedText:
    """Writes a small text. A staging area, with a directory of its own, would take longer than to fetch it."""
    with disk_errors():
        path.write_bytes(data)
    blob = hashlib.sha256(data).hexdigest()
    return StagedText(blob=blob, path=path, index=build_index(data), encoding=UTF8, invalid_bytes=0, nuls=0)


def _first_free(directory: Path) -> tuple[Path, int]:
    """The first cache that no process has, and the descriptor of its lock."""
    for number in count():
        descriptor = os.open(directory / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if try_lock(descriptor):
            return directory / str(number), descriptor
        os.close(descriptor)
    raise AssertionError


def _forget_earlier_boots(directory: Path) -> None:
    """Deletes what was written before the machine was started: nothing is flushed to the disk, so it may be damaged."""
    directory.mkdir(exist_ok=True)
    this = _BOOT.read_text() if _BOOT.exists() else ""
    noted = directory / "boot"
    if not noted.exists() or noted.read_text() != this:
        shutil.rmtree(directory)
        directory.mkdir()
        noted.write_text(this)


def _found(directory: Path) -> list[tuple[Key, int]]:
    """The texts that an earlier process has left, with their sizes, those that came first in front."""
    files = [(path, path.stat()) for path in directory.glob("*/??/*.txt")]
    files.sort(key=lambda file: file[1].st_ctime_ns)
    return [((path.parent.parent.name, path.stem), facts.st_size) for path, facts in files]

"""The content of a guest's file: reading, writing and truncating chunks, with every byte charged to the quota.

A file passed to `write_at` or `set_length` must be of the tree's current epoch (`Tree.own`); its chunks may
be older, and are copied before they change. A chunk that a mark still needs stays charged until the mark is dropped.
Invariant: a chunk's data never extends beyond the file's length.
"""

from __future__ import annotations

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.nodes import CHUNK, Chunk, MemoryFile
from wasm_runtime.vfs.tree import Tree

# Charged for a chunk in addition to its data: the objects and the table entry that hold it.
CHUNK_COST = 256
LONGEST_FILE = 1 << 40


def read_at(file: MemoryFile, offset: int, target: memoryview) -> int:
    """Copy the file's bytes from offset on into target; return how many."""
    n = min(len(target), file.length - offset)
    done = 0
    while done < n:
        index, at = divmod(offset + done, CHUNK)
        span = min(CHUNK - at, n - done)
        chunk = file.chunks.get(index)
        have = 0 if chunk is None else max(0, min(len(chunk.data) - at, span))
        if chunk is not None and have:
            target[done : done + have] = memoryview(chunk.data)[at : at + have]
        if have < span:
            target[done + have : done + span] = bytes(span - have)
        done += span
    return max(0, n)


def write_at(tree: Tree, file: MemoryFile, offset: int, data: memoryview) -> int:
    """Write data at offset; return how many bytes the quota allowed, or a negated `Errno`."""
    total = len(data)
    if offset + total > LONGEST_FILE:
        return -Errno.EFBIG
    done = 0
    while done < total:
        index, at = divmod(offset + done, CHUNK)
        span = min(CHUNK - at, total - done)
        held = _writable(tree, file, index, at + span)
        if held is None:
            break
        piece = data if span == total else data[done : done + span]
        have = len(held)
        if at > have:
            held.extend(bytes(at - have))
            have = at
        if at == have:
            held += piece
        elif at + span <= have:
            memoryview(held)[at : at + span] = piece
        else:
            held[at:] = piece
        done += span
    if done == 0 and total:
        return -Errno.ENOSPC
    file.length = max(file.length, offset + done)
    return done


def set_length(tree: Tree, file: MemoryFile, length: int) -> int:
    """Truncate the file, or extend it by a hole that is not charged. Return 0 or a negated `Errno`."""
    if length > LONGEST_FILE:
        return -Errno.EFBIG
    if length < file.length:
        for index in [index for index in file.chunks if index * CHUNK >= length]:
            chunk = file.chunks.pop(index)
            tree.drop(len(chunk.data) + CHUNK_COST, chunk.epoch)
        index, at = divmod(length, CHUNK)
        last = file.chunks.get(index)
        if last is not None and len(last.data) > at:
            _shorten(tree, file, index, last, at)
    file.length = length
    return 0


def discard(tree: Tree, file: MemoryFile) -> None:
    """Release what the chunks of a file are charged, for a file that leaves the tree."""
    for chunk in file.chunks.values():
        tree.drop(len(chunk.data) + CHUNK_COST, chunk.epoch)


def _writable(tree: Tree, file: MemoryFile, index: int, needed: int) -> bytearray | None:
    """Return the chunk's data, writable and charged for `needed` bytes, or None when the quota does not allow that."""
    chunk = file.chunks.get(index)
    if chunk is None:
        if not tree.reserve(CHUNK_COST + needed):
            return None
        fresh = Chunk(tree.epoch, bytearray())
        file.chunks[index] = fresh
        return fresh.data
    have = len(chunk.data)
    growth = max(0, needed - have)
    if chunk.epoch == tree.epoch:
        return chunk.data if not growth or tree.reserve(growth) else None
    kept = have + CHUNK_COST if tree.is_kept(chunk.epoch) else 0
    if not tree.reserve(growth + kept):
        return None
    tree.keep(kept)
    copy = Chunk(tree.epoch, bytearray(chunk.data))
    file.chunks[index] = copy
    return copy.data


def _shorten(tree: Tree, file: MemoryFile, index: int, chunk: Chunk, at: int) -> None:
    surplus = len(chunk.data) - at
    if chunk.epoch == tree.epoch:
        del chunk.data[at:]
    else:
        file.chunks[index] = Chunk(tree.epoch, chunk.data[:at])
        # Truncating must not fail for lack of space: what the quota may refuse here is less than one chunk per file.
        if tree.is_kept(chunk.epoch) and tree.reserve(at):
            tree.keep(at)
    tree.drop(surplus, chunk.epoch)

"""The key of a file's content, by which it is recognised under any name."""

import hashlib
import os
from typing import BinaryIO

WHOLE_BYTES = 8 << 20
PART_BYTES = 1 << 20
"""The beginning, the middle and the end of a larger file are read: a hash of all would take as long as its reading."""


def content_key(file: BinaryIO) -> bytes:
    """32 bytes that are the same for the same content. The file is then at its beginning."""
    size = file.seek(0, os.SEEK_END)
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    places = [0] if size <= WHOLE_BYTES else [0, size // 2, size - PART_BYTES]
    for at in places:
        file.seek(at)
        digest.update(file.read(WHOLE_BYTES if size <= WHOLE_BYTES else PART_BYTES))
    file.seek(0)
    return digest.digest()

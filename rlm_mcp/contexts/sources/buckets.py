"""Objects and prefixes in S3-compatible buckets as sources, and what a source needs of a bucket."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rlm_mcp.bucket_address import SCHEME, BucketAddress, is_bucket_name
from rlm_mcp.errors import SourceRefused

MAX_KEY_BYTES = 1_024
"""Of S3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    """An object as a listing shows it. `modified` is its time, for stores that give no ETag."""

    key: str
    size: int
    etag: str
    modified: str

    @property
    def version(self) -> str:
        """What another object under the same key would not have."""
        return self.etag or f"{self.size} bytes of {self.modified}"


class SourceBucket(Protocol):
    """A bucket that can be read. All methods block. Raises SourceUnreachable, SourceRefused where access is denied."""

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        """The objects below a prefix, without what the prefix itself names as an object."""

    def find(self, key: str) -> ListedObject | None:
        """An object, None if there is none."""

    def read(self, key: str, start: int, end: int) -> tuple[ListedObject, bytes]:
        """The bytes `[start:end]` of an object, and which version they are of. Raises SourceChanged if it is gone."""

    def pieces(self, key: str, size: int) -> Iterator[tuple[ListedObject, bytes]]:
        """The bytes of an object of this size in order, and of which version each piece is. Raises SourceChanged."""


def parse_objects(source: str) -> tuple[BucketAddress, bool]:
    """The address that a source has, and whether only a prefix can be meant. Raises SourceRefused."""
    bucket, _, key = source[len(SCHEME) :].partition("/")
    if not is_bucket_name(bucket) or not source.isprintable() or len(key.encode()) > MAX_KEY_BYTES:
        raise SourceRefused(
            "the address of the source names no bucket, or a key with control characters or over 1,024 bytes: write"
            " s3://BUCKET/PREFIX"
        )
    if any(part in {"", ".", ".."} for part in key.removesuffix("/").split("/")) and key.strip("/"):
        raise SourceRefused(
            f"the key {key[:200]!r} has an empty or relative part, which is not read: name a prefix above it"
        )
    return BucketAddress(bucket=bucket, prefix=key.strip("/")), not key or key.endswith("/")

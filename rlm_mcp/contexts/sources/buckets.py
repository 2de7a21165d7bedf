"""Objects and prefixes in S3-compatible buckets: their addresses, and what a source needs of a bucket."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rlm_mcp.errors import SettingsError, SourceRefused

SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][\w.-]{1,254}")
MAX_KEY_BYTES = 1_024
"""Of S3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketAddress:
    """A bucket, and a prefix or key in it; endpoint and credentials come from the variables AWS_*."""

    bucket: str
    prefix: str = ""

    @property
    def shown(self) -> str:
        """As in the settings."""
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def covers(self, other: "BucketAddress") -> bool:
        """Whether another address is this one or below it."""
        is_below = not self.prefix or f"{other.prefix}/".startswith(f"{self.prefix}/")
        return self.bucket == other.bucket and is_below


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


def is_bucket_source(source: str) -> bool:
    """Whether a source names objects of a bucket."""
    return source[: len(SCHEME)].lower() == SCHEME


def parse_objects(source: str) -> tuple[BucketAddress, bool]:
    """The address that a source has, and whether only a prefix can be meant. Raises SourceRefused."""
    bucket, _, key = source[len(SCHEME) :].partition("/")
    if _BUCKET.fullmatch(bucket) is None or not source.isprintable() or len(key.encode()) > MAX_KEY_BYTES:
        raise SourceRefused(
            "the address of the source names no bucket, or a key with control characters or over 1,024 bytes: write"
            " s3://BUCKET/PREFIX"
        )
    if any(part in {"", ".", ".."} for part in key.removesuffix("/").split("/")) and key.strip("/"):
        raise SourceRefused(
            f"the key {key[:200]!r} has an empty or relative part, which is not read: name a prefix above it"
        )
    return BucketAddress(bucket=bucket, prefix=key.strip("/")), not key or key.endswith("/")


def parse_bucket(url: str, source: str) -> BucketAddress:
    """The bucket and the prefix that a setting has. Raises SettingsError, without what may be secret."""
    text = url.strip()
    bucket, _, prefix = text[len(SCHEME) :].partition("/")
    if "@" in bucket or "?" in text:
        raise SettingsError(
            f"{source} contains more than a bucket and a prefix: write s3://BUCKET/PREFIX, and set AWS_ACCESS_KEY_ID,"
            " AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL for the rest"
        )
    if not is_bucket_source(text) or _BUCKET.fullmatch(bucket) is None:
        raise SettingsError(f"{source} is not the address of a bucket: write s3://BUCKET/PREFIX")
    return BucketAddress(bucket=bucket, prefix=prefix.strip("/"))

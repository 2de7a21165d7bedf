"""Addresses of objects and prefixes in S3-compatible buckets, and which of them may be sources.

Whoever may register a source could otherwise read every bucket that the server's keys open. So none is a source unless
the operator has named it, and the place where a cluster keeps texts never is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
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


class Bucket(Protocol):
    """A bucket that can be read. All methods block. Raises SourceUnreachable, SourceRefused where access is denied."""

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        """The objects below a prefix, without what the prefix itself names as an object."""

    def find(self, key: str) -> ListedObject | None:
        """An object, None if there is none."""

    def read(self, key: str, start: int, end: int) -> tuple[ListedObject, bytes]:
        """The bytes `[start:end]` of an object, and which version they are of. Raises SourceChanged if it is gone."""

    def pieces(self, key: str, size: int) -> Iterator[tuple[ListedObject, bytes]]:
        """The bytes of an object of this size in order, and of which version each piece is. Raises SourceChanged."""


class OpenBucket(Protocol):
    """Opens a bucket. Raises SourceRefused where that is not possible."""

    def __call__(self, name: str) -> Bucket:
        """`name` is that of the bucket."""


def open_s3(name: str) -> Bucket:
    """The bucket of this name, by the variables AWS_*. Raises SourceRefused if the package for it is missing."""
    try:
        from rlm_mcp.contexts.sources.s3_bucket import S3Bucket
    except ImportError as error:
        raise SourceRefused(
            f"{SCHEME}{name} needs obstore, which is not installed: `pip install 'rlm-mcp[s3]'`"
        ) from error
    return S3Bucket(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketAccess:
    """Which objects may be sources: those below `allowed`, except those that a cluster keeps in `own`."""

    allowed: tuple[BucketAddress, ...] = ()
    own: BucketAddress | None = None
    open: OpenBucket = open_s3
    _opened: dict[str, Bucket] = field(default_factory=dict, compare=False, repr=False)

    def bucket(self, address: BucketAddress) -> Bucket:
        """The bucket with this address, if it may be read. Raises SourceRefused."""
        self.check(address)
        if address.bucket not in self._opened:
            self._opened[address.bucket] = self.open(address.bucket)
        return self._opened[address.bucket]

    def check(self, address: BucketAddress) -> None:
        """Raises SourceRefused for what may not be a source."""
        if not any(allowed.covers(address) for allowed in self.allowed):
            named = ", ".join(allowed.shown for allowed in self.allowed) or "none are allowed"
            raise SourceRefused(
                f"{address.shown} is not below what may be read from buckets ({named}): the operator may add it to"
                " RLM_MCP_S3_SOURCES"
            )
        if self.own is not None and (self.own.covers(address) or address.covers(self.own)):
            raise SourceRefused(
                f"{address.shown} holds the texts of this cluster (RLM_MCP_BLOBS), which are no source: name a prefix"
                " beside them"
            )


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

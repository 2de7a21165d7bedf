"""Which objects of buckets may be sources.

Whoever may register a source could otherwise read every bucket that the server's keys open. So none is a source unless
the operator has named it, and the place where a cluster keeps texts never is.
"""

from dataclasses import dataclass, field
from typing import Protocol

from rlm_mcp.bucket_address import SCHEME, BucketAddress
from rlm_mcp.contexts.sources.buckets import SourceBucket
from rlm_mcp.errors import SourceRefused


class OpenBucket(Protocol):
    """Opens a bucket. Raises SourceRefused where that is not possible."""

    def __call__(self, name: str) -> SourceBucket:
        """`name` is that of the bucket."""


def open_s3(name: str) -> SourceBucket:
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
    _opened: dict[str, SourceBucket] = field(default_factory=dict, compare=False, repr=False)

    def bucket(self, address: BucketAddress) -> SourceBucket:
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

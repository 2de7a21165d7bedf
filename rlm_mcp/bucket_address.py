"""The address of a bucket of an S3-compatible store and of a place in it, as settings and sources write it."""

import re
from dataclasses import dataclass

from rlm_mcp.errors import SettingsError

SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][\w.-]{1,254}")


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


def is_bucket_name(name: str) -> bool:
    """Whether a bucket may have this name."""
    return _BUCKET.fullmatch(name) is not None


def has_bucket_scheme(address: str) -> bool:
    """Whether an address is that of a bucket or of something in one."""
    return address[: len(SCHEME)].lower() == SCHEME


def parse_bucket(url: str, source: str) -> BucketAddress:
    """The bucket and the prefix that a setting has. Raises SettingsError, without what may be secret."""
    text = url.strip()
    bucket, _, prefix = text[len(SCHEME) :].partition("/")
    if "@" in bucket or "?" in text:
        raise SettingsError(
            f"{source} contains more than a bucket and a prefix: write s3://BUCKET/PREFIX, and set AWS_ACCESS_KEY_ID,"
            " AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL for the rest"
        )
    if not has_bucket_scheme(text) or not is_bucket_name(bucket) or not text.isprintable():
        raise SettingsError(f"{source} is not the address of a bucket: write s3://BUCKET/PREFIX")
    return BucketAddress(bucket=bucket, prefix=prefix.strip("/"))

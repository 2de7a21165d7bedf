"""The bucket of a cluster: objects by key, in any store that speaks S3.

Theory of operation. The rows of the database are the truth, and name objects; an object that no row names is garbage.
So an object is written before its row, under a key that is never written again. Two clusters in one place of a bucket
would delete each other's objects: the first one leaves its id under `_cluster`, written on the condition that nothing
lies there yet. A store that ignores this condition is refused.

Endpoint, region and credentials come from the variables AWS_*, which the client itself reads. All methods block; they
are called on worker threads.
"""

import hashlib
import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from rlm_mcp.bucket_address import BucketAddress
from rlm_mcp.cluster.outage import Outage
from rlm_mcp.contexts.sources.s3_bucket import SILENCE_SECONDS, open_store, reason_of
from rlm_mcp.errors import RlmError, StorageUnreachable

PATIENCE_SECONDS = 60.0
"""How long a request is tried again while the store is away."""

BRIEFLY_SECONDS = 3.0
"""The same, for what can be left undone."""

BRIEF_SILENCE_SECONDS = 15.0
"""How long such a request waits for bytes of its answer; uploading a large checkpoint takes some seconds."""

_OWNER_KEY = "_cluster"

log = logging.getLogger(__name__)


class BucketUnusable(StorageUnreachable):
    """The object store of a cluster cannot be reached, or does not do what is needed."""


class ObjectMissing(RlmError):
    """An object is not in the bucket."""


class ObjectDiffers(RlmError):
    """An object is not the one that was written under its key."""


def owner_prefix(owner: str) -> str:
    """The prefix of an owner's objects: a name of few characters as it is, any other as a digest."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", owner):
        return f"of-{owner}"
    return f"owner-{hashlib.sha256(owner.encode()).hexdigest()[:32]}" if owner else "all"


class Objects:
    """The objects of one process in one bucket, below its prefix. Any thread may use them."""

    def __init__(
        self,
        address: BucketAddress,
        *,
        access: Mapping[str, str] | None = None,
        patience: float = PATIENCE_SECONDS,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        """`patience` is how long a request is tried again, one trial of which `silence` ends.

        Raises BucketUnusable if the client cannot be set up.

        `access` are settings of obstore's S3Store that precede the environment: endpoint, access_key_id, ….
        """
        self.address = address
        self._patience, self._silence = patience, silence
        self._outage = Outage(log)
        self._access: dict[str, Any] = dict(access or {})
        try:
            self._store = open_store(
                address.bucket, access=self._access, patience=patience, silence=silence, prefix=address.prefix or None
            )
        except (BaseError, ValueError) as error:
            raise self._unusable(error) from None

    def __repr__(self) -> str:
        return f"<Objects {self.address.shown}>"

    def briefly(self) -> "Objects":
        """The same objects for what can be left undone: gives up soon while the store is away."""
        return Objects(
            self.address,
            access=self._access,
            patience=min(self._patience, BRIEFLY_SECONDS),
            silence=min(self._silence, BRIEF_SILENCE_SECONDS),
        )

    def put(self, key: str, data: bytes | Path) -> str:
        """Writes an object, of which a large file goes in parts; returns its ETag. Raises BucketUnusable."""
        with self._translated(key):
            put = obstore.put(self._store, key, data, use_multipart=None if isinstance(data, Path) else False)
            return str(put["e_tag"] or "")

    def put_new(self, key: str, data: bytes) -> bool:
        """Writes an object unless there is one with this key, which is left as it is: then False."""
        with self._translated(key):
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

    def get(self, key: str) -> bytes:
        """The bytes of an object. Raises ObjectMissing, BucketUnusable."""
        with self._translated(key):
            return bytes(obstore.get(self._store, key).bytes())

    def get_range(self, key: str, start: int, end: int, *, etag: str) -> bytes:
        """The bytes `[start:end]` of the object with this ETag. Raises ObjectMissing, ObjectDiffers."""
        if start >= end:
            return b""
        with self._translated(key):
            found = obstore.get(self._store, key, options={"range": (start, end)})
            if str(found.meta["e_tag"] or "") != etag:
                raise ObjectDiffers(f"{self.address.shown} has another object {key}: restore it from a backup")
            return bytes(found.bytes())

    def pieces(self, key: str) -> Iterator[bytes]:
        """The bytes of an object in pieces of about a megabyte. Raises ObjectMissing, BucketUnusable."""
        with self._translated(key):
            for piece in obstore.get(self._store, key).stream(min_chunk_size=1 << 20):
                yield bytes(piece)

    def size(self, key: str) -> int | None:
        """The size of an object in bytes; None if there is none."""
        with suppress(ObjectMissing), self._translated(key):
            return int(obstore.head(self._store, key)["size"])
        return None

    def delete(self, key: str) -> None:
        """Deletes an object, if there is one."""
        with suppress(ObjectMissing), self._translated(key):
            obstore.delete(self._store, key)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix that ends at a slash."""
        with self._translated(prefix):
            for page in obstore.list(self._store, prefix):
                for found in page:
                    yield str(found["path"])

    def claim(self, cluster: str) -> None:
        """Makes this place of the bucket that of one cluster. Raises BucketUnusable if it is another's.

        Also if the store ignores the condition that an object must not exist yet.
        """
        if self.put_new(_OWNER_KEY, cluster.encode()):
            if self.put_new(_OWNER_KEY, f"{cluster} {secrets.token_hex(4)}".encode()):
                self.put(_OWNER_KEY, cluster.encode())
                raise self._overwrites()
            return
        if (owner := self._owner()) != cluster:
            raise self._belongs_to(owner, cluster)

    def require_usable(self, cluster: str | None) -> str:
        """The id of the cluster that has this place of the bucket, empty if none has it. It is left as it is.

        Raises BucketUnusable if it is another one than `cluster`, or if the store ignores the condition that an object
        must not exist yet.
        """
        key = f"_probe/{secrets.token_hex(6)}"
        try:
            if not self.put_new(key, b"1") or self.put_new(key, b"2"):
                raise self._overwrites()
        finally:
            with suppress(BucketUnusable):  # a probe that stays does no harm
                self.delete(key)
        owner = self._owner()
        if owner and cluster is not None and owner != cluster:
            raise self._belongs_to(owner, cluster)
        return owner

    def _owner(self) -> str:
        try:
            return self.get(_OWNER_KEY).decode(errors="replace")
        except ObjectMissing:
            return ""

    def _overwrites(self) -> BucketUnusable:
        return BucketUnusable(
            f"the store of {self.address.shown} overwrites objects that must not exist yet: use one that supports"
            " If-None-Match for PUT, as S3, MinIO, Ceph and R2 do"
        )

    def _belongs_to(self, owner: str, cluster: str) -> BucketUnusable:
        return BucketUnusable(
            f"{self.address.shown} belongs to another database ({owner[:40]}; that of RLM_MCP_STORE is {cluster}):"
            " use another bucket, or another prefix in it"
        )

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._unusable(error) from None
            raise ObjectMissing(f"{self.address.shown} has no object {key}: restore it from a backup") from error
        except (BaseError, ValueError) as error:
            unusable = self._unusable(error)
            self._outage.note(unusable)
            raise unusable from error
        self._outage.end()

    def _unusable(self, error: Exception) -> BucketUnusable:
        return BucketUnusable(
            "the bucket of the server cannot be used now: try again later; its operator finds the reason in the log",
            reason=f"the bucket {self.address.shown} cannot be used ({reason_of(error)}): check that it exists, and the"
            " variables AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )

"""Buckets read by obstore, which the extra `s3` installs; and what its errors mean.

Endpoint, region and credentials come from the variables AWS_*, which the client itself reads. Its errors quote
addresses and bodies of replies, which name access keys, so only what is known of them is told.
"""

import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from rlm_mcp.bucket_address import SCHEME
from rlm_mcp.contexts.sources.buckets import ListedObject
from rlm_mcp.errors import SourceChanged, SourceRefused, SourceUnreachable

PATIENCE_SECONDS = 10.0
"""How long a request for a source is tried again while the store is away."""

SILENCE_SECONDS = 120.0
"""How long a request waits for the next bytes of its answer: the connection to a store that vanished says nothing. A
large part of an upload takes as long on a slow line."""

PIECE_BYTES = 8 << 20
"""What one request fetches of a large object."""

AHEAD = 4
"""Requests for pieces of one object at the same time: one connection rarely has all of the network."""

AHEAD_IN_ALL = 16
"""Pieces that a process fetches before they are asked for, of all objects: each takes memory."""

_places_ahead = threading.BoundedSemaphore(AHEAD_IN_ALL)


def open_store(
    bucket: str,
    *,
    access: Mapping[str, Any],
    patience: float,
    silence: float = SILENCE_SECONDS,
    prefix: str | None = None,
) -> S3Store:
    """A client of a bucket, which tries each request again for `patience` seconds. Raises BaseError, ValueError.

    A trial fails when nothing is heard for `silence` seconds. `access` are settings of obstore's S3Store that precede
    the environment.
    """
    return S3Store(
        bucket,
        prefix=prefix,
        # The endpoint is the operator's choice, and many stores lack the request that deletes several objects.
        client_options={
            "allow_http": True,
            "connect_timeout": "5s",
            "read_timeout": timedelta(seconds=silence),
            "timeout": "10m",
        },
        retry_config={
            "max_retries": 1_000,
            "retry_timeout": timedelta(seconds=patience),
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
        },
        disable_bulk_delete=True,
        **access,
    )


class S3Bucket:
    """One bucket. Any thread may use it."""

    def __init__(
        self, name: str, *, access: Mapping[str, Any] | None = None, patience: float = PATIENCE_SECONDS
    ) -> None:
        """Raises SourceRefused if the client cannot be set up."""
        self._name = name
        try:
            self._store = open_store(name, access=access or {}, patience=patience)
        except (BaseError, ValueError) as error:
            raise SourceRefused(
                f"{SCHEME}{name} cannot be opened ({reason_of(error)}): the operator corrects the variables AWS_*"
            ) from None

    def __repr__(self) -> str:
        return f"<S3Bucket {self._name}>"

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        """The objects below a prefix."""
        with self._translated(prefix):
            for page in obstore.list(self._store, prefix or None):
                yield from map(_listed, page)

    def find(self, key: str) -> ListedObject | None:
        """An object, None if there is none."""
        with self._translated(key):
            try:
                return _listed(obstore.head(self._store, key))
            except FileNotFoundError:
                return None

    def read(self, key: str, start: int, end: int) -> tuple[ListedObject, bytes]:
        """The bytes `[start:end]` of an object, which must lie in it, and which version they are of."""
        with self._translated(key):
            found = obstore.get(self._store, key, options={"range": (start, end)})
            return _listed(found.meta), bytes(found.bytes())

    def pieces(self, key: str, size: int) -> Iterator[tuple[ListedObject, bytes]]:
        """The bytes of an object in order, of which several pieces are fetched at once."""
        if size <= PIECE_BYTES:
            if size:
                yield self.read(key, 0, size)
            return
        threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="pieces")
        begun: deque[_BegunPiece] = deque()
        try:
            for start in range(0, size, PIECE_BYTES):
                is_ahead = False
                while begun and not (is_ahead := len(begun) < AHEAD and _places_ahead.acquire(blocking=False)):
                    yield _end(begun)
                begun.append((threads.submit(self.read, key, start, min(start + PIECE_BYTES, size)), is_ahead))
            while begun:
                yield _end(begun)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for _, is_ahead in begun:
                if is_ahead:
                    _places_ahead.release()

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        shown = f"{SCHEME}{self._name}/{key}".rstrip("/")
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise SourceRefused(f"there is no bucket {self._name}: check the address {shown}") from None
            raise SourceChanged(
                f"{shown}, registered by reference, is gone: put it back, or remove the context with `remove_context`"
                " or `rlm-mcp contexts rm NAME`"
            ) from None
        except (BaseError, ValueError) as error:
            raise _refusal(shown, self._name, reason_of(error)) from None  # the cause may name an access key


_BegunPiece = tuple[Future[tuple[ListedObject, bytes]], bool]
"""A piece that is being fetched, and whether it has one of the places of those that are fetched ahead."""


def _end(begun: deque[_BegunPiece]) -> tuple[ListedObject, bytes]:
    """The first piece, once it was fetched."""
    future, is_ahead = begun.popleft()
    try:
        return future.result()
    finally:
        if is_ahead:
            _places_ahead.release()


def _listed(found: Any) -> ListedObject:
    return ListedObject(
        key=str(found["path"]),
        size=int(found["size"]),
        etag=str(found["e_tag"] or ""),
        modified=found["last_modified"].isoformat(),
    )


def _refusal(shown: str, bucket: str, reason: str) -> SourceRefused | SourceUnreachable:
    if reason == _REASONS["NoSuchBucket"]:
        return SourceRefused(f"there is no bucket {bucket}: check the address {shown}")
    if reason in _DENIED:
        return SourceRefused(
            f"{shown} may not be read ({reason}): the operator corrects the permissions, or AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY"
        )
    if reason == _REASONS["empty path segment"]:
        return SourceRefused(f"{shown} cannot be listed: {reason}; register a narrower prefix")
    return SourceUnreachable(
        f"{shown} cannot be read now ({reason}): try again, or let the operator check AWS_ENDPOINT_URL and the network"
    )


def reason_of(error: Exception) -> str:
    """An error of the client, which has many lines and may name an access key, in a few words."""
    text = str(error)
    for phrase, reason in _REASONS.items():
        if phrase in text:
            return reason
    if code := re.search(r"<Code>(\w{1,60})</Code>", text):
        return f"the store answers {code[1]}"
    if status := re.search(r"status(?: code)?:? (\d{3})", text):
        return f"the store answers with status {status[1]}"
    return f"the client reports a fault of kind {type(error).__name__}"


_REASONS = {
    "169.254.169.254": "no access key is set",
    "NoSuchBucket": "there is no such bucket",
    "InvalidAccessKeyId": "the access key is unknown",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "AccessDenied": "access is denied",
    "ExpiredToken": "the session token has expired",
    "status code: 403": "access is denied",
    "status code: 401": "access is denied",
    "error sending request": "nothing answers",
    "operation timed out": "nothing answers in time",
    "NotImplemented": "it does not support this request",
    "empty path segment": "it has keys with empty or relative parts",
    "illegal character sequence": "it has keys with empty or relative parts",
}
"""Part of an error of the client, to what it means; the first that is found counts."""

_DENIED = frozenset(
    _REASONS[phrase]
    for phrase in (
        "169.254.169.254", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken"
    )
)  # fmt: skip

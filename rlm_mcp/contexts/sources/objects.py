"""Objects of a bucket as a source: they stay where they are, and are read when their text is needed.

A listing is all that a registration needs, so that gigabytes are registered in a second. What only reading tells is
estimated from the beginnings of a few objects; these requests also find out whether objects may be read at all.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rlm_mcp.bucket_address import BucketAddress
from rlm_mcp.contexts.sources.bucket_access import BucketAccess
from rlm_mcp.contexts.sources.buckets import ListedObject, SourceBucket, parse_objects
from rlm_mcp.contexts.sources.file import printable
from rlm_mcp.contexts.sources.member_names import member_path
from rlm_mcp.contexts.sources.secrets import HOLDS_CREDENTIALS, is_secret
from rlm_mcp.contexts.sources.source import MAX_FILES, ObjectPiece, Remark, Source
from rlm_mcp.contexts.text.encoding import UTF8, detect
from rlm_mcp.contexts.text.line_index import Counts, build_index
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceChanged, SourceRefused

SAMPLE_BYTES = 1 << 16
"""How much is read of the beginning of an object from which others are estimated."""

SAMPLED = 16
"""Objects of which the beginning is read: the largest of each suffix, the suffixes with most bytes first."""

NOT_TEXT = frozenset((
    *(".7z", ".aac", ".avi", ".avif", ".avro", ".bin", ".bmp", ".br", ".bz2", ".class", ".db", ".dll"),
    *(".doc", ".docm", ".docx", ".dmg", ".epub", ".exe", ".flac", ".gif", ".gz", ".h5", ".ico", ".iso"),
    *(".jar", ".jpeg", ".jpg", ".lz4", ".lzo", ".mkv", ".mov", ".mp3", ".mp4", ".mpeg", ".msg", ".npy"),
    *(".npz", ".o", ".odp", ".ods", ".odt", ".ogg", ".onnx", ".orc", ".parquet", ".pdf", ".pkl", ".png"),
    *(".ppt", ".pptm", ".pptx", ".pt", ".pyc", ".rar", ".rtf", ".safetensors", ".so", ".sqlite"),
    *(".sqlite3", ".tar", ".tbz2", ".tgz", ".tif", ".tiff", ".ttf", ".txz", ".wav", ".wasm", ".webm"),
    *(".webp", ".whl", ".woff", ".woff2", ".xls", ".xlsb", ".xlsm", ".xlsx", ".xz", ".zip", ".zst"),
))  # fmt: skip
"""Suffixes of objects that are no text as they are. Whether others are is found out when they are read."""

CONVERTED = "it is not text as it lies in the bucket: download it and register the copy, which is converted"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Density:
    """Characters and lines of a byte, and the longest line, in what was read of some objects."""

    chars: float = 1.0
    lines: float = 1 / 60
    longest_line: int = 1_000

    def counts(self, size: int) -> Counts:
        """An estimate for an object of this size."""
        lines = max(round(size * self.lines), 1)
        return Counts(
            bytes=size, chars=round(size * self.chars), lines=lines, longest_line=min(self.longest_line, size)
        )


def open_objects(source: str, *, access: BucketAccess, secrets: bool, check_cancelled: Callable[[], None]) -> Source:
    """Lists what an address names: an object, or all objects below a prefix. `check_cancelled` may raise to end that.

    Raises SourceRefused, SourceUnreachable.
    """
    address, is_prefix = parse_objects(source)
    bucket = access.bucket(address)
    if not is_prefix and (found := bucket.find(address.prefix)) is not None:
        return _one_object(address, found, bucket, secrets=secrets)
    listed = _listed(address, bucket, check_cancelled)
    taken, skipped = _chosen(address, listed, secrets=secrets)
    if not taken:
        some = f" ({len(skipped):,} skipped: {skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise SourceRefused(f"{address.shown} has no object with text{some}: check the prefix, which ends before a /")
    densities, remarks = _densities(address, bucket, taken, check_cancelled)

    def pieces() -> Iterator[ObjectPiece | Skipped | Remark]:
        size = sum(one.size for one in taken)
        yield Remark(
            text=f"{len(taken):,} objects ({size:,} bytes) are referenced in {address.shown}: an object is fetched when"
            " its text is first read, and until then its chars and lines are estimates"
        )
        yield from remarks
        yield from skipped
        for one in taken:
            estimate = densities.get(_suffix(one.key), _Density()).counts(one.size)
            yield ObjectPiece(path=_path_below(address, one.key), bucket=address.bucket, listed=one, estimate=estimate)

    name = address.prefix.rpartition("/")[2] or address.bucket
    return Source(kind="files", name=printable(name), location=f"{address.shown}/", pieces=pieces())


def _one_object(address: BucketAddress, found: ListedObject, bucket: SourceBucket, *, secrets: bool) -> Source:
    name = printable(address.prefix.rpartition("/")[2])
    if not secrets and is_secret(address.prefix):
        raise SourceRefused(f"{address.shown} is not registered because its name says that it holds credentials")
    if _suffix(found.key) in NOT_TEXT:
        raise SourceRefused(f"{address.shown} cannot be referenced: {CONVERTED}")
    if not found.size:
        raise SourceRefused(f"{address.shown} is empty: there is nothing to register")
    sample = _sample(bucket, found)
    if detect(sample) != UTF8:
        raise SourceRefused(f"{address.shown} cannot be referenced, because it is not UTF-8 text: {CONVERTED}")
    remark = Remark(
        text=f"{address.shown} is referenced in its bucket: it is fetched when its text is first read, and until then"
        " chars and lines are estimates"
    )
    piece = ObjectPiece(
        path=name or "object", bucket=address.bucket, listed=found, estimate=_density(sample).counts(found.size)
    )
    return Source(kind="text", name=name, location=address.shown, pieces=iter([remark, piece]))


def _listed(
    address: BucketAddress, bucket: SourceBucket, check_cancelled: Callable[[], None]
) -> Sequence[ListedObject]:
    found: list[ListedObject] = []
    for one in bucket.listed(address.prefix):
        if len(found) % 1_000 == 0:
            check_cancelled()
        if len(found) >= MAX_FILES:
            raise SourceRefused(f"{address.shown} has over {MAX_FILES:,} objects: register a narrower prefix")
        found.append(one)
    return found


def _chosen(
    address: BucketAddress, listed: Sequence[ListedObject], *, secrets: bool
) -> tuple[Sequence[ListedObject], Sequence[Skipped]]:
    """The objects that become files, and those that are left out."""
    taken: list[ListedObject] = []
    skipped: list[Skipped] = []
    for one in listed:
        path = _path_below(address, one.key)
        if not secrets and is_secret(path):
            skipped.append(Skipped(path=path, reason=HOLDS_CREDENTIALS))
        elif _suffix(one.key) in NOT_TEXT:
            skipped.append(Skipped(path=path, reason=CONVERTED))
        elif not one.size:
            skipped.append(Skipped(path=path, reason="it is empty"))
        else:
            taken.append(one)
    return taken, skipped


def _densities(
    address: BucketAddress, bucket: SourceBucket, taken: Sequence[ListedObject], check_cancelled: Callable[[], None]
) -> tuple[dict[str, _Density], Sequence[Remark]]:
    """What the largest object of each suffix is like, and remarks on those that are not UTF-8."""
    largest: dict[str, ListedObject] = {}
    sizes: dict[str, int] = {}
    for one in taken:
        suffix = _suffix(one.key)
        sizes[suffix] = sizes.get(suffix, 0) + one.size
        if suffix not in largest or one.size > largest[suffix].size:
            largest[suffix] = one
    sampled = sorted(sizes, key=lambda suffix: -sizes[suffix])[:SAMPLED]
    check_cancelled()
    with ThreadPoolExecutor(SAMPLED, thread_name_prefix="sample") as threads:
        samples = list(threads.map(lambda suffix: _sample(bucket, largest[suffix]), sampled))
    remarks = [
        Remark(
            text=f"{_path_below(address, largest[suffix].key)} is not UTF-8 text: of such objects, bytes that are not"
            " UTF-8 are shown as U+FFFD; download them and register the copies to have them converted"
        )
        for suffix, sample in zip(sampled, samples, strict=True)
        if detect(sample) != UTF8
    ]
    return {suffix: _density(sample) for suffix, sample in zip(sampled, samples, strict=True)}, remarks


def _sample(bucket: SourceBucket, one: ListedObject) -> bytes:
    read, data = bucket.read(one.key, 0, min(SAMPLE_BYTES, one.size))
    if read.version != one.version:
        raise SourceChanged(f"{one.key} changed while it was registered: register it again")
    return data


def _density(sample: bytes) -> _Density:
    counts = build_index(sample).counts
    size = max(counts.bytes, 1)
    return _Density(chars=counts.chars / size, lines=counts.lines / size, longest_line=counts.longest_line)


def _path_below(address: BucketAddress, key: str) -> str:
    return member_path(key[len(address.prefix) :] if address.prefix else key)


def _suffix(key: str) -> str:
    name = key.rpartition("/")[2]
    stem, _, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if stem and suffix else ""

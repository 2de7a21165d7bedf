"""The store of contexts: one directory that many processes may use at once.

contexts/catalogue.sqlite3     the contexts and their files (catalogue.py)
contexts/blobs/ab/ab….txt      texts by hash, with their line index when they are large (blobs.py)
contexts/indexes/….index       line indexes of files that are referenced, not copied (references.py)
contexts/texts/                texts of objects of buckets, where no other place is named (text_cache.py)
contexts/incoming/TOKEN/       texts that a process is ingesting (staging.py); garbage once that process is dead
contexts/conversions/…TOKEN    what a process is converting (conversions.py)
contexts/holders/TOKEN.lock    locked by a process while it is alive (process_locks.py)
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from shutil import rmtree
from typing import BinaryIO, Self

from rlm_mcp.contexts.sources.address import is_address, shown_address
from rlm_mcp.contexts.sources.bucket_access import BucketAccess
from rlm_mcp.contexts.sources.fetched import LEFT_OUT, STDIN
from rlm_mcp.contexts.sources.remote import RemoteAccess
from rlm_mcp.contexts.store.addressed_file import AddressedFile
from rlm_mcp.contexts.store.blobs import FileBlobs, LocalText, disk_errors
from rlm_mcp.contexts.store.catalogue import MAX_NAME, FileRow, SqliteCatalogue, check_name, context_id, safe_name
from rlm_mcp.contexts.store.conversions import ConversionJournal
from rlm_mcp.contexts.store.garbage import GarbageCollector
from rlm_mcp.contexts.store.ingest import Ingest
from rlm_mcp.contexts.store.object_texts import ObjectSources, ObjectTexts
from rlm_mcp.contexts.store.plain_copies import PlainCopies
from rlm_mcp.contexts.store.process_locks import ProcessLock, dead_tokens
from rlm_mcp.contexts.store.protocols import StoreParts
from rlm_mcp.contexts.store.references import (
    ObjectReference,
    Reference,
    ReferenceIndexes,
    is_object,
    is_reference,
    object_of,
    reference_of,
)
from rlm_mcp.contexts.store.staging import StagingArea, over_quota
from rlm_mcp.contexts.store.uses import LockedUses
from rlm_mcp.contexts.text.encoding import UTF8, encode_text, named_encoding
from rlm_mcp.contexts.text.line_index import Counts, LineIndex
from rlm_mcp.contexts.text.reading import ReadBytes, read_bytes
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import Context, FileEntry, Freed, LineAddress, LineRange, Page, Skipped
from rlm_mcp.errors import (
    ContextInUse,
    NameTaken,
    OutOfRange,
    SourceRefused,
    StorageUnreachable,
    StoreDamaged,
    UnknownContext,
    UnknownPath,
)

REFERENCE_ABOVE_BYTES = 1 << 30
"""A larger file is referenced where it lies: copying it would take seconds and double the disk space."""

FETCHING_SHARE = 0.75
"""Of the time of a search: longer it does not wait for what must be fetched."""

FETCHED_AT_ONCE = 16
"""Objects that one search fetches at the same time."""

MOST_LISTED = 1_000_000
"""Contexts on one page, at most: SQLite takes no number above 2^63."""

INLINE = "text"
"""The source of a context that was given as text."""


class Store:
    """Contexts on disk under `data_dir`; thread-safe, shared by many processes, synchronous.

    `roots` are the directories that may be registered: None means any, an empty sequence means none. `access` says
    from which machines sources are fetched, `objects` which objects of buckets may be sources: by default none. With
    `parts`, which other machines may share, no file is referenced where it lies; without, all are below `data_dir`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        roots: Sequence[Path] | None = None,
        quota_bytes: int | None = None,
        reference_above_bytes: int = REFERENCE_ABOVE_BYTES,
        access: RemoteAccess | None = None,
        objects: ObjectSources | None = None,
        parts: StoreParts | None = None,
    ) -> None:
        self._directory = data_dir / "contexts"
        self._roots = roots
        self._quota = quota_bytes
        self._reference_above = reference_above_bytes
        self._access = access or RemoteAccess()
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with disk_errors():
                self._holder = ProcessLock(self._directory / "holders")
                is_shared, parts = parts is not None, parts or self._local_parts()
        except OSError as error:
            raise StoreDamaged(
                f"{self._directory} cannot be used as a store ({error.strerror}): "
                "check its permissions or set RLM_MCP_DATA_DIR to another directory"
            ) from error
        self._catalogue, self._blobs, self._uses = parts.catalogue, parts.blobs, parts.uses
        self._is_shared = is_shared
        self._incoming = self._directory / "incoming" / self._holder.token
        self._indexes = ReferenceIndexes(
            self._directory / "indexes",
            parts=self._incoming,
            on_complete=lambda key, counts: self._note_counts({key: counts}),
        )
        self._objects = ObjectTexts(
            objects or ObjectSources(access=BucketAccess()),
            self._indexes,
            cache_dir=self._directory / "texts",
            note=self._note_counts,
        )
        self._conversions = ConversionJournal(
            self._directory / "conversions", holders=self._directory / "holders", token=self._holder.token
        )
        self._plain_copies = PlainCopies(self._incoming / "plain")
        self._staging_numbers = count(1)
        self._ahead: ThreadPoolExecutor | None = None
        self._ahead_lock = threading.Lock()
        self._garbage = GarbageCollector(
            directory=self._directory,
            catalogue=self._catalogue,
            blobs=self._blobs,
            uses=self._uses,
            indexes=self._indexes,
        )

    def _local_parts(self) -> StoreParts:
        try:
            blobs = FileBlobs(self._directory / "blobs")
            catalogue = SqliteCatalogue(self._directory / "catalogue.sqlite3")
        except BaseException:  # a signal too: a store that was not opened holds nothing
            self._holder.close()
            raise
        uses = LockedUses(catalogue=catalogue, holders=self._directory / "holders", token=self._holder.token)
        return StoreParts(catalogue=catalogue, blobs=blobs, uses=uses)

    def __repr__(self) -> str:
        return f"<Store {self._directory}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop background indexing and close the catalogue; also called on leaving the `with` block."""
        with self._ahead_lock:
            if self._ahead is not None:
                self._ahead.shutdown(wait=False, cancel_futures=True)
        self._indexes.close()
        self._objects.close()
        self._conversions.close()
        self._catalogue.close()
        rmtree(self._incoming, ignore_errors=True)
        self._holder.close()

    def remove_leftovers(self) -> None:
        """Collect garbage if a process that used the store was killed; called once, at the start of a process."""
        if any(dead_tokens(self._garbage.holders)):
            self.gc()

    def confine(self, roots: Sequence[Path]) -> None:
        """Restrict sources to these directories from now on, unless `roots` were given from the start."""
        if self._roots is None:
            self._roots = roots

    # --- registering

    def register_text(self, text: str, *, name: str | None = None, supersedes: bool = False) -> Context:
        """Store a text given inline. If it `supersedes`, it becomes the next version of the inline text of its name.

        Raises SourceRefused, NameTaken, StoreFull.
        """
        if not text:
            raise SourceRefused("the text is empty: there is nothing to register")
        wanted = None if name is None else check_name(name)
        data, lone = encode_text(text)
        with self._staging() as staging:
            ingest = Ingest(staging, kind="text", location=INLINE)
            if lone:
                ingest.add_note(f"{lone:,} lone surrogates were replaced by U+FFFD")
            ingest.ingest_text("text.txt", data)
            return self._commit(
                staging,
                ingest,
                wanted=wanted,
                default=f"text-{ingest.rows[0].blob[:8]}",
                options={},
                supersedes=supersedes,
            )

    def register_source(
        self,
        source: str,
        *,
        name: str | None = None,
        reference: bool | None = None,
        include_secrets: bool = False,
        encoding: str | None = None,
        on_progress: Callable[[int, int], None] = lambda *_: None,
        stdin: BinaryIO | None = None,
    ) -> Context:
        """Store a file, directory, glob, git revision (`path@revision`), archive or document found at a path.

        The source may also be the address of a git repository or file, or `-` for `stdin`.

        `reference` True leaves a file where it is, False copies it whatever its size. `encoding` is that of files
        without a byte order mark; by default, that of each is detected. `on_progress` is called many
        times a second with the files and bytes ingested since its last call, also when there are none; if it raises,
        nothing is stored.
        Raises SourceRefused, OutsideRoots, SourceChanged, NameTaken, StoreFull.
        """
        from rlm_mcp.contexts.sources.opening import open_source

        wanted = None if name is None else check_name(name)
        named = None if encoding is None else named_encoding(encoding)
        options: dict[str, object] = {"reference": reference, "include_secrets": include_secrets}
        if named:
            options["encoding"] = named.codec

        def refers(path: Path) -> bool:
            if named not in {None, UTF8} or self._is_shared:
                return False
            if reference is not None:
                return reference
            try:
                return path.lstat().st_size > self._reference_above
            except OSError:
                return False  # opening it says why

        with self._scratch() as scratch, self._staging(lambda size: on_progress(0, size)) as staging:
            opened = open_source(
                source,
                roots=self._roots,
                store=self._directory,
                secrets=include_secrets,
                converting=self._conversions.converting,
                check_cancelled=lambda: on_progress(0, 0),
                scratch=scratch,
                access=self._access,
                buckets=self._objects.access,
                stdin=stdin,
            )
            if opened.fetched:
                options["fetched"] = dict(opened.fetched)
            ingest = Ingest(
                staging,
                kind=opened.kind,
                location=opened.location,
                encoding=named,
                refers=refers,
                on_piece=lambda: on_progress(1, 0),
            )
            ingest.ingest_source(opened)
            return self._commit(staging, ingest, wanted=wanted, default=safe_name(opened.name), options=options)

    def refresh(self, ref: str, *, on_progress: Callable[[int, int], None] = lambda *_: None) -> Context:
        """Register the same source again: the same context if nothing changed, else its next version."""
        context = self.get(ref)
        if context.source in {INLINE, STDIN}:  # neither can be read again
            return context
        options = self._catalogue.options(context.context_id)
        fetched = options.get("fetched")
        if isinstance(fetched, dict) and LEFT_OUT in fetched:
            raise SourceRefused(
                f"{context.name} was fetched with a secret in its address, which was not kept: register the whole "
                f"address of {context.source} again"
            )
        reference, encoding = options.get("reference"), options.get("encoding")
        return self.register_source(
            context.source,
            name=context.name,
            reference=reference if isinstance(reference, bool) else None,
            include_secrets=bool(options.get("include_secrets")),
            encoding=encoding if isinstance(encoding, str) else None,
            on_progress=on_progress,
        )

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A directory for copies of what a registration reads; it is made when it is needed."""
        path = self._incoming / f"scratch-{next(self._staging_numbers)}"
        try:
            yield path
        finally:
            rmtree(path, ignore_errors=True)

    def _staging(self, on_bytes: Callable[[int], None] = lambda _: None) -> StagingArea:
        room = None if self._quota is None else self._quota - self._catalogue.stored_bytes()
        return StagingArea(
            self._blobs, self._incoming / str(next(self._staging_numbers)), room_bytes=room, on_bytes=on_bytes
        )

    def _commit(
        self,
        staging: StagingArea,
        ingest: Ingest,
        *,
        wanted: str | None,
        default: str,
        options: dict[str, object],
        supersedes: bool = True,
    ) -> Context:
        """Publish all texts and the context at once, under the write lock of the catalogue."""
        staging.place(ingest.staged)
        rows = ingest.rows
        try:
            with disk_errors(), self._catalogue.writing():
                name, identity = self._choose_name(ingest, rows, wanted=wanted, default=default, supersedes=supersedes)
                context = self._catalogue.by_id(identity)
                staging.publish(ingest.staged)
                if context is None:
                    version = self._catalogue.last_version(name) + 1
                    context = ingest.to_context(name=name, identity=identity, version=version)
                    self._catalogue.add(context, rows, ingest.skipped, options)
                    self._require_room()
                elif not context.current:
                    self._catalogue.make_current(context)
                    context = replace(context, current=True)
        except StorageUnreachable:
            raise  # what was placed is deleted later
        except BaseException:  # including what a callback raises to end it
            self._garbage.sweep([row.blob for row in rows if not is_reference(row.blob)])
            raise
        if not context.exact:
            for row in rows:
                if is_reference(row.blob) and isinstance(reference := reference_of(row.blob), Reference):
                    self._indexes.grow(reference)
        return context

    def _require_room(self) -> None:
        """Raises StoreFull where another registration has taken the room since this one began."""
        if self._quota is not None and self._catalogue.stored_bytes() > self._quota:
            raise over_quota()

    def _choose_name(
        self, ingest: Ingest, rows: Sequence[FileRow], *, wanted: str | None, default: str, supersedes: bool
    ) -> tuple[str, str]:
        """Choose the name of this content, and the id: a free name, its own, or that of its source's last version.

        All inline texts have the same source, so for them the caller decides whether one `supersedes` another.
        """
        numbered = (f"{default}-{n}" for n in range(2, 10_000))
        candidates = [wanted] if wanted else chain([default], numbered)
        there = None
        for name in candidates:
            identity = context_id(name, ingest.kind, rows)
            there = self._catalogue.by_name(name)
            same_source = there is not None and there.source == ingest.location
            if there is None or there.context_id == identity or (same_source and supersedes):
                return name, identity
        raise NameTaken(
            f"the name {wanted or default!r} belongs to other content (source: {there.source if there else 'many'}): "
            "choose another name, or remove that context first"
        )

    # --- finding

    def get(self, ref: str) -> Context:
        """Find the context with this id, or the newest with this name. Raises UnknownContext."""
        ref = ref.removeprefix("rlm://contexts/")
        context = self._catalogue.by_id(ref) or self._catalogue.by_name(ref)
        if context is None:
            if is_address(ref):
                raise UnknownContext(
                    f"{shown_address(ref)} is an address, not a context: register it first (`register_context`)"
                )
            known = [there.name for there in self._catalogue.page("", after=None, limit=100)]
            near = _closest(ref[:MAX_NAME], known) or known[:3]
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else "nothing is registered yet; "
            raise UnknownContext(
                f"no context has the id or name {ref[:100]!r}: {hint}"
                "`list_contexts` shows all, `register_context` adds one"
            )
        return context

    def list(self, query: str = "", *, limit: int = 20, cursor: str | None = None) -> Page:
        """List current contexts, newest first, whose name or source contains `query`. Raises OutOfRange."""
        if limit < 1:
            raise OutOfRange(f"a page of {limit} contexts cannot be listed: ask for 1 or more")
        after: tuple[str, str] | None = None
        if cursor is not None:
            created_at, mark, identity = cursor.partition("~")
            if not mark:
                raise OutOfRange(
                    f"{cursor[:60]!r} is not a cursor that `list_contexts` returned: leave it out to start anew"
                )
            after = (created_at, identity)
        limit = min(limit, MOST_LISTED)
        found = self._catalogue.page(query, after=after, limit=limit + 1)
        more = len(found) > limit
        last = found[:limit][-1] if more else None
        return Page(
            contexts=tuple(found[:limit]),
            next_cursor=f"{last.created_at}~{last.context_id}" if last else None,
            total=self._catalogue.count(query),
        )

    # --- removing

    def remove(self, ref: str) -> Context:
        """Delete a context, the older versions of its name, and the texts that only they used.

        Raises UnknownContext, ContextInUse.
        """
        with self._catalogue.writing():
            context = self.get(ref)
            if runs := self._uses.runs_with(context.context_id):
                raise ContextInUse(
                    f"{context.name} ({context.context_id}) is used by {', '.join(runs)}: wait for that or `cancel_run`"
                )
            older = self._catalogue.versions(context.name) if context.current else []
            unused = [one for one in older if not self._uses.runs_with(one)]
            texts = self._garbage.forget([context.context_id, *unused])
        self._garbage.sweep(texts)
        return context

    @contextmanager
    def in_use(self, context_ids: Collection[str], run_id: str) -> Iterator[None]:
        """Keep every process from removing these contexts until the block ends or this process dies."""
        held = self._uses.begin(lambda: [self.get(identity).context_id for identity in context_ids], run_id)
        try:
            yield
        finally:
            self._uses.end(held, run_id)

    def gc(self, *, keep: Collection[str] | None = None) -> Freed:
        """Delete blobs that no context uses, and the leftovers of dead processes.

        With `keep` (ids that runs cite), also delete superseded versions that are neither in it nor in use.
        """
        with disk_errors():
            self._catalogue.verify()
            with self._catalogue.writing():
                old = [] if keep is None else self._garbage.old_versions(keep)
                texts = self._garbage.forget(old)
            freed = self._garbage.sweep(texts)
            rest = self._garbage.sweep_all()
            self._garbage.remove_dead_processes()
            self._conversions.remove_old()
        return Freed(blobs=freed.blobs + rest.blobs, bytes=freed.bytes + rest.bytes, versions=len(old))

    # --- reading

    def files(self, context: Context) -> Sequence[FileEntry]:
        """List the texts of the context by path, from the catalogue alone."""
        self._objects.note_counts()
        return tuple(self._entry(row) for row in self._catalogue.files(context.context_id))

    def file(self, context: Context, path: str | None = None) -> FileEntry:
        """Find one text of the context; the path may be left out if there is only one. Raises UnknownPath."""
        return self._entry(self._row(context, path))

    def plain_files(self, files: Sequence[FileEntry], timeout: Timeout) -> Sequence[FileEntry]:
        """The same texts without terminal colours, as searches see them: those that have any are copied.

        Those are left out that could not be fetched in time.
        """
        return self._plain_copies.entries(self._located(files, timeout), timeout)

    def _located(self, files: Sequence[FileEntry], timeout: Timeout) -> Sequence[FileEntry]:
        """Looks for many texts at once where each takes a request; gives those that were there in time.

        A share of the time is left to search what is there. What is being fetched then goes on, so that the next search
        finds it.
        """
        at_once = self._blobs.looked_for_at_once
        if any(is_object(entry.key) for entry in files):
            at_once = FETCHED_AT_ONCE
        if at_once == 1 or not files:
            return files
        located: set[str] = set()
        timeout = Timeout(FETCHING_SHARE * timeout.seconds_left)
        self._prepare(files)

        def locate(some: Sequence[FileEntry]) -> None:
            for entry in some:
                if timeout.expired:
                    return
                entry.locate()
                located.add(entry.path)

        threads = ThreadPoolExecutor(at_once, thread_name_prefix="fetch")
        try:
            begun = [threads.submit(locate, files[n::at_once]) for n in range(at_once)]
            done, _ = wait(begun, timeout.seconds_left, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            threads.shutdown(wait=False)
        in_time = frozenset(located)
        return [entry for entry in files if entry.path in in_time]

    def fetch_ahead(self, files: Sequence[FileEntry]) -> None:
        """Starts to fetch texts that will probably be read next, where that takes requests.

        They stay on this machine as long as their entries. What goes wrong is told when they are read.
        """
        if self._blobs.looked_for_at_once == 1 and not any(is_object(entry.key) for entry in files):
            return
        with suppress(StorageUnreachable):
            self._prepare(files)
        with self._ahead_lock:
            if self._ahead is None:
                self._ahead = ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch-ahead")
            for entry in files:
                self._ahead.submit(entry.locate)

    def _prepare(self, files: Sequence[FileEntry]) -> None:
        self._blobs.prepare([entry.key for entry in files if not is_reference(entry.key)])

    def skipped(self, context: Context) -> Sequence[Skipped]:
        """List what the source held that is not in the context, with the reasons."""
        return tuple(self._catalogue.skipped(context.context_id))

    def read_lines(
        self,
        context: Context,
        start_line: int,
        end_line: int | None = None,
        *,
        path: str | None = None,
        max_chars: int = 24_000,
    ) -> LineRange:
        """Read lines `start_line` to `end_line`, 1-based and inclusive; negative numbers count from the end.

        Without `end_line`, read as many as fit. Line ends are kept. A line longer than `max_chars` is cut; `read_chars`
        gives the rest. Raises UnknownPath, OutOfRange, SourceChanged.
        """
        return self._addressed(context, path).read_lines(start_line, end_line, max_chars=max_chars)

    def read_chars(self, context: Context, start: int, end: int, *, path: str | None = None) -> str:
        """Read the characters `[start:end]` of one file; neither bound may be negative."""
        return self._addressed(context, path).read_chars(start, end)

    def locate_line(self, context: Context, line: int, *, path: str | None = None) -> LineAddress:
        """Give the byte and character offset and the page of a line. Raises UnknownPath, OutOfRange."""
        return self._addressed(context, path).locate_line(line)

    def text(self, context: Context, path: str | None = None) -> str:
        """Load one file whole; the path may be left out if there is only one."""
        row = self._row(context, path)
        text = self._text(row)
        try:
            return text.path.read_bytes().decode(errors="replace")
        except OSError as error:
            raise StoreDamaged(f"{text.path} cannot be read ({error.strerror}): register it again") from error

    def line_index(self, context: Context, path: str | None = None) -> LineIndex:
        """The complete line index of one file; for a large referenced file this may take seconds."""
        return self._index(self._row(context, path), lambda _: False)

    def wait_for_indexes(self, seconds: float = 60.0) -> bool:
        """Wait until the files referenced by this process are indexed; False when that takes longer."""
        return self._indexes.wait(seconds)

    # --- looking up

    def _addressed(self, context: Context, path: str | None) -> AddressedFile:
        row = self._row(context, path)
        location = self._location(row)
        by_requests = location.part_reader()
        return AddressedFile(
            row=row,
            read=by_requests or location.read,
            index=lambda far_enough: self._index(row, far_enough),
            is_request=by_requests is not None,
        )

    def _location(self, row: FileRow) -> "_TextLocation":
        return _TextLocation(partial(self._text, row), partial(self._part_reader, row))

    def _part_reader(self, row: FileRow) -> ReadBytes | None:
        """Reads parts of a text by requests for them alone, where that is better than fetching it."""
        if is_object(row.blob):
            return self._objects.part_reader(object_of(row.blob))
        return None if is_reference(row.blob) else self._blobs.part_reader(row.blob, row.bytes)

    def _row(self, context: Context, path: str | None) -> FileRow:
        identity = context.context_id
        whole = path is None or path in {"", context.name}
        wanted = "" if whole else str(path).removeprefix(f"/context/{context.name}/").removeprefix("./").lstrip("/")
        found = self._catalogue.only_file(identity) if whole else self._catalogue.file(identity, wanted)
        return found or self._nearest(context, wanted)

    def _nearest(self, context: Context, wanted: str) -> FileRow:
        """Find the only file whose path ends with `wanted`. Raises UnknownPath with near paths, UnknownContext."""
        rows = self._catalogue.files(context.context_id)
        if not rows:
            raise UnknownContext(f"{context.name} ({context.context_id}) has been removed: register it again")
        if not wanted:
            some = ", ".join(row.path for row in rows[:3])
            raise UnknownPath(f"{context.name} has {len(rows):,} files ({some}, …): say which with `path`")
        ending = [row for row in rows if row.path.endswith(f"/{wanted}")]
        if len(ending) == 1:
            return ending[0]
        near = _closest(wanted, [row.path for row in (ending or rows)])
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {rows[0].path} and {len(rows) - 1:,} more"
        raise UnknownPath(f"{context.name} has no file {wanted[:200]!r}: {hint}")

    def _entry(self, row: FileRow) -> FileEntry:
        location = self._location(row)
        return FileEntry(
            path=row.path,
            key=row.blob,
            locate=location,
            read=location.read,
            exact=row.exact,
            bytes=row.bytes,
            chars=row.chars,
            lines=row.lines,
            longest_line=row.longest_line,
            pages=row.pages,
        )

    def _text(self, row: FileRow) -> LocalText:
        """The file that holds a text, checked against the catalogue. Raises SourceChanged, StoreDamaged."""
        if is_reference(row.blob):
            reference = reference_of(row.blob)
            if isinstance(reference, Reference):
                return LocalText(reference.check())
            return self._objects.local_text(reference, is_counted=row.exact)
        try:
            return self._blobs.local_text(row.blob, row.bytes)
        except StoreDamaged as error:
            raise StoreDamaged(f"{row.path} cannot be read: {error}") from error

    def _index(self, row: FileRow, far_enough: Callable[[Counts], bool]) -> LineIndex:
        if not is_reference(row.blob):
            if self._blobs.part_reader(row.blob, row.bytes) is None:
                self._text(row)
            return self._blobs.index(row.blob)
        reference = reference_of(row.blob)
        if isinstance(reference, ObjectReference):
            return self._objects.index(reference, far_enough, is_counted=row.exact)
        reference.check()
        return self._indexes.index(reference, far_enough)

    def _note_counts(self, counts: Mapping[str, Counts]) -> None:
        """Replace estimates by exact counts once referenced texts are indexed."""
        with self._catalogue.writing():
            self._catalogue.set_counts(counts)


class _TextLocation:
    """Where a text lies, which is looked for once. Its file stays there for the life of this object."""

    __slots__ = ("_find", "_find_part_reader", "_found")

    def __init__(self, find: Callable[[], LocalText], find_part_reader: Callable[[], ReadBytes | None]) -> None:
        self._find = find
        self._find_part_reader = find_part_reader
        self._found: LocalText | None = None

    def __call__(self) -> Path:
        if self._found is None:
            self._found = self._find()
        return self._found.path

    def part_reader(self) -> ReadBytes | None:
        """Reads parts of the text by requests; None if its file is better."""
        return None if self._found is not None else self._find_part_reader()

    def read(self, start: int, end: int) -> bytes:
        """The bytes `[start:end]`, by a request for them alone where that is better."""
        by_request = self.part_reader()
        return read_bytes(self(), start, end) if by_request is None else by_request(start, end)


def _closest(wanted: str, known: Sequence[str]) -> Sequence[str]:
    """The few names that look most like `wanted`."""
    from difflib import get_close_matches

    return get_close_matches(wanted, known, n=3, cutoff=0.4)

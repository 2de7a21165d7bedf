"""The store of contexts: one directory that many processes may use at once.

contexts/catalogue.sqlite3     the contexts and their files (catalogue.py)
contexts/blobs/ab/ab….txt      texts by hash, with their line index when they are large (blobs.py)
contexts/indexes/….index       line indexes of files that are referenced, not copied (references.py)
contexts/texts/                texts of objects of buckets, where no other place is named (text_cache.py)
contexts/incoming/TOKEN/       texts that a process is ingesting (staging.py); garbage once that process is dead
contexts/conversions/…TOKEN    what a process is converting (conversions.py)
contexts/holders/TOKEN.lock    locked by a process while it is alive (process_locks.py)
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import BinaryIO, Self

from rlm_mcp.contexts.sources.bucket_access import BucketAccess
from rlm_mcp.contexts.sources.fetched import LEFT_OUT, STDIN
from rlm_mcp.contexts.sources.remote import RemoteAccess
from rlm_mcp.contexts.store.blobs import FileBlobs, disk_errors
from rlm_mcp.contexts.store.catalogue import FileRow, SqliteCatalogue, check_name, safe_name
from rlm_mcp.contexts.store.context_texts import ContextTexts
from rlm_mcp.contexts.store.conversions import ConversionJournal
from rlm_mcp.contexts.store.entries import ContextEntries
from rlm_mcp.contexts.store.fetching import TextFetcher
from rlm_mcp.contexts.store.garbage import GarbageCollector
from rlm_mcp.contexts.store.ingest import Ingest
from rlm_mcp.contexts.store.lookup import find_context, find_file, list_page
from rlm_mcp.contexts.store.object_texts import ObjectSources, ObjectTexts
from rlm_mcp.contexts.store.plain_copies import PlainCopies
from rlm_mcp.contexts.store.process_locks import ProcessLock, dead_tokens
from rlm_mcp.contexts.store.protocols import StoreParts
from rlm_mcp.contexts.store.publishing import Publisher
from rlm_mcp.contexts.store.references import (
    Reference,
    ReferenceIndexes,
    is_reference,
    reference_of,
)
from rlm_mcp.contexts.store.staging import StagingArea
from rlm_mcp.contexts.store.uses import LockedUses
from rlm_mcp.contexts.text.encoding import UTF8, encode_text, named_encoding
from rlm_mcp.contexts.text.line_index import Counts, LineIndex
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import Context, FileEntry, Freed, LineAddress, LineRange, Page, Skipped
from rlm_mcp.errors import (
    ContextInUse,
    SourceRefused,
    StoreDamaged,
)

REFERENCE_ABOVE_BYTES = 1 << 30
"""A larger file is referenced where it lies: copying it would take seconds and double the disk space."""

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
        self._fetcher = TextFetcher(self._blobs)
        self._texts = ContextTexts(self._blobs, self._objects, self._indexes)
        self._garbage = GarbageCollector(
            directory=self._directory,
            catalogue=self._catalogue,
            blobs=self._blobs,
            uses=self._uses,
            indexes=self._indexes,
        )
        self._publisher = Publisher(catalogue=self._catalogue, garbage=self._garbage, quota_bytes=quota_bytes)

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
        self._fetcher.close()
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
            return self._publisher.publish(
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
            default = safe_name(opened.name)
            context = self._publisher.publish(staging, ingest, wanted=wanted, default=default, options=options)
        if not context.exact:
            for row in ingest.rows:
                if is_reference(row.blob) and isinstance(referenced := reference_of(row.blob), Reference):
                    self._indexes.grow(referenced)
        return context

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

    # --- finding

    def get(self, ref: str) -> Context:
        """Find the context with this id, or the newest with this name. Raises UnknownContext."""
        return find_context(self._catalogue, ref)

    def list(self, query: str = "", *, limit: int = 20, cursor: str | None = None) -> Page:
        """List current contexts, newest first, whose name or source contains `query`. Raises OutOfRange."""
        return list_page(self._catalogue, query, limit=limit, cursor=cursor)

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

    def files(self, context: Context) -> ContextEntries:
        """List the texts of the context by path, from the catalogue alone."""
        self._objects.note_counts()
        return ContextEntries(self._catalogue.files(context.context_id), self._texts.entry)

    def file(self, context: Context, path: str | None = None) -> FileEntry:
        """Find one text of the context; the path may be left out if there is only one. Raises UnknownPath."""
        return self._texts.entry(self._row(context, path))

    def plain_files(self, files: Sequence[FileEntry], timeout: Timeout) -> Sequence[FileEntry]:
        """The same texts without terminal colours, as searches see them: those that have any are copied.

        Those are left out that could not be fetched in time.
        """
        return self._plain_copies.entries(self._fetcher.fetch(files, timeout), timeout)

    def fetch_ahead(self, files: Sequence[FileEntry]) -> None:
        """Starts to fetch texts that will probably be read next, where that takes requests.

        They stay on this machine as long as their entries. What goes wrong is told when they are read.
        """
        self._fetcher.fetch_ahead(files)

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
        return self._texts.addressed(self._row(context, path)).read_lines(start_line, end_line, max_chars=max_chars)

    def read_chars(self, context: Context, start: int, end: int, *, path: str | None = None) -> str:
        """Read the characters `[start:end]` of one file; neither bound may be negative."""
        return self._texts.addressed(self._row(context, path)).read_chars(start, end)

    def locate_line(self, context: Context, line: int, *, path: str | None = None) -> LineAddress:
        """Give the byte and character offset and the page of a line. Raises UnknownPath, OutOfRange."""
        return self._texts.addressed(self._row(context, path)).locate_line(line)

    def text(self, context: Context, path: str | None = None) -> str:
        """Load one file whole; the path may be left out if there is only one."""
        text = self._texts.local_text(self._row(context, path))
        try:
            return text.path.read_bytes().decode(errors="replace")
        except OSError as error:
            raise StoreDamaged(f"{text.path} cannot be read ({error.strerror}): register it again") from error

    def line_index(self, context: Context, path: str | None = None) -> LineIndex:
        """The complete line index of one file; for a large referenced file this may take seconds."""
        return self._texts.index(self._row(context, path), lambda _: False)

    def wait_for_indexes(self, seconds: float = 60.0) -> bool:
        """Wait until the files referenced by this process are indexed; False when that takes longer."""
        return self._indexes.wait(seconds)

    def _row(self, context: Context, path: str | None) -> FileRow:
        return find_file(self._catalogue, context, path)

    def _note_counts(self, counts: Mapping[str, Counts]) -> None:
        """Replace estimates by exact counts once referenced texts are indexed."""
        with self._catalogue.writing():
            self._catalogue.set_counts(counts)

"""Finds contexts and their files by what a caller calls them; an error names what is close."""

from collections.abc import Sequence

from rlm_mcp.contexts.sources.address import is_address, shown_address
from rlm_mcp.contexts.store.catalogue import MAX_NAME, FileRow
from rlm_mcp.contexts.store.protocols import Catalogue
from rlm_mcp.contexts.types import Context, Page
from rlm_mcp.errors import OutOfRange, UnknownContext, UnknownPath

MOST_LISTED = 1_000_000
"""Contexts on one page, at most: SQLite takes no number above 2^63."""


def find_context(catalogue: Catalogue, ref: str) -> Context:
    """Find the context with this id, or the newest with this name. Raises UnknownContext."""
    ref = ref.removeprefix("rlm://contexts/")
    context = catalogue.by_id(ref) or catalogue.by_name(ref)
    if context is None:
        if is_address(ref):
            raise UnknownContext(
                f"{shown_address(ref)} is an address, not a context: register it first (`register_context`)"
            )
        known = [there.name for there in catalogue.page("", after=None, limit=100)]
        near = _closest(ref[:MAX_NAME], known) or known[:3]
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else "nothing is registered yet; "
        raise UnknownContext(
            f"no context has the id or name {ref[:100]!r}: {hint}`list_contexts` shows all, `register_context` adds one"
        )
    return context


def list_page(catalogue: Catalogue, query: str, *, limit: int, cursor: str | None) -> Page:
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
    found = catalogue.page(query, after=after, limit=limit + 1)
    more = len(found) > limit
    last = found[:limit][-1] if more else None
    return Page(
        contexts=tuple(found[:limit]),
        next_cursor=f"{last.created_at}~{last.context_id}" if last else None,
        total=catalogue.count(query),
    )


def find_file(catalogue: Catalogue, context: Context, path: str | None) -> FileRow:
    """One file of a context; the path may be left out if there is only one. Raises UnknownPath, UnknownContext."""
    identity = context.context_id
    whole = path is None or path in {"", context.name}
    wanted = "" if whole else str(path).removeprefix(f"/context/{context.name}/").removeprefix("./").lstrip("/")
    found = catalogue.only_file(identity) if whole else catalogue.file(identity, wanted)
    return found or _nearest(catalogue, context, wanted)


def _nearest(catalogue: Catalogue, context: Context, wanted: str) -> FileRow:
    """Find the only file whose path ends with `wanted`. Raises UnknownPath with near paths, UnknownContext."""
    rows = catalogue.files(context.context_id)
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


def _closest(wanted: str, known: Sequence[str]) -> Sequence[str]:
    """The few names that look most like `wanted`."""
    from difflib import get_close_matches

    return get_close_matches(wanted, known, n=3, cutoff=0.4)

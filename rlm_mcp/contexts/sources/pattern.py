"""Globs: the files that match a pattern such as `logs/**/*.log`, named relative to its part without wildcards."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rlm_mcp.contexts.sources.directory import files_below, piece_or_skip
from rlm_mcp.contexts.sources.source import MAX_FILES, AccessPolicy, Piece
from rlm_mcp.contexts.text.globs import depth_of, glob_regex, is_glob
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceRefused


def fixed_part(source: str) -> Path:
    """The directory above the first wildcard."""
    parts = Path(source).parts
    wild = next(at for at, part in enumerate(parts) if is_glob(part))
    return Path(*parts[:wild])


def wild_part(source: str) -> str:
    """The rest of the pattern, from the first name with a wildcard."""
    return Path(source).relative_to(fixed_part(source)).as_posix()


def match(
    source: str, *, base: Path, policy: AccessPolicy, check_cancelled: Callable[[], None]
) -> Iterator[Piece | Skipped]:
    """The files that match, in order of path; links to directories are not followed."""
    wild = wild_part(source)
    try:
        matches = glob_regex(wild).fullmatch
    except re.error as error:
        raise SourceRefused(f"{source[:200]} is not a glob ({error}): a `[` begins a set such as `[0-9]`") from error
    found = 0
    for path, entry in files_below(base, policy=policy, check_cancelled=check_cancelled, depth=depth_of(wild)):
        if not matches(path):
            continue
        found += 1
        if found > MAX_FILES:
            raise SourceRefused(f"more than {MAX_FILES:,} files match {source}: narrow the pattern")
        yield entry if isinstance(entry, Skipped) else piece_or_skip(entry, shown=path, policy=policy)
    if not found:
        raise SourceRefused(
            f"nothing matches the pattern {source}: `*` matches no `/`, `**/` matches any number of directories"
        )

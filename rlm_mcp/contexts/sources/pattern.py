"""A glob: the files that fit a pattern such as `logs/**/*.log`, named from the part of it that has no wildcard."""

import glob
from collections.abc import Iterator
from pathlib import Path

from rlm_mcp.contexts.context import Skipped
from rlm_mcp.contexts.sources.directory import NOT_WORTH_READING, consider, printable
from rlm_mcp.contexts.sources.source import MAX_FILES, Allowed, Piece
from rlm_mcp.errors import SourceRefused


def is_pattern(source: str) -> bool:
    """Tell whether a source has wildcards."""
    return glob.has_magic(source)


def fixed_part(source: str) -> Path:
    """Give the directory above the first wildcard."""
    parts = Path(source).parts
    wild = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:wild])


def match(source: str, *, base: Path, allowed: Allowed) -> Iterator[Piece | Skipped]:
    """Give the files that fit, in order of path. Directories that fit are not entered: say `**` for that."""
    wild = source[len(str(fixed_part(source))) :].lstrip("/\\") if fixed_part(source).parts else source
    found = glob.iglob(wild, root_dir=base, recursive=True, include_hidden=True)  # noqa: PTH207 - Path.glob follows no `**` twice and has no hidden files switch
    paths = sorted(
        path for path in found
        if not NOT_WORTH_READING.keys() & set(Path(path).parts[:-1]) and not (base / path).is_dir()
    )  # fmt: skip
    if not paths:
        raise SourceRefused(f"nothing fits the pattern {source}: `*` stops at a directory, `**/` goes through them")
    if len(paths) > MAX_FILES:
        raise SourceRefused(f"more than {MAX_FILES:,} files fit {source}: narrow the pattern")
    for path in paths:
        shown = "/".join(printable(part) for part in Path(path).parts)
        yield consider(base / path, shown=shown, allowed=allowed)

"""Names and ids of contexts."""

import hashlib
import json
import re
from collections.abc import Sequence

from rlm_mcp.contexts.store.catalogue import FileRow
from rlm_mcp.contexts.types import Kind
from rlm_mcp.errors import NameTaken

MAX_NAME = 100
_ID = re.compile(r"ctx_[0-9a-f]{16}")


def check_name(name: str) -> str:
    """Gives the name back if it can be one: it is also the name of a directory, `/context/<name>`."""
    if not name or name != name.strip() or len(name) > MAX_NAME or not name.isprintable():
        reason = "it must have 1 to 100 printable characters and neither begin nor end with a space"
    elif "/" in name or "\\" in name or name.startswith(".") or ":" in name:
        reason = "it must not begin with a dot nor hold a slash, a backslash or a colon"
    elif _ID.fullmatch(name):
        reason = "it looks like the id of a context"
    else:
        return name
    raise NameTaken(f"{name[:MAX_NAME]!r} cannot be the name of a context: {reason}; {safe_name(name)!r} would do")


def safe_name(name: str) -> str:
    """Makes a name out of anything."""
    name = "".join(char if char.isprintable() and char not in "/\\:" else "-" for char in name).strip(" .-")
    return name[:MAX_NAME].strip() or "context"


def context_id(name: str, kind: Kind, files: Sequence[FileRow]) -> str:
    """Derives the id from name and content: the same content under the same name is the same context everywhere."""
    content = [(row.path if kind == "files" else "", row.blob) for row in files]
    digest = hashlib.sha256(json.dumps([name, kind, content]).encode("utf-8", "surrogatepass"))
    return f"ctx_{digest.hexdigest()[:16]}"

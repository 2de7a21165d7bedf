"""The bound on one message on stdio, and the answer to a longer one.

A longer line is read to its end and dropped. Its sender gets an error under the id of its request, which is looked for
in the first and last bytes of the line: JSON-RPC libraries write the id before the parameters or at the very end.

Of the standard library alone, like stdio_pipe.py.
"""

import json
import re
from io import BufferedIOBase

MOST_BYTES = 64 << 20
"""Size of one message. Parsed, it takes several times as much memory. A larger text belongs in a file."""

ID_BYTES = 1 << 10
"""Bytes at each end of a line in which the id is looked for."""

INVALID_REQUEST = -32600

_MEMBER = re.compile(rb'[\s{,]*+"(jsonrpc|id|method)"\s*+:\s*+("[^"\\]*+"|-?\d++)\s*+(?=,)')
# The last brace of a JSON text closes the whole message, so the member before it is one of the message itself.
_LAST_ID = re.compile(rb'[,{]\s*+"id"\s*+:\s*+("[^"\\]*+"|-?\d++)\s*+\}\s*+\Z')


def drop_line(source: BufferedIOBase, begin: bytes, most_bytes: int) -> str:
    """Reads to the end of a line that has begun with more than `most_bytes`; the error that answers it, as a line."""
    length, end = len(begin), begin[-ID_BYTES:]
    while not end.endswith(b"\n") and (part := source.readline(1 << 16)):
        length += len(part)
        end = (end + part)[-ID_BYTES:]
    message = (
        f"a message of {length:,} bytes is too long, at most {most_bytes:,} are read: register a large text as a file, "
        "by source in the place of text"
    )
    error = {"code": INVALID_REQUEST, "message": message}
    return json.dumps({"jsonrpc": "2.0", "id": request_id(begin[:ID_BYTES], end), "error": error}) + "\n"


def request_id(begin: bytes, end: bytes) -> object:
    """The id of the request that begins and ends so; None if it is no request, or the id is elsewhere."""
    members: dict[bytes, bytes] = {}
    at = 0
    while found := _MEMBER.match(begin, at):
        members[found[1]] = found[2]
        at = found.end()
    if b"method" not in members:  # a response has an id, too, but one of our requests
        return None
    last = _LAST_ID.search(end)
    written = members.get(b"id") or (last and last[1])
    return json.loads(written) if written else None

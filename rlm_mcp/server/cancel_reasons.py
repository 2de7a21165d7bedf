"""Whether a client that cancels a call has waited too long, or its user wants it to stop.

`notifications/cancelled` has a free text for it. SDKs write "timed out after 5s" or "Request timed out" there when a
call has taken longer than they wait; many of them wait 5 or 60 seconds. Their model then asks the same again, so the
run must go on, or each time-out would throw away what was paid for.
"""

import re

_READ_CHARS = 500
_TIME_OUT = re.compile(
    r"tim(e[sd]?|ing)[\s_-]*out|-32001|deadline|did(n.t| not) respond|no response|took too long|exceeded", re.IGNORECASE
)
_BY_USER = re.compile(r"\b(user|ctrl|sigint|interrupt)", re.IGNORECASE)


def is_time_out(reason: object) -> bool:
    """Whether the reason of a cancellation is that the client has waited too long. A user's reason never is."""
    text = reason[:_READ_CHARS] if isinstance(reason, str) else ""
    return _TIME_OUT.search(text) is not None and _BY_USER.search(text) is None

"""Configurations and differences of them, with secrets masked: values whose names say so, and what looks like a key."""

import re

from rlm_mcp.redact import without_keys

MASK = "***"
_NAME = r"[\w.-]*(?:key|token|secret|passw|auth|credential|cookie)[\w.-]*"
_IN_QUOTES = re.compile(rf"""(["']?{_NAME}["']?\s*[:=]\s*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*')""", re.IGNORECASE)
_ARGUMENT = re.compile(rf"(--?{_NAME}=)[^\s\"',\]]+", re.IGNORECASE)
_NEXT_ARGUMENT = re.compile(rf"""(["']--?{_NAME}["']\s*,[\s+-]*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*')""", re.IGNORECASE)
_PLAIN = re.compile(rf"^([-+ ]?\s*{_NAME}:[ \t]+)([^\s\"'{{\[&*|>#].*)$", re.IGNORECASE | re.MULTILINE)


def masked(text: str) -> str:
    """The text as it may be shown."""
    for pattern in (_IN_QUOTES, _NEXT_ARGUMENT):
        text = pattern.sub(lambda found: found[1] + found[2][0] + MASK + found[2][0], text)
    for pattern in (_PLAIN, _ARGUMENT):
        text = pattern.sub(lambda found: found[1] + MASK, text)
    return without_keys(text)

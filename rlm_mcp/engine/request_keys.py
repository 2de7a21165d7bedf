"""Keys of requests: the same request has the same key in every run, which is what resume and replay compare."""

import hashlib
import json
from collections.abc import Sequence

from rlm_mcp.models.base import Message


def prompt_hash(messages: Sequence[Message]) -> str:
    """A short name for exactly these messages; what `replay` compares."""
    canonical = json.dumps([[m.role, m.content] for m in messages], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def call_key(kind: str, *parts: object) -> str:
    """A short name for one request of guest code: the same request has the same key in every run."""
    canonical = json.dumps([kind, *parts], ensure_ascii=True, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]

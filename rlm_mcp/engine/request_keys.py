"""Keys of requests. The same request has the same key in every run; resume and replay rest on that."""

import hashlib
import json
from collections.abc import Sequence

from rlm_mcp.models.base import Message


def prompt_hash(messages: Sequence[Message]) -> str:
    """A short hash of exactly these messages, which a replay compares."""
    canonical = json.dumps([[m.role, m.content] for m in messages], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def call_key(kind: str, *parts: object) -> str:
    """A short hash of one request of guest code."""
    canonical = json.dumps([kind, *parts], ensure_ascii=True, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]

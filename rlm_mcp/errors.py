"""Errors that callers of rlm_mcp may catch. `str(error)` is one sentence: what happened, with the values, and what to do.

RlmError
"""


class RlmError(Exception):
    """Base of every error that rlm_mcp raises on purpose; its text may be shown to a user or a model."""

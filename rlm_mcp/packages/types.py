"""Errors of packages, and the type of progress reports."""

from collections.abc import Callable

from rlm_mcp.errors import RlmError

Report = Callable[[str], None]


class PackageRefused(RlmError):
    """A package cannot be had for the sandbox; the text says why."""


class PackagesMissing(RlmError):
    """The setting `packages`, a request or a record asks for what no image has."""

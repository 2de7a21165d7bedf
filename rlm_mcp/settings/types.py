"""All settings as values, and the limits that they put on a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlm_mcp.errors import SettingsError
from rlm_mcp.redact import Secret, ellipsize
from rlm_mcp.spending import REQUESTED_LIMITS, Price, RunLimits

MOST, MOST_SECONDS = 10**18, 10**9
"""The largest numbers that settings and limits may have: 64-bit integers, and what timers take (31 years)."""

DEFAULT_LIMITS = RunLimits(max_sub_calls=1_000, max_seconds=1_800.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolServer:
    """Another MCP server on stdio: how it is started, and which of its tools code of a run may call."""

    command: tuple[str, ...]
    allow: tuple[str, ...]
    env: Mapping[str, Secret] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, parsed. `limits` are the defaults of a run.

    `sources` holds the origin of each value that was set; `warnings` lists variables that have no effect.
    """

    data_dir: Path
    cache_dir: Path
    model: str | None = None
    sub_model: str | None = None
    base_url: str | None = None
    sub_base_url: str | None = None
    api_key: Secret = field(default_factory=lambda: Secret(""))
    sub_api_key: Secret = field(default_factory=lambda: Secret(""))
    roots: tuple[Path, ...] | None = None
    """None: anywhere for the user's own commands, `local_roots` for a client on stdio, nowhere over HTTP."""
    fetch_hosts: tuple[str, ...] | None = None
    """Names, `*.example.org` or `*`. None: any host for the user's own clients and commands, none over HTTP."""
    fetch_networks: tuple[str, ...] = ()
    """Networks whose addresses may be fetched from though they are not public."""
    fetch_with_keys: bool = True
    """Whether ssh, and so the keys of this user, may be used; not over HTTP."""
    s3_sources: tuple[str, ...] = ()
    """`s3://BUCKET/PREFIX` of objects that may be sources, for all clients and commands. Empty: none."""
    quota_bytes: int | None = None
    """Size of one store. None: as much as the disk holds, or over HTTP `tenant_application.QUOTA_BYTES`."""
    packages: tuple[str, ...] | None = None
    """("none",), ("data",) or names. None: the packages that were added, else the prebuilt ones, else none."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    window_tokens: int | None = None
    sub_window_tokens: int | None = None
    sub_call_cache: bool = True
    summaries: bool = False
    """Whether a strong root model sums up a dialogue that gets too long for its window; else turns become lines."""
    limits: RunLimits = DEFAULT_LIMITS
    """If `max_iterations` is None, the profile of the root model decides."""
    tools: Mapping[str, ToolServer] = field(default_factory=dict)
    """Not over HTTP, where each worker is without network and other programs."""
    confirm_usd: float | None = None
    """None: the client's user is never asked before a run."""
    longest_wait: float | None = None
    """Seconds of one tool call. None: `server/client_limits.py` knows them by the client's name."""
    traces: bool = False
    """Whether the OTEL_* variables ask for spans of runs; OpenTelemetry's SDK reads their destination itself."""
    trace_content: bool = False
    """Whether these spans include prompts, code and answers."""
    store: Secret = field(default_factory=lambda: Secret(""))
    """URL of the Postgres database of a cluster, which may hold a password. Empty: SQLite and files of this machine."""
    blobs: str | None = None
    """`s3://BUCKET/PREFIX` of a cluster."""
    text_cache_bytes: int | None = None
    """Of the texts of buckets that each process keeps in `cache_dir`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Setting to origin: "--model", "RLM_MCP_MODEL" or "model in ~/.config/rlm-mcp/config.toml, line 3"."""
    warnings: tuple[str, ...] = ()

    def limits_for(self, asked: RunLimits) -> RunLimits:
        """The limits of one run that asks for these. A limit that the user has set can be lowered, never raised."""
        merged: dict[str, Any] = {name: self._limit(name, getattr(asked, name)) for name in REQUESTED_LIMITS}
        return replace(self.limits, **merged)

    def _limit(self, name: str, asked: float | None) -> float | None:
        own: float | None = getattr(self.limits, name)
        if asked is None:
            return own
        most = MOST_SECONDS if name == "max_seconds" else MOST
        if not 0 <= asked <= most:  # NaN is neither
            raise SettingsError(f"{name}={shown(asked)} is not a limit: give a number from 0 to {most:,}")
        return min(asked, own) if own is not None and name in self.sources else asked

    def value_of(self, name: str) -> object:
        """The value of the setting of this name."""
        return getattr(self.limits if name in RunLimits.__slots__ else self, name)


def shown(value: object) -> str:
    """A value of any kind, as an error shows it."""
    try:
        return ellipsize(repr(value), 100)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits, or nested too deep
        return f"a value of type {type(value).__name__} that is too large to show"

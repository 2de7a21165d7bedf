"""The start parameters of a worker process."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket
from typing import Any

from rlm_mcp.redact import Secret
from rlm_mcp.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WorkerStart:
    """It is passed from the front to its own worker over a private socket, so secrets are in it; it has no repr."""

    version: str
    """of rlm-mcp in the front"""
    number: int
    settings: Mapping[str, Any]
    """as `plain` makes them"""
    key: str
    """with which the front proves that a request is from it"""
    state_key: bytes
    """seals the state of requests that wait for input, alike in all workers and their successors"""
    count: int
    """of all workers, which share the machine's memory"""
    tenants: tuple[str, ...] = ()
    """whose workspaces are opened at once, so that runs which were left go on"""
    given_up: tuple[str, ...] = ()
    """ids of runs and calls that clients gave up just before the worker ended that this one follows (open_calls.py)"""
    hidden: tuple[Path, ...] = ()
    """files that a worker must not be able to read"""
    temp_dir: Path = Path()
    """of this worker alone"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnds:
    """A worker's ends of what connects it to the front."""

    listener: socket
    """where the front sends requests"""
    lifeline: Connection
    """whose other end the front holds until its end, or that of the worker"""
    egress: socket | None
    """for connections to models; None: the worker connects itself"""


def plain(settings: Settings) -> Mapping[str, Any]:
    """The settings with their secrets in plain text, for pickle. Workers start no tool servers, and use no database."""
    settings = replace(settings, tools={}, store=Secret(""))
    values = {each.name: getattr(settings, each.name) for each in fields(Settings)}
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in values.items()}


def restored(values: Mapping[str, Any]) -> Settings:
    """The settings that `plain` was given."""
    secrets = {name: Secret(values[name]) for name in ("api_key", "sub_api_key", "store")}
    return Settings(**{**values, **secrets})

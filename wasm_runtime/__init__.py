"""Pyodide's CPython on Wasmtime, with no JavaScript engine: sessions that start in a fraction of a millisecond."""

from wasm_runtime.distributed import Distribution
from wasm_runtime.errors import (
    CallRefused,
    GuestCallError,
    ImageError,
    OutOfMemoryBudget,
    RuntimeFailure,
    SessionBusy,
    SessionClosed,
    SnapshotMismatch,
)
from wasm_runtime.foresight import ExpectedCall, Foresight
from wasm_runtime.limits import Limits
from wasm_runtime.results import ExecError, ExecResult
from wasm_runtime.runtime import Runtime
from wasm_runtime.session import Session
from wasm_runtime.snapshot import Checkpoint, Template
from wasm_runtime.submitted_calls import Starts, Timed
from wasm_runtime.vfs.mounted_files import LateFile

__all__ = [
    "CallRefused",
    "Checkpoint",
    "Distribution",
    "ExecError",
    "ExecResult",
    "ExpectedCall",
    "Foresight",
    "GuestCallError",
    "ImageError",
    "LateFile",
    "Limits",
    "OutOfMemoryBudget",
    "Runtime",
    "RuntimeFailure",
    "Session",
    "SessionBusy",
    "SessionClosed",
    "SnapshotMismatch",
    "Starts",
    "Template",
    "Timed",
]

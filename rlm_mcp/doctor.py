"""`rlm-mcp doctor`: what works on this machine, what does not, and what to do about it.

Each check looks for itself and costs little; only the model check sends something, one request of a few tokens.
"""

import platform
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import anyio.to_thread

from rlm_mcp.errors import NoModelConfigured, RlmError
from rlm_mcp.models.base import Message
from rlm_mcp.providers import open_models
from rlm_mcp.settings import Settings
from wasm_runtime import Runtime, RuntimeFailure
from wasm_runtime.artifacts import is_compiled, load_image

Status = Literal["ok", "warning", "failure"]

LITTLE_ROOM_BYTES = 200 << 20
"""Below this the compiled sandbox (50 MB) and a context of ordinary size no longer fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report; `remedy` says what to do, and is empty where nothing has to be done."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


async def examine(settings: Settings, *, warm: bool, on_progress: Callable[[str], None]) -> AsyncIterator[Check]:
    """The checks, one after the other. `warm` compiles the sandbox where that has not been done."""
    yield Check(name="python", status="ok", detail=f"{platform.python_version()} at {sys.executable}")
    if warm or is_compiled(load_image(), settings.cache_dir):
        yield await anyio.to_thread.run_sync(_sandbox, settings.cache_dir, on_progress)
    yield await anyio.to_thread.run_sync(_compiled, settings.cache_dir)
    yield await anyio.to_thread.run_sync(_data, settings.data_dir)
    yield await _model(settings)


def _compiled(cache_dir: Path) -> Check:
    image = load_image()
    detail = f"wasmtime {version('wasmtime')}, image {image.sha256[:12]}, cache {cache_dir}"
    if is_compiled(image, cache_dir):
        return Check(name="sandbox image", status="ok", detail=f"{detail}, compiled")
    remedy = "the first run compiles it (5 to 12 s); rlm-mcp doctor --warm does so now"
    return Check(name="sandbox image", status="warning", detail=f"{detail}, not compiled yet", remedy=remedy)


def _sandbox(cache_dir: Path, on_progress: Callable[[str], None]) -> Check:
    started = time.perf_counter()
    try:
        with Runtime(cache_dir, on_progress=on_progress) as runtime, runtime.session() as session:
            value = session.exec("sum(range(10))").value
    except RuntimeFailure as error:
        return Check(name="sandbox", status="failure", detail=str(error), remedy="see the sentence")
    seconds = time.perf_counter() - started
    if value != "45":
        return Check(
            name="sandbox", status="failure", detail=f"sum(range(10)) gave {value}", remedy="reinstall rlm-mcp"
        )
    return Check(name="sandbox", status="ok", detail=f"loaded and ran a cell in {seconds:.2f} s")


def _data(data_dir: Path) -> Check:
    existing = next(folder for folder in (data_dir, *data_dir.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    held = sum(file.stat().st_size for file in data_dir.rglob("*") if file.is_file()) if data_dir.exists() else 0
    detail = f"{data_dir}, {held / 1e6:,.1f} MB held, {free / 1e9:,.1f} GB free"
    if free < LITTLE_ROOM_BYTES:
        return Check(name="data", status="warning", detail=detail, remedy="free some space, or set RLM_MCP_DATA_DIR")
    return Check(name="data", status="ok", detail=detail)


async def _model(settings: Settings) -> Check:
    async with open_models(settings) as models:
        try:
            chosen = await models.choose()
            started = time.perf_counter()
            done = await chosen.root.complete([Message(role="user", content="Reply with: ok")], max_tokens=16)
        except NoModelConfigured as error:
            return Check(name="model", status="warning", detail="none", remedy=str(error))
        except RlmError as error:
            return Check(name="model", status="failure", detail=str(error), remedy="see the sentence")
    seconds, used = time.perf_counter() - started, done.usage.prompt_tokens + done.usage.completion_tokens
    found = f" (found: {chosen.found})" if chosen.found else ""
    detail = f"{chosen.root.name}{found} answered in {seconds:.1f} s, {used} tokens"
    return Check(name="model", status="ok", detail=detail)

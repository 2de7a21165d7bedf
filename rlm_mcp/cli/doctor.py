"""`rlm-mcp doctor`: checks what works on this machine, and says what to do about the rest.

The checks are independent and cheap. Only those of models send anything: one request of a few tokens each.
"""

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread

from rlm_mcp.bucket_address import BucketAddress, parse_bucket
from rlm_mcp.contexts.sources.bucket_access import OpenBucket, open_s3
from rlm_mcp.errors import NoModelConfigured, RlmError, SettingsError
from rlm_mcp.install.clients import Entry
from rlm_mcp.install.own_command import own_command
from rlm_mcp.install.state import ClientState, client_states
from rlm_mcp.install.user_folders import UserFolders, current_user_folders
from rlm_mcp.models.base import Completion, Message, Model
from rlm_mcp.models.discovery import USUAL_PORTS, LocalServer, facts_of, find_local_servers
from rlm_mcp.models.pool import Chosen, open_models
from rlm_mcp.models.profiles import is_known
from rlm_mcp.models.sampling_queue import CLIENT
from rlm_mcp.packages.library import PackageLibrary, folder_of
from rlm_mcp.packages.types import PackagesMissing
from rlm_mcp.settings import Settings
from wasm_runtime import Runtime, RuntimeFailure
from wasm_runtime.compile_cache import is_compiled, load_image

CheckStatus = Literal["ok", "warning", "failure"]

LITTLE_ROOM_BYTES = 200 << 20
"""Below this, the compiled sandbox (50 MB) and a context of ordinary size no longer fit together."""

# A local server may have to load the model first.
MODEL_SECONDS = 120.0
# Enough for a model that reasons before it answers in one word.
REPLY_TOKENS = 512
# The question does not mention JSON, so a reply in JSON shows that the schema works.
QUESTION = "Which colour has a clear sky at noon? Answer in one word."
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string"}},
    "required": ["colour"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report. `remedy` says what to do; it is empty if there is nothing to do or `detail` says it."""

    name: str
    status: CheckStatus
    detail: str
    remedy: str = ""


async def run_checks(
    settings: Settings,
    *,
    warm: bool,
    on_progress: Callable[[str], None],
    folders: UserFolders | None = None,
    own: Entry | None = None,
    find_servers: Callable[[], Sequence[LocalServer]] = find_local_servers,
    open_bucket: OpenBucket = open_s3,
) -> AsyncIterator[Check]:
    """Runs the checks one after the other. `warm` compiles the sandbox if that has not been done."""
    yield Check(name="python", status="ok", detail=f"{platform.python_version()} at {sys.executable}")
    try:
        image = folder_of(PackageLibrary(settings.data_dir).choose(settings.packages))
    except PackagesMissing as error:
        yield Check(name="packages", status="failure", detail=str(error))
        image = None
    if warm or is_compiled(load_image(image), settings.cache_dir):
        yield await anyio.to_thread.run_sync(_check_sandbox, settings.cache_dir, image, on_progress)
    yield await anyio.to_thread.run_sync(_check_image, settings.cache_dir, image)
    yield await anyio.to_thread.run_sync(_check_disk, settings.data_dir, settings.cache_dir)
    if settings.store or settings.blobs:
        for check in await anyio.to_thread.run_sync(_check_cluster, settings):
            yield check
    for source in settings.s3_sources:
        yield await anyio.to_thread.run_sync(_check_objects, parse_bucket(source, "RLM_MCP_S3_SOURCES"), open_bucket)
    yield _check_local_servers(await anyio.to_thread.run_sync(find_servers))
    async for check in _check_models(settings):
        yield check
    folders, own = folders or current_user_folders(), own or own_command()
    for check in _check_clients(await anyio.to_thread.run_sync(client_states, folders, own)):
        yield check


# --- the sandbox and the disk -------------------------------------------------------------------------------------


def _check_image(cache_dir: Path, folder: Path | None) -> Check:
    image = load_image(folder)
    packages = f" with {len(image.packages)} packages" if image.packages else ""
    detail = f"wasmtime {version('wasmtime')}, image {image.sha256[:12]}{packages}, cache {cache_dir}"
    if is_compiled(image, cache_dir):
        return Check(name="sandbox image", status="ok", detail=f"{detail}, compiled")
    remedy = "the first run compiles it (5 to 12 s); `rlm-mcp doctor --warm` does so now"
    return Check(name="sandbox image", status="warning", detail=f"{detail}, not compiled yet", remedy=remedy)


def _check_sandbox(cache_dir: Path, image: Path | None, on_progress: Callable[[str], None]) -> Check:
    started = time.perf_counter()
    try:
        with Runtime(cache_dir, image=image, on_progress=on_progress) as runtime, runtime.session() as session:
            value = session.exec("sum(range(10))").value
    except RuntimeFailure as error:
        return Check(name="sandbox", status="failure", detail=str(error))
    seconds = time.perf_counter() - started
    if value != "45":
        return Check(
            name="sandbox", status="failure", detail=f"sum(range(10)) returned {value}", remedy="reinstall rlm-mcp"
        )
    return Check(name="sandbox", status="ok", detail=f"loaded and ran a cell in {seconds:.2f} s")


def _check_disk(data_dir: Path, cache_dir: Path) -> Check:
    existing = next(folder for folder in (data_dir, *data_dir.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    sizes = {"contexts": data_dir / "contexts", "runs": data_dir / "runs", "cache": cache_dir}
    held = ", ".join(f"{name} {_bytes_in(folder) / 1e6:,.1f} MB" for name, folder in sizes.items())
    detail = f"{data_dir}: {held}; {free / 1e9:,.1f} GB free"
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        remedy = f"allow writing to {existing}, or set RLM_MCP_DATA_DIR"
        return Check(name="data", status="failure", detail=f"{detail}; it is not writable", remedy=remedy)
    if free < LITTLE_ROOM_BYTES:
        remedy = "free some space (`rlm-mcp contexts gc`), or set RLM_MCP_DATA_DIR"
        return Check(name="data", status="warning", detail=detail, remedy=remedy)
    return Check(name="data", status="ok", detail=detail)


def _check_cluster(settings: Settings) -> list[Check]:
    """One line about the database and one about the bucket."""
    from rlm_mcp.cluster.opening import describe_storage

    try:
        return [
            Check(name=found.part, status="ok" if found.is_usable else "failure", detail=found.detail)
            for found in describe_storage(settings)
        ]
    except SettingsError as error:
        return [Check(name="cluster", status="failure", detail=str(error))]


def _check_objects(address: BucketAddress, open_bucket: OpenBucket) -> Check:
    """Lists a prefix that may be a source, and reads a byte of its first object."""
    try:
        bucket = open_bucket(address.bucket)
        found = next(iter(bucket.listed(address.prefix)), None)
        if found is None and address.prefix:
            found = bucket.find(address.prefix)
        if found is not None and found.size:
            bucket.read(found.key, 0, 1)
    except RlmError as error:
        return Check(name="objects", status="failure", detail=str(error))
    if found is None:
        remedy = "check RLM_MCP_S3_SOURCES, or put objects there"
        return Check(name="objects", status="warning", detail=f"{address.shown} has no objects", remedy=remedy)
    return Check(name="objects", status="ok", detail=f"{address.shown} can be listed and read")


def _bytes_in(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += Path(place, name).lstat().st_size
            except OSError:  # removed in the meantime by a running server
                continue
    return size


# --- models -------------------------------------------------------------------------------------------------------


def _check_local_servers(servers: Sequence[LocalServer]) -> Check:
    if not servers:
        looked = ", ".join(f"{name} {port}" for name, port in USUAL_PORTS)
        return Check(name="local servers", status="ok", detail=f"none found (looked for {looked})")
    found = (f"{s.name} at {s.base_url} with {_shortened(s.models)}" for s in servers)
    return Check(name="local servers", status="ok", detail="; ".join(found))


async def _check_models(settings: Settings) -> AsyncIterator[Check]:
    if settings.model == CLIENT:
        yield Check(name="model", status="ok", detail="the client's own model, if the client offers sampling")
        return
    async with open_models(settings) as pool:
        try:
            chosen = await pool.choose()
        except NoModelConfigured as error:
            yield Check(name="model", status="warning", detail=str(error))
            return
        yield await _check_model("model", chosen.root, settings, chosen)
        if chosen.sub is not chosen.root:
            yield await _check_model("sub-model", chosen.sub, settings, chosen)


async def _check_model(name: str, model: Model, settings: Settings, chosen: Chosen) -> Check:
    started = time.perf_counter()
    where = f"{model.name} at {model.provider}" + (f" (found: {chosen.found})" if chosen.found else "")
    try:
        with anyio.fail_after(MODEL_SECONDS):
            question = [Message(role="user", content=QUESTION)]
            done = await model.complete(question, max_tokens=REPLY_TOKENS, schema=SCHEMA)
    except TimeoutError:
        remedy = "look at the log of the server, or set RLM_MCP_MODEL and RLM_MCP_BASE_URL to another model"
        detail = f"{where} did not answer within {MODEL_SECONDS:.0f} s"
        return Check(name=name, status="failure", detail=detail, remedy=remedy)
    except RlmError as error:
        return Check(name=name, status="failure", detail=str(error))
    seconds = time.perf_counter() - started
    window, doubts = await _describe_window(model, settings, is_sub=name == "sub-model")
    structured, doubt = _describe_structure(done)
    doubts += [doubt] if doubt else []
    usage = done.usage
    counted = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
    if usage.estimated:
        counted += ", estimated because the server reports none"
        doubts.append("token counts are estimates, so limits on tokens are rough")
    if usage.cost_usd is not None:
        counted += f", ${usage.cost_usd:.6f}"
    elif settings.limits.max_usd is not None:
        doubts.append(f"max_usd cannot be enforced, because the price of {model.name} is unknown: set RLM_MCP_PRICES")
    detail = f"{where} answered in {seconds:.1f} s ({counted}); {structured}; {window}"
    return Check(name=name, status="warning" if doubts else "ok", detail=detail, remedy="; ".join(doubts))


async def _describe_window(model: Model, settings: Settings, *, is_sub: bool) -> tuple[str, list[str]]:
    """The context window and its source, with a doubt if it is only assumed."""
    window = f"window {model.profile.window_tokens:,} tokens"
    has_own_endpoint = is_sub and (settings.sub_base_url is not None or bool(settings.sub_api_key))
    if (is_sub and settings.sub_window_tokens) or (settings.window_tokens and not has_own_endpoint):
        return f"{window}, as set", []
    facts = await anyio.to_thread.run_sync(facts_of, model.provider, model.name)
    if facts.window_tokens is not None:
        return f"{window}, as reported by the server", []
    if is_known(model.name, model.provider):
        return f"{window}, known by the model's name", []
    variable = f"RLM_MCP_{'SUB_' if is_sub else ''}WINDOW_TOKENS"
    return f"{window}, assumed", [f"the size of the context window is unknown: set {variable}"]


def _describe_structure(done: Completion) -> tuple[str, str]:
    """Whether the reply follows the schema, with a doubt if it does not."""
    if done.finish_reason == "length":
        return "structured output unknown", f"the reply was cut off at {REPLY_TOKENS} tokens before it said anything"
    try:
        reply = json.loads(done.text)
    except ValueError:
        reply = None
    if isinstance(reply, dict) and isinstance(reply.get("colour"), str):
        return "structured output works", ""
    return "no structured output", "replies do not follow a schema, so classify and output_schema ask again more often"


# --- clients ------------------------------------------------------------------------------------------------------


def _check_clients(states: Sequence[ClientState]) -> list[Check]:
    """One line for each client that has an entry, and one for all clients without an entry."""
    checks = [check for state in states if (check := _check_client(state)) is not None]
    without = [state.client for state in states if state.state == "found"]
    if without:
        detail = f"without rlm-mcp: {', '.join(client.title for client in without)}"
        remedy = "" if checks else f"`rlm-mcp install {without[0].name}` adds it"
        checks.append(Check(name="other clients" if checks else "clients", status="ok", detail=detail, remedy=remedy))
    return checks or [Check(name="clients", status="ok", detail="no configuration of an MCP client was found")]


def _check_client(state: ClientState) -> Check | None:
    name, again = state.client.title, f"`rlm-mcp install {state.client.name}` corrects it"
    match state.state:
        case "current":
            return Check(name=name, status="ok", detail=f"starts this rlm-mcp ({state.path})")
        case "other":
            return Check(name=name, status="warning", detail=f"{state.detail} ({state.path})", remedy=again)
        case "broken":
            return Check(name=name, status="failure", detail=f"{state.detail} ({state.path})", remedy=again)
        case "unreadable":
            return Check(name=name, status="warning", detail=state.detail, remedy="correct the file")
    return None


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

"""One persistent Python namespace with contexts in it: a session of the sandbox and the prelude that runs inside.

The functions of this file block and run on a sandbox thread; `SandboxRepl` is their async face. One cell runs at a time
in a session. Time that its code waits for calls of the host is not counted as its own. Cancelling `SandboxRepl.run`
interrupts the guest, which cancels the calls it waits for; the namespace is kept.
"""

import hashlib
import json
import logging
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
from pydantic import TypeAdapter, ValidationError

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context, FileEntry
from rlm_mcp.errors import RlmError
from rlm_mcp.packages.guidance import import_advice
from rlm_mcp.repl.host_calls import READING, reading_calls
from rlm_mcp.repl.maps import MapNeeds, MapSupply, ShareMap
from rlm_mcp.repl.read_ahead import ReadAhead
from rlm_mcp.repl.threads import SandboxThreads
from rlm_mcp.repl.types import CellError, CellResult, Final, PackCheckpoint, RawCitation, Read, Variable

if TYPE_CHECKING:
    from wasm_runtime import (
        Checkpoint,
        Distribution,
        ExecResult,
        Foresight,
        LateFile,
        Limits,
        Runtime,
        Session,
        Template,
    )

MAX_NOTES = 10
HISTORY_CHARS = 200_000
"""How much of the stdout of one cell is kept for code that looks back at `history`."""

REPORT_SECONDS, MOST_REPORT_SECONDS = 0.5, 5.0
"""Time of the report on a cell: what the cell has left, but at least and at most so much. The report calls `len` and
`repr` of objects that the cell made, which may never end."""

CHECKPOINT_MEMORY_BYTES = 192 << 20
"""A session that holds more is not checkpointed: the host would hold its memory twice for the seconds of packing it."""

INTERRUPT_SECONDS = 0.5
"""Time between two interrupts of a cancelled cell: longer than the grace period that each gives it."""

PRELUDE_MODULES = ("texts", "statements", "conditions", "variable_list", "subcalls", "prelude")
"""The modules that are installed in every session, in the order of their imports."""

_COMPILER = """
import base64, marshal

def compiled(module, source):
    file = f"{__file__.rpartition('/')[0]}/{module}.py"
    return base64.b64encode(marshal.dumps(compile(source, file, "exec", dont_inherit=True))).decode()
"""
_FROM_BYTE_CODE = 'exec(__import__("marshal").loads(__import__("base64").b64decode("{}")))'

_ECHO = re.compile(r"\[None(?:, None)*+\]")

_T = TypeVar("_T")

log = logging.getLogger(__name__)


class SandboxFailed(RlmError):
    """A session could not be opened, or ended while it ran a cell."""


class SandboxRepl:
    """A Repl over one session. Runs one cell at a time; further calls wait."""

    def __init__(
        self, session: "Session", threads: SandboxThreads, *, image: str = "", imports: Sequence[str] = ()
    ) -> None:
        """`image` is the SHA-256 of the image, `imports` are its packages, for the text of failed imports."""
        self.image = image_with_prelude(image)
        self._imports = imports
        self._session = session
        self._threads = threads
        self._lock = anyio.Lock()

    def __repr__(self) -> str:
        return f"<SandboxRepl {self._session!r}>"

    async def run(self, code: str, *, seconds: float | None = None) -> CellResult:
        """Executes one cell. Cancellation interrupts it and keeps the namespace."""
        async with self._lock:
            return await self._call_interruptibly(_run_cell, self._session, code, seconds, self._imports)

    async def variables(self) -> tuple[Variable, ...]:
        """All user variables, newest first."""
        async with self._lock:
            return await self._call(_list_variables, self._session)

    async def complete(self, text: str) -> tuple[str, ...]:
        """Completions of `text`, found inside the session: computed attributes run there, as long as a cell may."""
        async with self._lock:
            return await self._call(_complete, self._session, text)

    async def checkpoint(self) -> PackCheckpoint | None:
        """The namespace as a value, small: only what differs from the template. None if the session holds too much."""
        async with self._lock:
            if self._session.memory_bytes > CHECKPOINT_MEMORY_BYTES:
                return None
            saved = await self._call(_checkpoint, self._session)
        return lambda: self.image.encode() + saved.to_bytes(with_template=False)

    async def restore(self, data: bytes) -> bool:
        """Replaces the namespace by a checkpoint's, which may come from another process.

        False, and unchanged, if the checkpoint is damaged or was made by another image of the sandbox, or with another
        prelude, which it holds. Raises SandboxFailed where memory is short.
        """
        mark = self.image.encode()
        if not data.startswith(mark):
            return False
        async with self._lock:
            return await self._call(_restore, self._session, memoryview(data)[len(mark) :])

    async def _call_interruptibly(self, function: Callable[..., _T], *args: Any) -> _T:
        """Makes a blocking call of the session. If the caller is cancelled, interrupts the guest and waits for it.

        What the interrupted cell had printed is returned; the cancellation takes effect where the caller waits next.
        """
        future, done = self._threads.submit(function, *args)
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                while not done.is_set():  # repeated: an interrupt between two of the calls that make a cell is lost
                    self._session.interrupt()
                    with anyio.move_on_after(INTERRUPT_SECONDS):
                        await done.wait()
            if anyio.current_effective_deadline() != -math.inf:
                raise  # not cancelled by anyio, which would cancel the next wait too
        return future.result()

    async def _call(self, function: Callable[..., _T], *args: Any) -> _T:
        """The same for a call whose result is of no use to a cancelled caller."""
        result = await self._call_interruptibly(function, *args)
        await anyio.lowlevel.checkpoint_if_cancelled()
        return result


# --- on a sandbox thread


class SessionTemplate:
    """A session with the prelude installed, made once: that takes 50 ms, starting from it 2 ms.

    Every process makes the same one, byte for byte, so that checkpoints need not hold what is in it. The cache keeps
    the byte code of the prelude, which takes 130 ms more to compile.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self._lock = threading.Lock()
        self._template: Template | None = None

    def get(self, runtime: "Runtime", names: Iterable[str]) -> "Template":
        """The template. `names` are the host functions that every session has."""
        with self._lock:
            if self._template is None:
                with runtime.session(calls=dict.fromkeys(sorted(names), _never_called), reproducible=True) as session:
                    for module, code in self._byte_code(runtime).items():
                        session.install(module, _FROM_BYTE_CODE.format(code))
                    self._template = runtime.template(session.checkpoint())
        return self._template

    def _byte_code(self, runtime: "Runtime") -> Mapping[str, str]:
        """The byte code of each module as text, in the order of their imports."""
        from wasm_runtime.compile_cache import cached

        name = f"prelude-{image_with_prelude(runtime.image.sha256)}.json"
        found: dict[str, str] = json.loads(cached(name, self._cache_dir, partial(_compiled_prelude, runtime)))
        return found


def _compiled_prelude(runtime: "Runtime") -> bytes:
    """What `SessionTemplate` has in the cache: JSON of the byte code, compiled by the guest."""
    with runtime.session(reproducible=True) as session:
        session.install("compiler", _COMPILER)
        code = {module: session.call("compiler:compiled", module, _guest_source(module)) for module in PRELUDE_MODULES}
    return json.dumps(code).encode()


def _never_called(*_: object, **__: object) -> object:
    raise AssertionError("the template runs no code that calls the host")


@cache
def _guest_source(module: str) -> str:
    return files("rlm_mcp.repl.guest").joinpath(f"{module}.py").read_text("utf-8")


@cache
def image_with_prelude(image: str) -> str:
    """Identifies an image together with the modules that are installed in it: checkpoints hold both."""
    parts = [image, *map(_guest_source, PRELUDE_MODULES)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _checkpoint(session: "Session") -> "Checkpoint":
    with _runtime_errors():
        return session.checkpoint()


def _restore(session: "Session", data: memoryview) -> bool:
    from wasm_runtime import Checkpoint, SnapshotMismatch

    with _runtime_errors():
        try:
            session.restore(Checkpoint.from_bytes(bytes(data), session.template))
        except SnapshotMismatch:
            return False
    return True


def open_session(
    runtime: "Runtime",
    template: SessionTemplate,
    limits: "Limits",
    store: Store,
    contexts: Sequence[Context],
    host_calls: Mapping[str, Callable[..., Any]],
    value: object,
    owner: str | None = None,
    foresight: "Foresight | None" = None,
    functions: Sequence[str] = (),
    share_map: ShareMap | None = None,
    packages: Mapping[str, Any] | None = None,
) -> "Session":
    """Opens a session with the contexts mounted, the prelude installed and `context` bound. Raises SandboxFailed.

    Other processes work on items of its maps, if there is `share_map`; `packages` names the image for them.
    """
    mounted, described = _mounted(store, contexts)
    distribution = None
    if share_map is not None:
        needs = MapNeeds(
            context_ids=tuple(context.context_id for context in contexts),
            image=image_with_prelude(runtime.image.sha256),
            packages=packages,
        )
        distribution = _distribution(share_map, needs)
    with _runtime_errors():
        session = runtime.session(
            limits=limits,
            files=mounted,
            calls=host_calls,
            template=template.get(runtime, host_calls),
            owner=owner,
            foresight=foresight,
            distribution=distribution,
        )
        try:
            session.call("prelude:start", described, value, not contexts, list(functions))
        except BaseException:  # cancellation too: nobody else could close the session
            session.close()
            raise
    return session


def _distribution(share_map: ShareMap, needs: MapNeeds) -> "Distribution":
    from wasm_runtime import Distribution

    return Distribution(
        share=lambda items: share_map(items, needs), readers=READING, most_bytes=CHECKPOINT_MEMORY_BYTES
    )


def work_on_map(
    runtime: "Runtime",
    limits: "Limits",
    store: Store,
    contexts: Sequence[Context],
    checkpoint: bytes,
    supply: MapSupply,
    *,
    workers: int,
    seconds: float,
    owner: str | None = None,
) -> None:
    """Works on items of a map whose code waits in another process, until the supply ends or nothing can be done here.

    Raises SandboxFailed where memory is short, or the checkpoint is none of this image.
    """
    from wasm_runtime import Checkpoint

    mounted, _ = _mounted(store, contexts)
    calls = reading_calls(store, contexts)
    with _runtime_errors(), runtime.session(limits=limits, files=mounted, calls=calls, owner=owner) as session:
        session.restore(Checkpoint.from_bytes(checkpoint))
        session.work_for(supply, readers=READING, workers=workers, seconds=seconds)


def _mounted(store: Store, contexts: Sequence[Context]) -> "tuple[dict[str, LateFile], list[dict[str, Any]]]":
    """The files of the contexts by their places in the guest, and what the prelude is told of each context."""
    from wasm_runtime import LateFile

    mounted: dict[str, LateFile] = {}
    warned: set[str] = set()
    described = []
    for context in contexts:
        at = f"/context/{context.name}"
        files = store.files(context)
        if context.kind == "text":  # looked for at once, so that what is wrong with it is said in words
            for file in files:
                file.read(0, 1)
        made = int(datetime.fromisoformat(context.created_at).timestamp()) * 1_000_000_000
        files.keep_long()
        find = partial(_find_file, files, ReadAhead(files, store.fetch_ahead), warned)
        mounted |= {
            f"{at}/{row.path}": LateFile(find, position, size=row.bytes, mtime_ns=made)
            for position, row in enumerate(files.rows())
        }
        described.append(
            {
                "name": context.name,
                "kind": context.kind,
                "files": [
                    {
                        "path": e.path,
                        "guest": f"{at}/{e.path}",
                        "bytes": e.bytes,
                        "chars": e.chars,
                        "lines": e.lines,
                        "exact": e.exact,
                    }
                    for e in files.rows()
                ],
            }
        )
    return mounted, described


def _find_file(files: Sequence[FileEntry], ahead: ReadAhead, warned: set[str], position: int) -> Path:
    """The file of a text, which the guest reads for the first time: that is noted.

    The guest gets EIO if it is damaged, and the log the reason. Code may read a damaged file in a loop, so the log gets
    it once: if the key of the text is not in `warned`.
    """
    ahead.note(position)
    file = files[position]
    try:
        return file.blob
    except RlmError as error:
        if file.key not in warned:
            warned.add(file.key)
            log.warning("code cannot read %s: %s", file.path, error)
        raise OSError(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _CellReport:
    """The prelude's report on a cell. It comes out of the sandbox, so it is validated as all input from outside."""

    final: Final | None = None
    citations: tuple[RawCitation, ...] = ()
    notes: tuple[str, ...] = ()
    reads: tuple[tuple[str, str, int, int], ...] = ()
    variables: tuple[Variable, ...] = ()
    changed: tuple[str, ...] = ()


@cache
def _report_adapter() -> TypeAdapter[_CellReport]:
    return TypeAdapter(_CellReport)


_DAMAGED = "The REPL's own functions did not answer after this block: free memory, or go on with what you have."


def _run_cell(session: "Session", code: str, seconds: float | None, imports: Sequence[str] = ()) -> CellResult:
    """Runs a cell between the prelude's `before` and `after`.

    A full heap or a broken prelude costs the report, never the cell.
    """
    from wasm_runtime import GuestCallError

    with _runtime_errors():
        done = session.exec(code, seconds=seconds, prepare="prelude:before")
        left = min(max(session.seconds_left, REPORT_SECONDS), MOST_REPORT_SECONDS)
        printed = done.stdout[:HISTORY_CHARS]
        try:
            if done.undone:  # `before` was undone too: the prelude still holds the report on the last cell
                session.call("prelude:before", "", seconds=left)
            try:
                after = session.call("prelude:after", printed, seconds=left)
            except GuestCallError:  # a variable that cannot be looked at must not cost the answer
                after = session.call("prelude:after", printed, False, seconds=REPORT_SECONDS)  # noqa: FBT003 - a call by position
            report = _report_adapter().validate_python(after)
        except (GuestCallError, ValidationError):
            report = _CellReport(notes=(_DAMAGED,))
    return _with_import_advice(_cell_result(code, done, report), imports)


def _with_import_advice(result: CellResult, imports: Sequence[str]) -> CellResult:
    """The result, in which a failed import, or a program that was not started, tells what can be imported."""
    error = result.error
    if error is None or error.type not in ("ModuleNotFoundError", "OSError", "SyntaxError"):
        return result
    advice = import_advice(error.traceback if error.type == "SyntaxError" else error.message, imports)
    if advice is None:
        return result
    message, traceback = (f"{text.rstrip().removesuffix('.')}. {advice}" for text in (error.message, error.traceback))
    told = replace(error, message=message, traceback=f"{traceback}\n")
    return replace(result, error=told)


def _cell_result(code: str, done: "ExecResult", report: _CellReport) -> CellResult:
    raised = done.error
    error = raised and CellError(**{name: getattr(raised, name) for name in CellError.__slots__})
    return CellResult(
        code=code,
        stdout=done.stdout,
        stderr=done.stderr,
        value=None if _is_echo(done.value) else done.value,
        error=error or None,
        truncated=done.truncated,
        stdout_chars=done.stdout_chars,
        seconds=done.seconds,
        stopped_by=done.stopped_by,
        undone=done.undone,
        variables=report.variables,
        changed=report.changed,
        final=report.final,
        citations=report.citations,
        reads=tuple(Read(context=c, path=p, start=s, end=e) for c, p, s, e in report.reads),
        notes=report.notes[:MAX_NOTES],
    )


def _is_echo(value: str | None) -> bool:
    """Whether a value is what `[print(x) for x in …]` leaves behind."""
    return value is not None and _ECHO.fullmatch(value) is not None


def _list_variables(session: "Session") -> tuple[Variable, ...]:
    from wasm_runtime import GuestCallError

    with _runtime_errors():
        try:
            return (
                _report_adapter()
                .validate_python({"variables": session.call("variable_list:list_all", seconds=MOST_REPORT_SECONDS)})
                .variables
            )
        except (GuestCallError, ValidationError):
            return ()


def _complete(session: "Session", text: str) -> tuple[str, ...]:
    from wasm_runtime import GuestCallError

    with _runtime_errors():
        try:
            session.install("completion", _guest_source("completion"))
            return TypeAdapter(tuple[str, ...]).validate_python(session.call("completion:complete", text))
        except (GuestCallError, ValidationError):
            return ()


@contextmanager
def _runtime_errors() -> Iterator[None]:
    """Turns the errors of the runtime into SandboxFailed, whose text may be shown."""
    from wasm_runtime import RuntimeFailure, SessionBusy, SessionClosed

    try:
        yield
    except (SessionClosed, SessionBusy) as error:  # busy means being closed: SandboxRepl runs one call at a time
        raise SandboxFailed("the REPL was closed or reset while this block ran: run it again.") from error
    except RuntimeFailure as error:
        raise SandboxFailed(f"the sandbox failed: {error}") from error

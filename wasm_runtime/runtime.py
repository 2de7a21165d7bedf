"""The Runtime: makes sessions and templates, and closes them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from wasm_runtime.budget import MemoryBudget, default_budget_bytes
from wasm_runtime.distributed import Distribution
from wasm_runtime.errors import RuntimeFailure
from wasm_runtime.foresight import Foresight
from wasm_runtime.guest_machine import FileSource
from wasm_runtime.imports.guest import FIXED, REAL
from wasm_runtime.limits import Limits
from wasm_runtime.machine.interpreter import Interpreter
from wasm_runtime.machine.mapped_pages import page_map_available
from wasm_runtime.machine.memory import HOST_PAGE_BYTES
from wasm_runtime.machine.template_memory import TemplateMemory, make_template_memory
from wasm_runtime.session import Session
from wasm_runtime.shared import Shared
from wasm_runtime.snapshot import Checkpoint, Template


class Runtime:
    """Makes sessions. Safe to use from many threads; close it after its sessions, or use it in a `with`."""

    def __init__(
        self,
        cache_dir: Path | None = None,
        *,
        image: Path | None = None,
        memory_budget_bytes: int | None = None,
        on_progress: Callable[[str], None] | None = None,
        page_map: bool | None = None,
    ) -> None:
        """Load the compiled image, or compile it once for this machine (about 10 s) into `cache_dir`.

        `image` is the folder of an image with packages (`wasm_runtime.build.packages`); without it sessions have the
        standard library only. What its packages take of memory does not count against the limits of sessions.
        `memory_budget_bytes` limits the memory that all sessions together hold beyond the shared image, including
        copies made by guests; the default is half of this machine's memory. `page_map=False` finds written memory by
        comparing copies instead of asking the kernel, as on systems whose kernel does not report it.
        Raises ImageError.
        """
        self.budget = MemoryBudget(default_budget_bytes() if memory_budget_bytes is None else memory_budget_bytes)
        self._shared = Shared(
            cache_dir,
            image=image,
            budget=self.budget,
            on_progress=on_progress or (lambda _: None),
            page_map=page_map_available() if page_map is None else page_map,
        )
        self.image = self._shared.image
        self._template_memories: list[TemplateMemory] = []
        self._closed = False

    def session(
        self,
        *,
        limits: Limits | None = None,
        files: Mapping[str, FileSource] | None = None,
        calls: Mapping[str, Callable[..., object]] | None = None,
        template: Template | None = None,
        owner: str | None = None,
        foresight: Foresight | None = None,
        distribution: Distribution | None = None,
        reproducible: bool = False,
    ) -> Session:
        """Return a new session, in the state of `template` if one is given.

        files   absolute guest path -> bytes, text or a file of the host; read-only, a host file is not copied. A
                `LateFile` is looked for when the guest first reads it
        calls   name -> function that is called with the guest's JSON arguments on the guest's thread. It returns a
                JSON value, or a `concurrent.futures.Future` of one so that many can be in flight. The text of a
                `CallRefused` is shown to the guest; for any other exception the guest sees a general error only.
                When the guest submits many calls at once, each is made on a thread of the Runtime, unless the
                function is wrapped in `Starts`. The time of a function counts as the cell's; a wait for a future does
                not. A function wrapped in `Timed` gets the `seconds_left` of the cell
        owner   for whom the session works. The sessions of each owner have threads for calls and copies of their own,
                and leave as much of the Runtime's memory free as they hold
        foresight   finds out which calls a cell will probably make, while it waits for an answer
        distribution    has other processes work on items of `parallel_map`, too
        reproducible    the guest's clocks stand still and its random bytes are zeros: with one image, equal code leaves
                equal states in all processes, as a template needs whose sessions have checkpoints without it
        Raises OSError for a file that cannot be read, ValueError for a guest path that is not absolute,
        OutOfMemoryBudget for a template that does not fit.
        """
        if self._closed:
            raise RuntimeFailure(f"{self!r} was closed: make a new Runtime")
        session = Session(
            self._shared,
            limits=limits or Limits(),
            files=files or {},
            calls=calls or {},
            owner=owner,
            foresight=foresight,
            distribution=distribution,
            surroundings=FIXED if reproducible else REAL,
        )
        if template is not None:
            try:
                session.start_from(template)
            except BaseException:  # a signal too: nobody else could close the session
                session.close()
                raise
        return session

    def template(self, saved: Checkpoint) -> Template:
        """Return a state in which new sessions of this Runtime can start. They share its memory until they write to it.

        Raises SnapshotMismatch.
        """
        saved.require_image(self.image.sha256)
        saved = saved.whole()
        scratch = Interpreter(self._shared.engine, self._shared.prelinked, memory_bytes=saved.memory_bytes)
        try:
            scratch.grow(saved.memory_bytes)
            memory = make_template_memory(scratch.memory, saved.runs, in_file=self._shared.page_map)
        finally:
            scratch.close()
        self._template_memories.append(memory)
        low, high = (at // HOST_PAGE_BYTES * HOST_PAGE_BYTES for at in (self.image.stack_low, self.image.globals[0]))
        return Template(saved, memory, memory.digest(free=range(low, high)))

    def close(self) -> None:
        """Close every session and template, and end the threads."""
        self._closed = True
        self._shared.close()
        memories, self._template_memories = self._template_memories, []
        for memory in memories:
            memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._shared.session_count()} sessions"
        return f"<Runtime {state}, image {self.image.sha256[:12]}, {self.budget!r}>"

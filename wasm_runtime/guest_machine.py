"""A guest's interpreter, memory and files: everything that cells change, and that can be saved, undone and copied.

Memory is accounted for before it is used: the heap and the files of one guest share one limit (`SessionMemory`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wasm_runtime.budget import SessionMemory
from wasm_runtime.errors import OutOfMemoryBudget, SnapshotMismatch
from wasm_runtime.imports.guest import REAL, Guest, Surroundings
from wasm_runtime.machine.interpreter import Interpreter
from wasm_runtime.machine.memory import WASM_PAGE_BYTES, MemoryRuns
from wasm_runtime.machine.pages import SavedPages
from wasm_runtime.shared import Shared
from wasm_runtime.snapshot import Checkpoint, Template
from wasm_runtime.vfs.devices import Device
from wasm_runtime.vfs.filesystem import Mark, Vfs
from wasm_runtime.vfs.flags import AT_FDCWD, O_RDWR
from wasm_runtime.vfs.mounted_files import LateFile

FileSource = bytes | str | Path | LateFile

# Growing by at least this much saves a host call for each 64 KiB of a growing list.
_GROWTH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SavedMachine:
    """The state before a cell, to which `GuestMachine.undo` returns."""

    pages: SavedPages
    globals: tuple[int, ...]
    files: Mark
    told: bool
    functions: list[str]


class GuestMachine:
    """Owned by one session. It does not run the guest, except that its memory grows when the guest asks for more."""

    def __init__(
        self,
        shared: Shared,
        *,
        quota: SessionMemory,
        memory_bytes: int,
        files: Mapping[str, FileSource],
        functions: list[str],
        devices: Mapping[str, Device],
        surroundings: Surroundings = REAL,
        copy_of: "GuestMachine | None" = None,
        since: "SavedMachine | None" = None,
    ) -> None:
        """`quota` is reserved from for the heap and the files; `close` releases it.

        `functions` are the names of the host functions that the guest is to be told about.
        `copy_of` gives its files to the new machine; `copy_from` then copies the rest. With `since`, the last state
        that it saved, it gives those that it had then.
        Raises OSError for a file that cannot be read, ValueError for a guest path that is not absolute,
        OutOfMemoryBudget for a copy whose files do not fit.
        """
        self._shared, self._limit_bytes = shared, memory_bytes
        self._files, self._functions, self._devices = files, functions, devices
        self._quota, self._surroundings = quota, surroundings
        self.interpreter = Interpreter(shared.engine, shared.prelinked, memory_bytes=memory_bytes)
        self.memory = self.interpreter.memory
        self._pages = shared.pages(self.memory)
        self.template: Template | None = None
        vfs = self._new_vfs() if copy_of is None else self._copied_vfs(copy_of, since)
        self.guest = Guest(
            memory=self.memory,
            vfs=vfs,
            grow=self._grow,
            clock_ns=surroundings.clock_ns,
            monotonic_ns=surroundings.start_monotonic(),
            random=surroundings.random,
        )
        self._told, self._untold_functions = False, functions

    # between cells and around them

    def introduction(self) -> dict[str, object]:
        """Return what must be added to the guest's next request: nothing, unless the guest is new or a copy.

        Every new guest and every copy needs entropy of its own. A new one is also told the names of the host functions.
        """
        if self._told:
            return {}
        functions, self._untold_functions, self._told = self._untold_functions, [], True
        return {"entropy": self._surroundings.random(32).hex(), "functions": functions}

    def save(self) -> SavedMachine:
        """Save the state for `undo`; call `forget` when it is no longer needed."""
        return SavedMachine(
            self._pages.save(),
            self.interpreter.globals(),
            self.guest.vfs.mark(),
            self._told,
            self._untold_functions,
        )

    def undo(self, saved: SavedMachine) -> None:
        """Return to the saved state, which must be the last one that was saved."""
        self._pages.restore(saved.pages)
        self.interpreter.set_globals(saved.globals)
        self.guest.vfs.undo(saved.files)
        self._told, self._untold_functions = saved.told, saved.functions

    def forget(self, saved: SavedMachine) -> None:
        """Release what is kept for `undo`."""
        self.guest.vfs.forget(saved.files)
        self._pages.forget(saved.pages)

    # states as values

    def checkpoint(self, execs: int) -> Checkpoint:
        """Return everything that differs from the initial state."""
        return Checkpoint(
            image=self._shared.image.sha256,
            runs=self._pages.written(),
            memory_bytes=self.memory.size,
            globals=self.interpreter.globals(),
            files=self.guest.vfs.dump(),
            execs=execs,
            template=self.template,
        )

    def restore(self, saved: Checkpoint) -> None:
        """Take over the state of a checkpoint of the same image. Raises SnapshotMismatch, OutOfMemoryBudget."""
        self._extend(saved.memory_bytes)
        if saved.template is self.template:
            self._take_over(saved, saved.runs)
            return
        back_to_image = [] if self.template is None else self.template.memory.image
        self._take_over(saved, [*back_to_image, *saved.whole().runs])

    def start_from(self, template: Template) -> None:
        """Take over the state of a template, as a new machine. Raises SnapshotMismatch, OutOfMemoryBudget."""
        self._extend(template.state.memory_bytes)
        self._share_memory(template)
        self._take_over(template.state, [])

    def reset(self) -> None:
        """Return to the initial state: that of the template, or of the image."""
        if self.template is not None:
            self._take_over(self.template.state, [])
            return
        self._pages.replace([])
        self.interpreter.set_globals(self._shared.image.globals)
        self.guest.vfs.close()
        self.guest.vfs = self._new_vfs()
        self._told, self._untold_functions = False, self._functions

    def written(self, since: SavedMachine | None = None) -> MemoryRuns:
        """Return the memory that a copy needs: `copy_from` takes it, so that many copies can share one list."""
        return self._pages.written() if since is None else self._pages.written_then(since.pages)

    def copy_from(self, original: "GuestMachine", written: MemoryRuns, since: SavedMachine | None = None) -> None:
        """Take over the memory of `original`, as a new machine made with `copy_of`. Raises OutOfMemoryBudget."""
        self._extend(original.memory.size)
        if original.template is not None:
            self._share_memory(original.template)
        self._pages.replace(written)
        self.interpreter.set_globals(original.interpreter.globals() if since is None else since.globals)
        self._told, self._untold_functions = False, []

    def close(self) -> None:
        """Release everything."""
        self.guest.vfs.close()
        self._pages.close()
        self.interpreter.close()
        self._quota.close()
        # The guest refers to this machine: in a reference cycle, closed machines would wait for the garbage collector.
        del self.guest, self._devices

    # memory

    def _grow(self, size: int) -> bool:
        """Extend the guest's heap to at least `size` bytes, to a little more if the budget allows."""
        now = self.memory.size
        for wanted in (max(size, now + _GROWTH_BYTES), size):
            added = -(-max(0, wanted - now) // WASM_PAGE_BYTES) * WASM_PAGE_BYTES
            if self._quota.reserve(added):
                if self.interpreter.grow(now + added):
                    return True
                self._quota.release(added)
        return False

    def _extend(self, memory_bytes: int) -> None:
        """Make the memory at least this long."""
        missing = memory_bytes - self.memory.size
        if missing > 0:
            self._quota.require(missing)
            if not self.interpreter.grow(memory_bytes):
                self._quota.release(missing)
                raise SnapshotMismatch(
                    f"this checkpoint needs {memory_bytes >> 20} MiB of memory and the session may have "
                    f"{self._limit_bytes >> 20}: restore it into one with a higher memory_bytes"
                )

    def _share_memory(self, template: Template) -> None:
        self._pages.close()
        self._pages, self.template = self._shared.pages(self.memory, template.memory), template

    def _take_over(self, saved: Checkpoint, runs: MemoryRuns) -> None:
        """Take over a saved state, whose memory is the initial one plus `runs`."""
        vfs = self._new_vfs()
        try:
            vfs.load(saved.files)
        except ValueError as error:
            vfs.close()
            raise SnapshotMismatch(f"the files of this checkpoint cannot be read: {error}") from error
        except MemoryError as error:
            vfs.close()
            raise OutOfMemoryBudget(f"the files of this checkpoint do not fit: {error}") from error
        self.guest.vfs.close()
        self.guest.vfs = vfs
        self._pages.replace(runs)
        self.interpreter.set_globals(saved.globals)
        self._told, self._untold_functions = False, []

    # files

    def _new_vfs(self) -> Vfs:
        vfs = Vfs(
            clock=self._surroundings.clock_ns,
            quota=self._quota,
            devices=self._devices,
            random=self._surroundings.random,
            shared=self._shared.files,
        )
        vfs.mount(self._shared.image.stdlib_path, self._shared.image.stdlib)
        for path, source in self._files.items():
            vfs.mount(path, source.encode() if isinstance(source, str) else source)
        vfs.openat(AT_FDCWD, b"/dev/host", O_RDWR)  # descriptor 3, as in the image
        return vfs

    def _copied_vfs(self, original: "GuestMachine", since: SavedMachine | None) -> Vfs:
        vfs = original.guest.vfs
        try:
            if since is not None:
                return vfs.clone_marked(since.files, quota=self._quota, devices=self._devices)
            return vfs.clone(quota=self._quota, devices=self._devices)
        except MemoryError as error:
            raise OutOfMemoryBudget(
                f"{error}: close other sessions, or raise memory_budget_bytes of the Runtime"
            ) from error

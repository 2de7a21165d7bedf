"""Saving, restoring and copying guest memory, by page map and by comparing, with the same results."""

import os
from collections.abc import Iterator
from typing import Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasm_runtime.budget import MemoryBudget
from wasm_runtime.machine.interpreter import Interpreter
from wasm_runtime.machine.mapped_pages import BufferPool, MappedPages, page_map_available
from wasm_runtime.machine.memory import HOST_PAGE_BYTES, WASM_PAGE_BYTES, GuestMemory
from wasm_runtime.machine.pages import Pages
from wasm_runtime.machine.template_memory import TemplateMemory, make_template_memory
from wasm_runtime.shared import Shared

MEMORY_BYTES = 40 << 20  # the image has 32 MiB
HEAP = 20 << 20  # an address in the image, above the C stack, whose free part is never saved
LONG = 5 << 20  # enough to be moved to a file

ways = [pytest.param(True, marks=pytest.mark.skipif(not page_map_available(), reason="no page map here")), False]


@pytest.fixture(scope="module", params=ways, ids=["page map", "comparing"])
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    shared = Shared(None, image=None, budget=MemoryBudget(None), on_progress=lambda _: None, page_map=request.param)
    yield shared
    shared.close()


@pytest.fixture(scope="module", params=[False, True], ids=["from the image", "from a template"])
def template(request: pytest.FixtureRequest, shared: Shared) -> Iterator[TemplateMemory | None]:
    if not request.param:
        yield None
        return
    with Guest(shared) as guest:
        guest.interpreter.grow(guest.image_bytes + WASM_PAGE_BYTES)
        runs = [
            (HEAP, b"\x0a" * 3 * HOST_PAGE_BYTES),
            (guest.image_bytes + 2 * HOST_PAGE_BYTES, b"\x0b" * HOST_PAGE_BYTES),
        ]
        template = make_template_memory(guest.memory, runs, in_file=isinstance(guest.pages, MappedPages))
    yield template
    template.close()


class Guest:
    """A fresh interpreter that never runs, and the pages of its memory."""

    def __init__(self, shared: Shared, template: TemplateMemory | None = None) -> None:
        self.interpreter = Interpreter(shared.engine, shared.prelinked, memory_bytes=MEMORY_BYTES)
        self.memory: GuestMemory = self.interpreter.memory
        if template is not None:
            self.interpreter.grow(template.memory_bytes)
        self.pages: Pages = shared.pages(self.memory, template)
        self.image_bytes = shared.image.memory_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pages.close()
        self.interpreter.close()

    def places(self) -> list[int]:
        """Addresses to write to: in the image, around its end, and behind it once the memory has grown."""
        end = self.image_bytes
        spots = [
            1024,
            HEAP,
            HEAP + HOST_PAGE_BYTES,
            HEAP + 3 * HOST_PAGE_BYTES,
            end - 1,
            end - HOST_PAGE_BYTES,
            end,
            end + LONG,
            MEMORY_BYTES - 1,
        ]
        return [spot for spot in spots if spot < self.memory.size]

    def put(self, address: int, value: int) -> None:
        self.memory.view(address, 1)[0] = value

    def fill(self, value: int) -> None:
        self.memory.view(self.image_bytes + HOST_PAGE_BYTES, LONG)[:] = bytes([value]) * LONG

    def overwrite_image(self, value: int) -> None:
        self.memory.view(HEAP, LONG)[:] = bytes([value]) * LONG

    def seen(self) -> list[int]:
        more = (
            [self.image_bytes + HOST_PAGE_BYTES, self.image_bytes + HOST_PAGE_BYTES + LONG // 2]
            if self.memory.size == MEMORY_BYTES
            else []
        )
        return [self.memory.view(address, 1)[0] for address in [*self.places(), *more]]


def test_a_fresh_memory_has_not_changed(shared: Shared) -> None:
    with Guest(shared) as guest:
        assert guest.pages.written() == []


def test_what_was_written_has_changed_and_nothing_else(shared: Shared) -> None:
    with Guest(shared) as guest:
        before = guest.memory.view(HEAP, 1)[0]
        guest.put(HEAP, before ^ 1)
        [(start, data)] = guest.pages.written()
        assert start <= HEAP < start + len(data)
        assert len(data) == HOST_PAGE_BYTES
        assert data[(HEAP) - start] == before ^ 1


def test_the_image_comes_back_bytes_and_all(shared: Shared) -> None:
    with Guest(shared) as guest:
        fresh = bytes(guest.memory.view(0, guest.memory.size))
        for place in guest.places():
            guest.put(place, 7)
        guest.pages.replace([])
        assert bytes(guest.memory.view(0, guest.memory.size)) == fresh


def test_what_was_written_after_a_save_is_undone_and_what_was_written_before_is_kept(shared: Shared) -> None:
    with Guest(shared) as guest:
        guest.put(HEAP, 1)
        saved = guest.pages.save()
        guest.put(HEAP, 2)
        guest.put(1024, 3)
        guest.pages.restore(saved)
        assert guest.memory.view(HEAP, 1)[0] == 1
        assert guest.memory.view(1024, 1)[0] != 3
        guest.pages.forget(saved)


def test_memory_that_grew_after_a_save_is_zero_after_undoing(shared: Shared) -> None:
    with Guest(shared) as guest:
        saved = guest.pages.save()
        guest.interpreter.grow(guest.image_bytes + 2 * WASM_PAGE_BYTES)
        guest.put(guest.image_bytes + WASM_PAGE_BYTES, 9)
        guest.pages.restore(saved)
        assert bytes(guest.memory.view(guest.image_bytes, 2 * WASM_PAGE_BYTES)) == bytes(2 * WASM_PAGE_BYTES)


def test_a_long_run_survives_being_moved_to_a_file_changed_and_undone(shared: Shared) -> None:
    with Guest(shared) as guest:
        guest.interpreter.grow(MEMORY_BYTES)
        guest.fill(1)
        guest.pages.forget(guest.pages.save())
        saved = guest.pages.save()
        guest.fill(2)
        guest.pages.restore(saved)
        assert bytes(guest.memory.view(guest.image_bytes + HOST_PAGE_BYTES, LONG)) == b"\1" * LONG
        guest.pages.replace([])
        assert bytes(guest.memory.view(guest.image_bytes, LONG)) == bytes(LONG)


def test_a_long_run_inside_the_image_is_moved_undone_and_reset_like_any_other(
    shared: Shared, template: TemplateMemory | None
) -> None:
    with Guest(shared, template) as guest:
        fresh = bytes(guest.memory.view(0, guest.memory.size))
        guest.overwrite_image(1)
        guest.pages.forget(guest.pages.save())
        saved = guest.pages.save()
        if isinstance(guest.pages, MappedPages):
            assert sum(length for _, length in saved.extents) < LONG
        guest.overwrite_image(2)
        guest.pages.restore(saved)
        assert bytes(guest.memory.view(HEAP, LONG)) == b"\1" * LONG
        guest.pages.forget(saved)
        guest.pages.replace([])
        assert bytes(guest.memory.view(0, guest.memory.size)) == fresh
        saved = guest.pages.save()
        guest.overwrite_image(3)
        guest.pages.restore(saved)
        assert bytes(guest.memory.view(0, guest.memory.size)) == fresh


def test_a_copy_gets_what_was_moved_to_a_file_too(shared: Shared) -> None:
    with Guest(shared) as guest, Guest(shared) as copy:
        guest.interpreter.grow(MEMORY_BYTES)
        guest.fill(5)
        guest.pages.forget(guest.pages.save())
        guest.put(1024, 9)
        copy.interpreter.grow(MEMORY_BYTES)
        copy.pages.replace(guest.pages.written())
        assert bytes(copy.memory.view(0, MEMORY_BYTES)) == bytes(guest.memory.view(0, MEMORY_BYTES))


steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 8), st.integers(0, 255)),
    st.tuples(st.sampled_from(["fill", "overwrite"]), st.just(0), st.integers(0, 255)),
    st.tuples(st.sampled_from(["save", "restore", "copy", "reset", "grow"]), st.just(0), st.just(0)),
)


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(story=st.lists(steps, max_size=15))
def test_any_story_of_writes_saves_and_copies_ends_as_it_should(
    shared: Shared, template: TemplateMemory | None, story: list[tuple[str, int, int]]
) -> None:
    with Guest(shared, template) as guest:
        saved, remembered = guest.pages.save(), guest.seen()
        fresh = guest.seen()
        for step, where, value in story:
            match step:
                case "put":
                    places = guest.places()
                    guest.put(places[where % len(places)], value)
                case "fill" if guest.memory.size == MEMORY_BYTES:
                    guest.fill(value)
                case "overwrite":
                    guest.overwrite_image(value)
                case "save":
                    guest.pages.forget(saved)
                    saved, remembered = guest.pages.save(), guest.seen()
                case "restore":
                    guest.pages.restore(saved)
                    known = len(remembered) == len(guest.seen())  # memory added since then is zero
                    assert guest.seen() == remembered if known else remembered[:6] == guest.seen()[:6]
                case "copy":
                    with Guest(shared) as copy, Guest(shared, template) as fork:
                        copy.interpreter.grow(guest.memory.size)
                        written = guest.pages.written()
                        copy.pages.replace(written if template is None else template.with_runs(written))
                        assert copy.seen() == guest.seen()
                        fork.interpreter.grow(guest.memory.size)
                        fork.pages.replace(written if template is None else template.difference(written))
                        assert fork.seen() == guest.seen()
                case "reset":
                    guest.pages.forget(saved)
                    guest.pages.replace([])
                    assert guest.seen()[:6] == fresh[:6]
                    assert set(guest.seen()[6:]) <= {0}
                    saved, remembered = guest.pages.save(), guest.seen()
                case "grow":
                    guest.interpreter.grow(MEMORY_BYTES)


def test_a_memory_that_starts_from_a_template_has_not_been_written_and_returns_to_the_image(
    shared: Shared, template: TemplateMemory | None
) -> None:
    if template is None:
        return
    with Guest(shared) as image, Guest(shared, template) as guest:
        assert guest.pages.written() == []
        fresh = bytes(guest.memory.view(0, guest.memory.size))
        guest.pages.replace(template.image)
        assert bytes(guest.memory.view(0, image.memory.size)) == bytes(image.memory.view(0, image.memory.size))
        guest.pages.replace([*template.image, *template.with_runs([])])
        assert bytes(guest.memory.view(0, guest.memory.size)) == fresh


def test_what_one_memory_writes_reaches_no_other_made_from_the_same_template(
    shared: Shared, template: TemplateMemory | None
) -> None:
    with Guest(shared, template) as writer, Guest(shared, template) as reader:
        before = bytes(reader.memory.view(0, reader.memory.size))
        writer.memory.view(HEAP, 4 * HOST_PAGE_BYTES)[:] = b"\xff" * 4 * HOST_PAGE_BYTES
        assert bytes(reader.memory.view(0, reader.memory.size)) == before
        with Guest(shared, template) as later:
            assert bytes(later.memory.view(0, later.memory.size)) == before


@pytest.mark.skipif(not page_map_available(), reason="no page map here")
def test_the_file_of_a_template_can_be_written_by_nobody(shared: Shared, template: TemplateMemory | None) -> None:
    if template is not None and template.file is not None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(template.file, b"x", HEAP)
        with pytest.raises(OSError, match="Invalid argument"):
            os.ftruncate(template.file, 0)


def test_buffers_are_used_again_and_large_ones_are_not_kept() -> None:
    buffers = BufferPool()
    small = buffers.take(100)
    buffers.give_back(small)
    assert buffers.take(100) is small
    large = buffers.take(100 << 20)
    buffers.give_back(large)
    assert buffers.take(1) is not large


def test_few_buffers_are_kept_however_many_cells_had_one() -> None:
    buffers = BufferPool()
    taken = [buffers.take(1) for _ in range(100)]
    for buffer in taken:
        buffers.give_back(buffer)
    again = [buffers.take(1) for _ in range(100)]
    assert sum(any(one is other for other in taken) for one in again) == 8

"""What every place for the states of REPLs promises, and what files add to it. A new one is added to PLACES."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_mcp.workspace.repl_states import (
    DAMAGED,
    FOREIGN,
    MOST_STATE_BYTES,
    NOT_SAVED,
    FileReplStates,
    MemoryReplStates,
    ReplStates,
    StateNotKept,
)
from tests.peers.cluster import open_repl_states
from tests.peers.kept_repls import taken

OpenStates = Callable[..., ReplStates]
"""Opens the place once more, as another process would; takes `most_bytes`."""


def in_memory(_: pytest.FixtureRequest) -> OpenStates:
    opened: list[ReplStates] = []

    def reopen(**options: int) -> ReplStates:
        opened.append(opened[0] if opened else MemoryReplStates(**options))
        return opened[0]

    return reopen


def in_files(request: pytest.FixtureRequest) -> OpenStates:
    directory = request.getfixturevalue("tmp_path") / "repls"
    return lambda **options: FileReplStates(directory, **options)


PLACES: dict[str, Callable[[pytest.FixtureRequest], OpenStates]] = {
    "memory": in_memory,
    "files": in_files,
    "postgres": open_repl_states,
}


@pytest.fixture(params=["memory", "files", pytest.param("postgres", marks=pytest.mark.cluster)])
def place(request: pytest.FixtureRequest) -> OpenStates:
    return PLACES[request.param](request)


def saved(states: ReplStates, context_id: str, *cells: bytes, image: str = "image") -> str:
    """Takes a REPL and saves the state after each of these cells; its lease."""
    state = taken(states, context_id, image)
    lease = state.lease
    for number, data in enumerate(cells, state.begun + 1):
        assert states.count_cell(context_id, lease, number)
        assert states.save(context_id, lease, image, number, data)
    return lease


def test_a_new_repl_has_no_state_and_has_lost_nothing(place: OpenStates) -> None:
    state = taken(place(), "a", "image")
    assert (state.begun, state.data, state.cells, state.lost) == (0, None, 0, "")


def test_the_last_state_is_what_the_next_taker_gets(place: OpenStates) -> None:
    saved(place(), "a", b"one", b"two")
    saved(place(), "b", b"of another context")
    state = taken(place(), "a", "image")
    assert (state.begun, state.data, state.cells, state.lost) == (2, b"two", 2, "")


def test_cells_that_no_state_holds_are_counted(place: OpenStates) -> None:
    states = place()
    lease = saved(states, "a", b"one")
    assert [states.count_cell("a", lease, 2), states.count_cell("a", lease, 3)] == [True, True]
    state = taken(place(), "a", "image")
    assert (state.begun, state.data, state.cells) == (3, b"one", 1)


def test_who_lost_the_repl_neither_counts_nor_saves(place: OpenStates) -> None:
    stale, states = place(), place()
    lease = saved(stale, "a", b"old")
    newer = saved(states, "a", b"new")
    assert [stale.is_held("a", lease), states.is_held("a", newer)] == [False, True]
    assert not stale.count_cell("a", lease, 9)
    assert not stale.save("a", lease, "image", 9, b"stale")
    assert states.count_cell("a", newer, 3)
    assert taken(states, "a", "image").data == b"new"


def test_a_dropped_repl_begins_anew_and_its_holder_saves_nothing(place: OpenStates) -> None:
    states = place()
    lease = saved(states, "a", b"one")
    states.drop("a")
    assert not states.is_held("a", lease)
    assert not states.save("a", lease, "image", 1, b"late")
    assert states.context_ids() == set()
    state = taken(states, "a", "image")
    assert (state.begun, state.data, state.lost) == (0, None, "")
    assert not states.save("a", lease, "image", 1, b"late")


def test_a_state_of_another_image_is_told_and_stays_for_that_image(place: OpenStates) -> None:
    saved(place(), "a", b"of the old", image="old")
    state = taken(place(), "a", "new")
    assert (state.begun, state.data, state.lost) == (1, None, FOREIGN)
    assert taken(place(), "a", "old").data == b"of the old"


def test_cells_without_any_state_are_lost(place: OpenStates) -> None:
    states = place()
    states.count_cell("a", taken(states, "a", "image").lease, 1)
    assert taken(states, "a", "image").lost == NOT_SAVED


def test_the_oldest_states_make_room(place: OpenStates) -> None:
    states = place(most_bytes=250)
    for number, context_id in enumerate("abc"):
        saved(states, context_id, bytes([number]) * 100)
        older(states, context_id, number)
    kept = [taken(states, context_id, "image").data is not None for context_id in "abc"]
    assert kept == [False, True, True]
    assert taken(states, "a", "image").lost == NOT_SAVED


def test_a_state_that_is_too_large_is_refused_in_one_sentence_and_the_last_one_stays(place: OpenStates) -> None:
    states = place()
    lease = saved(states, "a", b"one")
    with pytest.raises(StateNotKept, match=r"they take 64 MiB, and 64 are kept"):
        states.save("a", lease, "image", 2, bytes(MOST_STATE_BYTES + 1))
    assert taken(states, "a", "image").data == b"one"


def test_a_released_repl_is_taken_at_once_and_until_then_its_lease_is_valid(place: OpenStates) -> None:
    states, other = place(), place()
    lease = saved(states, "a", b"one")
    assert states.count_cell("a", lease, 2)
    states.release("a", lease)
    assert states.save("a", lease, "image", 2, b"two")
    states.release("a", lease)
    state = other.take("a", "image")
    assert state is not None
    assert (state.begun, state.data) == (2, b"two")
    assert not states.count_cell("a", lease, 3)
    states.release("a", lease)
    assert other.count_cell("a", state.lease, 3)


def test_what_has_state_is_listed(place: OpenStates) -> None:
    saved(place(), "a", b"one")
    taken(place(), "b", "image")
    assert place().context_ids() == {"a", "b"}


def older(states: ReplStates, context_id: str, number: int) -> None:
    """Makes the time of a file that of its number: they are saved within a tick of the clock."""
    if isinstance(states, FileReplStates):
        for path in directory_of(states).glob(f"{context_id}.*"):
            os.utime(path, (number, number))


def directory_of(states: FileReplStates) -> Path:
    return Path(repr(states).removeprefix("<FileReplStates ").removesuffix(">"))


@pytest.mark.parametrize("content", [b"", b"RLMR1\n", b"RLMR1\n" + bytes(40), b"RLMR2\n" + bytes(40), b"\xff" * 100])
def test_a_damaged_or_newer_state_is_told_and_replaced_by_the_next(tmp_path: Path, content: bytes) -> None:
    states = FileReplStates(tmp_path)
    saved(states, "a", b"one")
    (tmp_path / "a.image.state").write_bytes(content)
    assert taken(states, "a", "image").lost == DAMAGED
    saved(states, "a", b"two")
    assert taken(states, "a", "image").data == b"two"


@pytest.mark.parametrize("content", [b"", b"RLMR2\n" + bytes(24), b"\xff" * 30])
def test_a_damaged_lease_belongs_to_nobody_and_costs_no_state(tmp_path: Path, content: bytes) -> None:
    states = FileReplStates(tmp_path)
    lease = saved(states, "a", b"one")
    (tmp_path / "a.lease").write_bytes(content)
    assert not states.count_cell("a", lease, 2)
    assert taken(states, "a", "image").data == b"one"


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    states = FileReplStates(tmp_path)
    lease = saved(states, "a", b"one")
    (tmp_path / f".a.{lease}.part").write_bytes(b"half")
    assert taken(states, "a", "image").data == b"one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.image.state", "a.lease", "lock"]


def test_only_the_user_can_read_the_files(tmp_path: Path) -> None:
    saved(FileReplStates(tmp_path / "repls"), "a", b"one")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "repls").iterdir()}
    assert (modes, stat.S_IMODE((tmp_path / "repls").stat().st_mode)) == ({0o600}, 0o700)


def test_where_nothing_can_be_written_every_method_says_so(tmp_path: Path) -> None:
    (tmp_path / "repls").write_bytes(b"a file")
    states = FileReplStates(tmp_path / "repls")
    for operation in (
        lambda: states.take("a", "image"),
        lambda: states.count_cell("a", "lease", 1),
        lambda: states.save("a", "lease", "image", 1, b"one"),
    ):
        with pytest.raises(StateNotKept, match=os.strerror(errno.ENOTDIR) + "|" + os.strerror(errno.EEXIST)):
            operation()
    states.drop("a")
    assert states.context_ids() == set()

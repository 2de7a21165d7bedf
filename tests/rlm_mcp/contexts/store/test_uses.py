"""Uses of contexts by the runs of several processes of one machine."""

from pathlib import Path

from rlm_mcp.contexts.store.catalogue import FileRow, SqliteCatalogue
from rlm_mcp.contexts.store.process_locks import ProcessLock
from rlm_mcp.contexts.store.uses import LockedUses
from rlm_mcp.contexts.types import Context

ONE = FileRow(path="a.txt", blob="a" * 64, bytes=10, chars=9, lines=2, longest_line=5)
MADE = Context(
    context_id="ctx_1", name="n", kind="text", bytes=10, chars=9, lines=2, files=1, created_at="2026", source="text"
)


def test_uses_are_counted_by_run_and_process_and_end_with_it(tmp_path: Path) -> None:
    catalogue, holders = SqliteCatalogue(tmp_path / "catalogue.sqlite3"), tmp_path / "holders"
    locks = [ProcessLock(holders), ProcessLock(holders)]
    first, second = (LockedUses(catalogue=catalogue, holders=holders, token=lock.token) for lock in locks)
    with catalogue.writing():
        catalogue.add(MADE, [ONE], [], {})
    for uses, run in ((first, "run-1"), (first, "run-1"), (second, "run-2")):
        assert uses.begin(lambda: ["ctx_1"], run) == ["ctx_1"]
    first.end(["ctx_1"], "run-1")
    assert sorted(second.runs_with("ctx_1")) == ["run-1", "run-2"]

    locks[0].close()
    assert list(second.runs_with("ctx_1")) == ["run-2"]
    assert len(catalogue.holders()) == 2
    with catalogue.writing():
        second.remove_dead()
    assert list(catalogue.holders()) == [locks[1].token]
    locks[1].close()
    catalogue.close()

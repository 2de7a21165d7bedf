"""Uses of contexts by runs of this machine: rows of the catalogue that count while the process that made them lives."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlm_mcp.contexts.store.catalogue import SqliteCatalogue
from rlm_mcp.contexts.store.process_locks import is_alive


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedUses:
    """The ContextUses of the process whose lock in `holders` has this token."""

    catalogue: SqliteCatalogue
    holders: Path
    token: str

    def begin(self, find: Callable[[], Sequence[str]], run_id: str) -> Sequence[str]:
        """Notes that a run of this process uses the contexts that `find` gives; nobody removes one meanwhile."""
        with self.catalogue.writing():
            context_ids = find()
            for context_id in context_ids:
                self.catalogue.add_use(context_id, run_id, self.token)
        return context_ids

    def end(self, context_ids: Iterable[str], run_id: str) -> None:
        """Takes back one `begin`."""
        with self.catalogue.writing():
            self.catalogue.end_use(context_ids, run_id, self.token)

    def runs_with(self, context_id: str) -> Sequence[str]:
        """The runs that use a context and whose process is alive."""
        return [run_id for run_id, token in self.catalogue.users(context_id) if is_alive(self.holders, token)]

    def remove_dead(self) -> None:
        """Removes the uses of dead processes."""
        for token in self.catalogue.holders():
            if not is_alive(self.holders, token):
                self.catalogue.end_uses_of(token)

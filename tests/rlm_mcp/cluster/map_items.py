"""A map without code, for tests of what its home and its workers tell each other."""

from collections import deque
from collections.abc import Collection, Mapping

from rlm_mcp.repl.maps import MapNeeds

NEEDS = MapNeeds(context_ids=("ctx-1",), image="an image", packages={"image": "a", "packages": ["b 1"]})


class Packed:
    def to_bytes(self) -> bytes:
        return b"a checkpoint"


class Items:
    """The items of a map at a home that works on none itself."""

    processors = 1
    item_seconds: float | None = None
    seconds_left = 30.0

    def __init__(self, count: int, *, can_be_saved: bool = True) -> None:
        self._waiting = deque(range(count))
        self._can_be_saved = can_be_saved
        self.is_idle = False
        self.saved = 0
        self.elsewhere: set[int] = set()
        self.finished: dict[int, Mapping[str, object]] = {}
        self.kept: list[int] = []
        self.came_back: list[int] = []

    @property
    def left(self) -> int:
        return len(self._waiting)

    def checkpoint(self) -> Packed | None:
        self.saved += 1
        return Packed() if self._can_be_saved else None

    def take(self, most: int) -> list[int]:
        taken = [self._waiting.pop() for _ in range(min(most, len(self._waiting)))]
        self.elsewhere.update(taken)
        return taken

    def give_back(self, items: Collection[int], *, keep: bool = False) -> None:
        for item in items:
            self.elsewhere.remove(item)
            if keep:
                self.kept.append(item)
            else:
                self.came_back.append(item)
                self._waiting.append(item)

    def finish(self, index: int, outcome: Mapping[str, object]) -> None:
        self.elsewhere.remove(index)
        self.finished[index] = outcome

"""Notes on the parts that a conversion leaves out: nothing is dropped without a word."""

from collections import Counter

_REASON_CHARS = 200


class Omissions:
    """How many things of each kind were left out, and remarks on how the rest was read."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._remarks: list[str] = []

    def add(self, kind: str, count: int) -> None:
        """Counts things that are not in the text; `kind` is their plural."""
        self._counts[kind] += count

    def say(self, remark: str) -> None:
        """Adds a remark."""
        self._remarks.append(remark)

    def note(self) -> str | None:
        """The note for the context; None if nothing was left out."""
        counted = [f"{kind} ({count:,})" for kind, count in self._counts.items() if count]
        told = [f"left out: {', '.join(counted)}"] if counted else []
        return "; ".join([*told, *self._remarks]) or None


def one_line(error: BaseException) -> str:
    """The reason of an error of a library, of which only the beginning is shown."""
    return " ".join(str(error).split())[:_REASON_CHARS] or type(error).__name__

"""A scripted model whose runs add up the replies to their sub-calls, for benchmarks that disturb runs."""

import re
from dataclasses import dataclass

from tests.peers.openai_server import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """A root model that makes `batch` sub-calls a turn for so many `turns`; a sub-call replies its number.

    `tag` finds what tells a run from others in its question; sub-calls repeat it.
    """

    turns: int
    batch: int
    tag: re.Pattern[str] | None = None

    @property
    def answer(self) -> str:
        """The right answer."""
        return str(sum(range(self.turns * self.batch)))

    def reply_to(self, request: Request) -> str:
        """The reply of either model."""
        if "FINAL" not in request.text:
            return request.last.rpartition(" ")[2]
        if request.turn > self.turns:
            return "```repl\nFINAL(str(total))\n```"
        numbers = list(range((request.turn - 1) * self.batch, request.turn * self.batch))
        start = "total = 0\n" if request.turn == 1 else ""
        prompt = f"{self.tag_in(request.text)} say {{n}}".strip()
        return (
            f"```repl\n{start}replies = llm_query_batched([f'{prompt}' for n in {numbers}])\n"
            "total += sum(int(reply) for reply in replies)\nprint(total)\n```"
        )

    def name_of(self, request: Request) -> str:
        """A request as records name it, alike whenever it is sent again: tag and turn, or the prompt of a sub-call."""
        return self.name_of_turn(request.text, request.turn) if "FINAL" in request.text else request.last

    def name_of_turn(self, text: str, turn: int) -> str:
        """The name of a turn of the run whose tag is in the text."""
        return f"{self.tag_in(text)} turn {turn}".strip()

    def tag_in(self, text: str) -> str:
        """The tag in a text; empty without one."""
        found = self.tag.search(text) if self.tag is not None else None
        return found[0] if found else ""

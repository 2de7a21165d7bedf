"""The dialogue with the root model: what each side has said, kept within the model's window. No I/O.

It is a list of exchanges, each a message of the model and the message that answers it. What is to be said to the model
collects until `close_turn` makes it the next user message. So roles alternate, and a prefix once sent is never changed,
except by compaction and by a restart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rlm_mcp.engine import prompts
from rlm_mcp.engine.prompts import Brief
from rlm_mcp.engine.reply_parser import Reply
from rlm_mcp.engine.steps import Question, Rules
from rlm_mcp.models.base import Message, Role, estimate_prompt
from rlm_mcp.redact import ellipsize

COMPACT_ABOVE = 0.7  # of the window: what a turn adds (an output, a long reply) must still fit
COMPACT_TO = 0.4  # far below, so that the prefix cache is lost rarely
SUMMARY_SHARE = 0.08  # of the window, for the rows of the oldest exchanges
_KEPT_EXCHANGES = 2
SHRUNK = 0.7  # of what was refused: a smaller step would often be refused again
_CHARS_PER_TOKEN = 3
_SUMMARY_COSTS = 3  # times the dialogue: the summary reads it once, and the turns after it must still be paid
_MOST_ROW_CHARS = 100


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """A message of the model and the answer to it. `row` sums it up, `cell` is an index into the REPL's `history`."""

    said: str
    told: str = ""
    row: str = ""
    cell: int | None = None
    is_short: bool = False


class Dialogue:
    """The messages of one run so far. `compactions` counts how often they were shortened."""

    def __init__(self, question: Question, briefs: Sequence[Brief], rules: Rules) -> None:
        self.compactions = 0
        self._rules = rules
        self._window_tokens = rules.window_tokens
        self._system = prompts.system(
            rules.strength,
            sub_prompt_chars=rules.sub_prompt_chars,
            sub_errs=rules.sub_errs,
            imports=rules.imports,
            functions=rules.functions,
        )
        self._opening = prompts.opening(
            question.query,
            briefs,
            question.schema,
            rules.strength,
            usd_per_mtok=rules.sub_usd_per_mtok,
            sub_errs=rules.sub_errs,
        )
        self._exchanges: list[_Exchange] = []
        self._to_say: list[str] = []
        self._summary: list[str] = []
        self._own_summary = ""
        self._tokens_ratio = 1.0
        self._messages: list[Message] = []

    def __repr__(self) -> str:
        return f"<Dialogue of {len(self._exchanges)} exchanges, {self.compactions} compactions>"

    def say(self, text: str) -> None:
        """Adds a paragraph to the next user message."""
        self._to_say.append(text)

    def hear(self, said: str, *, row: str, cell: int | None = None) -> None:
        """Takes in a message of the model. `row` sums it up in a line, `cell` is the index of its first block."""
        self._exchanges.append(_Exchange(said=said, row=row, cell=cell))

    def add_to_row(self, text: str) -> None:
        """Adds the result of a block to the line that sums the last exchange up."""
        self._exchanges[-1].row += f" → {_first_line(text)}"

    def start_over(self, text: str) -> None:
        """Forgets every exchange; `text` follows the question."""
        self._exchanges, self._to_say = [], [text]

    def close_turn(self) -> None:
        """Makes what is to be said the answer to the model's last words, or the beginning of the dialogue."""
        told, self._to_say = "\n\n".join(self._to_say), []
        if self._exchanges and not self._exchanges[-1].told:
            self._exchanges[-1].told = told
        else:
            self._exchanges.append(_Exchange(said="", told=told))

    def messages(self) -> tuple[Message, ...]:
        """The dialogue so far. Where the model said nothing (at the beginning, an empty reply), user messages join."""
        said: list[tuple[Role, str]] = []
        user = self._opening
        if self._own_summary:
            user += "\n\n" + prompts.own_summary(self._own_summary)
        if self._summary:
            rows = self._summary_rows()
            user += "\n\n" + prompts.summary(rows, len(self._summary) - len(rows))
        for exchange in self._exchanges:
            if exchange.said:
                said += [("user", user), ("assistant", exchange.said)]
                user = exchange.told
            else:
                user = f"{user}\n\n{exchange.told}"
        said.append(("user", user))
        # Messages of the last time are taken again: their tokens are counted when they are made.
        made = {(message.role, message.content): message for message in self._messages}
        self._messages = [made.get(one) or Message(role=one[0], content=one[1]) for one in said]
        return (self._system, *self._messages)

    def instead(self, text: str) -> tuple[Message, ...]:
        """A short prompt in place of the dialogue, after the same system message."""
        return self._system, Message(role="user", content=text)

    def _summary_rows(self) -> list[str]:
        """The newest rows of the summary that fit into its share of the window."""
        room = SUMMARY_SHARE * self._window_tokens * _CHARS_PER_TOKEN
        rows: list[str] = []
        for row in reversed(self._summary):
            room -= len(row)
            if room < 0:
                break
            rows.insert(0, row)
        return rows

    # --- compaction ---------------------------------------------------------------------------------------------

    def measure(self, prompt_tokens: int, messages: Sequence[Message]) -> None:
        """Learns from the provider's count how many tokens this run's text really takes."""
        guessed = estimate_prompt(messages)
        if guessed and prompt_tokens:
            self._tokens_ratio = max(self._tokens_ratio, prompt_tokens / guessed)

    def shrink(self) -> tuple[Message, ...]:
        """The messages, shortened after the provider refused them as too long.

        The window is smaller than they are, whatever the rules say. A replay shortens alike without knowing the window.
        Where all but the last output is short already, half of that is left out.
        """
        refused = estimate_prompt(self.messages())
        self._tokens_ratio *= 1.5
        self._window_tokens = min(self._window_tokens, refused)
        self.compact(kept=1)
        last = self._exchanges[-1] if self._exchanges else None
        if last is not None and last.cell is not None and estimate_prompt(self.messages()) > SHRUNK * refused:
            last.told = prompts.halved(last.told, last.cell)
        return self.messages()

    def compact(self, kept: int = _KEPT_EXCHANGES) -> None:
        """Above a share of the window old outputs become their first lines and a handle, then old turns a summary.

        The summary is made of the turns' own code and first lines of output, not by a model: it costs no call, cannot
        fail, and text from the context cannot argue its way into it.
        """
        if self._tokens() <= COMPACT_ABOVE * self._window_tokens:
            return
        self.compactions += 1
        for exchange in self._exchanges[:-kept]:
            if exchange.cell is not None and not exchange.is_short:
                exchange.told, exchange.is_short = prompts.shortened(exchange.told, exchange.cell), True
        while len(self._exchanges) > kept and self._tokens() > COMPACT_TO * self._window_tokens:
            dropped = self._exchanges.pop(0)
            self._summary += [dropped.row] if dropped.row else []

    def needs_summary(self, room_tokens: int | None) -> bool:
        """Whether the model has to sum the dialogue up, and can: the whole dialogue and a summary fit what is left."""
        tokens = self._tokens()
        too_long = tokens > COMPACT_ABOVE * self._window_tokens
        # What is asked for the summary must not be what the answer needs: a prompt as short as after it, and a reply.
        affords = room_tokens is None or room_tokens > _SUMMARY_COSTS * tokens
        return too_long and affords and len(self._exchanges) > _KEPT_EXCHANGES and tokens < self._window_tokens

    def with_request(self, text: str) -> tuple[Message, ...]:
        """The dialogue with a request that is not kept, after what is to be said next."""
        *before, last = self.messages()
        return (*before, Message(role="user", content=f"{last.content}\n\n{text}"))

    def take_summary(self, text: str) -> None:
        """Replaces all exchanges but the newest ones by the model's summary, cut to its share of the window."""
        self.compactions += 1
        self._own_summary = ellipsize(text.strip(), int(SUMMARY_SHARE * self._window_tokens * _CHARS_PER_TOKEN))
        self._summary = []
        del self._exchanges[:-_KEPT_EXCHANGES]
        for exchange in self._exchanges[:-1]:
            if exchange.cell is not None and not exchange.is_short:
                exchange.told, exchange.is_short = prompts.shortened(exchange.told, exchange.cell), True

    def _tokens(self) -> float:
        return estimate_prompt(self.messages()) * self._tokens_ratio + self._rules.reply_tokens


def row_of(turn: int, reply: Reply) -> str:
    """A reply in one line, for the summary: its first words and the first line of its code."""
    if not reply.blocks:
        return f"turn {turn}: {_first_line(reply.text)}"
    code = next((line for line in reply.blocks[0].split("\n") if line.strip() and not line.startswith("#")), "")
    words = _first_line(reply.prose)
    return f"turn {turn}: {words + ' | ' if words else ''}{_first_line(code)}"


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.split("\n") if line.strip()), "")
    return ellipsize(line, _MOST_ROW_CHARS)

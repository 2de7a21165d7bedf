"""The record of a run as chat examples: a line for each dialogue with a root model, and one for each sub-call.

A record holds the replies of models whole, but of the prompts only hashes and first characters. So the run is replayed
first, which asks no model and gives the messages that were sent. Where it cannot be replayed (its contexts are gone,
the record is damaged, the code did something else), the dialogue is put together from the record, and says so in
`exact`. A dialogue is one example with all its turns. A new one begins where the engine shortened it or began it again.

Every column has the same type in every line and is never null, as columnar readers infer types from the first lines.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from rlm_mcp.engine import cell_display
from rlm_mcp.engine.reply_schema import parse_schema
from rlm_mcp.engine.subcalls import compose
from rlm_mcp.errors import SchemaError
from rlm_mcp.records.events import Cell, Event, JsonMap, RootReply, RunEnded, RunStarted, SubReply, is_sound, to_json
from rlm_mcp.records.tape import TapedRequest
from rlm_mcp.redact import ellipsize
from rlm_mcp.repl.types import CellResult

Said = tuple[str, str]
"""A role and what was said in it."""

Example = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The score that a scorer gave the answer of a run. `scorer` is empty where there is none."""

    score: float = 0.0
    scorer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How a run or child run ended, as far as its record tells."""

    query: str = ""
    answer: str = ""
    status: str = ""
    stopped_by: str = ""
    citations: Sequence[JsonMap] = ()


@dataclass(slots=True, kw_only=True)
class _OpenChat:
    """A dialogue that may go on: what was said before the last reply, and all replies."""

    said: tuple[Said, ...]
    replies: list[RootReply]
    is_exact: bool


@dataclass(slots=True, kw_only=True)
class ChatExamples:
    """Makes the examples of one run and gives each to `write` as soon as it is complete.

    `hear` takes the requests of a replay. `finish` then adds what the replay did not come to.
    """

    events: Sequence[Event]
    answer: object
    """the stored answer, which the record may leave to a file"""
    score: Score
    mask: Callable[[str], str]
    """replaces secrets in a text"""
    write: Callable[[Example], None]
    run_id: str = ""
    _ends: dict[str, _End] = field(default_factory=dict)
    _open: dict[str, _OpenChat] = field(default_factory=dict)
    _turns: set[tuple[str, int]] = field(default_factory=set)
    _calls: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        started = next((event for event in self.events if isinstance(event, RunStarted)), None)
        self.run_id = "" if started is None else started.run_id
        self._ends = dict(_ends(self.events, self.answer))

    def hear(self, request: TapedRequest) -> None:
        """Takes the next request that the replay answers from the record."""
        match request.reply:
            case RootReply() as reply:
                self._add_turn(reply, request.messages, is_exact=request.is_as_sent)
            case SubReply() as reply if reply.key not in self._calls:
                self._write_call(reply, _composed(request), is_exact=True)

    def end(self, event: Event) -> None:
        """Writes the dialogue of a child run that has ended; other events change nothing."""
        if isinstance(event, RunEnded):
            self._close(event.path)

    def finish(self) -> None:
        """Writes the dialogues that are still open, and all turns and calls that were not heard, from the record."""
        for reply, said in _from_record(self.events):
            if isinstance(reply, SubReply):
                if reply.key not in self._calls:
                    whole = reply.prompt_chars == len(reply.prompt_head) and isinstance(reply.value, str)
                    self._write_call(reply, said, is_exact=whole)
            elif (reply.path, reply.turn) not in self._turns:
                self._add_turn(reply, said, is_exact=False)
        for path in list(self._open):
            self._close(path)

    def _add_turn(self, reply: RootReply, said: tuple[Said, ...], *, is_exact: bool) -> None:
        self._turns.add((reply.path, reply.turn))
        before = self._open.get(reply.path)
        if before is not None and before.is_exact == is_exact and _goes_on(before.said, said):
            before.said = said
            before.replies.append(reply)
            return
        self._close(reply.path)
        self._open[reply.path] = _OpenChat(said=said, replies=[reply], is_exact=is_exact)

    def _close(self, path: str) -> None:
        dialogue = self._open.pop(path, None)
        if dialogue is None or not dialogue.replies[-1].text.strip():
            return
        replies = dialogue.replies
        self._write(
            "child" if path else "root",
            replies[-1],
            [*dialogue.said, ("assistant", replies[-1].text)],
            usages=[reply.usage for reply in replies],
            seconds=sum(reply.seconds for reply in replies),
            is_exact=dialogue.is_exact,
        )

    def _write_call(self, reply: SubReply, said: tuple[Said, ...], *, is_exact: bool) -> None:
        self._calls.add(reply.key)
        answered = [*said, ("assistant", _text_of(reply.said()))]
        usages = [] if reply.usage is None else [reply.usage]
        self._write("sub", reply, answered, usages=usages, seconds=reply.seconds, is_exact=is_exact)

    def _write(
        self,
        kind: str,
        reply: RootReply | SubReply,
        said: Sequence[Said],
        *,
        usages: Sequence[JsonMap],
        seconds: float,
        is_exact: bool,
    ) -> None:
        end = self._ends.get(reply.path, _End())
        answer = _text_of(reply.said()) if isinstance(reply, SubReply) else end.answer
        costs = [usage.get("cost_usd") for usage in usages]
        self.write(
            {
                "run_id": self.run_id,
                "kind": kind,
                "path": reply.path,
                "turn": reply.turn,
                "model": reply.model or "",
                "exact": is_exact,
                "messages": [{"role": role, "content": self.mask(text)} for role, text in said],
                "query": self.mask(end.query),
                "answer": self.mask(answer),
                "status": end.status,
                "stopped_by": end.stopped_by,
                "citations": self.mask(json.dumps([] if kind == "sub" else list(end.citations), ensure_ascii=False)),
                "prompt_tokens": sum(int(_number(usage.get("prompt_tokens"))) for usage in usages),
                "completion_tokens": sum(int(_number(usage.get("completion_tokens"))) for usage in usages),
                "cost_usd": float(sum(_number(cost) for cost in costs)),
                "cost_known": all(_is_number(cost) for cost in costs),
                "seconds": round(float(seconds), 3),
                "score": float(self.score.score),
                "scorer": self.score.scorer,
            }
        )


def read_scores(lines: Iterable[str]) -> dict[str, Score]:
    """The scores in JSON Lines of {"run_id", "score", "scorer"}, by run. Raises ValueError."""
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not _is_number(score := row["score"]):
                raise ValueError(f"{ellipsize(repr(score), 60)} is no number")  # noqa: TRY301 - told with the line
            found[str(row["run_id"])] = Score(score=float(score), scorer=str(row.get("scorer") or "unnamed"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f'line {number} is no score: write {{"run_id": "run-…", "score": 0.5, "scorer": "…"}}'
            ) from error
    return found


def _goes_on(before: tuple[Said, ...], now: tuple[Said, ...]) -> bool:
    """Whether `now` is the dialogue `before` with a reply of the model and what was said to it."""
    at = len(before)
    return len(now) > at + 1 and now[at][0] == "assistant" and now[:at] == before


def _ends(events: Sequence[Event], answer: object) -> Iterator[tuple[str, _End]]:
    queries: dict[str, str] = {}
    for event in events:
        match event:
            case RunStarted():
                queries[""] = event.query
                yield "", _End(query=event.query, status="running")
            case RunEnded():
                given = answer if event.answer is None and not event.path else event.answer
                yield (
                    event.path,
                    _End(
                        query=queries.get(event.path, ""),
                        answer="" if given is None else _text_of(given),
                        status=event.status,
                        stopped_by=event.stopped_by or "",
                        citations=[one for one in event.citations if isinstance(one, Mapping)],
                    ),
                )
            case _ if query := getattr(event, "query", None):
                queries[event.path] = query
                yield event.path, _End(query=query, status="running")


def _from_record(events: Sequence[Event]) -> Iterator[tuple[RootReply | SubReply, tuple[Said, ...]]]:
    """Every reply with the messages before it, as far as the record tells: outputs of code are whole, prompts are not.

    The messages that a record has whole are those that stood alone (`told`), the first one among them.
    """
    said: dict[str, list[Said]] = {}
    outputs: dict[str, list[str]] = defaultdict(list)
    cells: dict[str, int] = defaultdict(int)
    queries = {path: end.query for path, end in _ends(events, None)}
    for event in events:
        match event:
            case RootReply():
                so_far = said.setdefault(event.path, [])
                if event.told or not so_far:
                    so_far[:] = [("user", event.told or queries.get(event.path, ""))]
                else:
                    so_far.append(("user", "\n\n".join(outputs[event.path])))
                yield event, tuple(so_far)
                so_far.append(("assistant", event.text))
                outputs[event.path].clear()
            case Cell():
                outputs[event.path].append(_shown(event, cells[event.path]))
                cells[event.path] += 1
            case SubReply(kind="llm"):
                yield event, (("user", event.prompt_head),)


def _shown(event: Cell, index: int) -> str:
    """The part of a block's result that the model was shown."""
    try:
        cell = CellResult.from_json(to_json(event))
    except ValueError:
        return "(The record of this block is damaged.)"
    return cell_display.observation(cell, "strong", index=index)


def _composed(request: TapedRequest) -> tuple[Said, ...]:
    """The messages of a sub-call."""
    try:
        schema = None if request.schema is None else parse_schema(request.schema)
    except SchemaError:  # then it had no reply either
        schema = None
    return tuple((message.role, message.content) for message in compose(request.prompt, request.material, schema))


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value in a record is a number that a program may have written: not NaN, nor one of 400 digits."""
    return type(value) in (int, float) and is_sound(value)


def _number(value: object) -> float:
    return value if _is_number(value) else 0
